"""Durable workflows on PostgreSQL or SQLite, in your own process.

Code outside steps runs again whenever a run resumes: after a crash, a deploy, or a long wait. Keep it free of effects. Never hold a transaction,
lock, file or connection across a wait: open it inside a step. Clean-up that must happen once belongs in a step.
"""

from __future__ import annotations

from . import _errors_gen
from ._app import Everstep
from ._async_app import AsyncEverstep
from ._error_base import EverstepError, RunError, SetupError, UsageError
from ._errors_gen import *  # noqa: F403
from ._failures import Cancelled, Stopped
from ._functions import AsyncReference, AsyncStep, AsyncWorkflow, Reference, Step, Workflow
from ._logging import ReplayFilter
from ._options import Dedup, Retry
from ._own_transaction import AsyncTransaction, Rows, Transaction
from ._run import AsyncRun, Run
from ._runs import Finished, Page, QueueInfo, RunInfo, StepInfo

__all__ = [
    "AsyncEverstep",
    "AsyncReference",
    "AsyncRun",
    "AsyncStep",
    "AsyncTransaction",
    "AsyncWorkflow",
    "Cancelled",
    "Dedup",
    "Everstep",
    "EverstepError",
    "Finished",
    "Page",
    "QueueInfo",
    "Reference",
    "ReplayFilter",
    "Retry",
    "Rows",
    "Run",
    "RunError",
    "RunInfo",
    "SetupError",
    "Step",
    "StepInfo",
    "Stopped",
    "Transaction",
    "UsageError",
    "Workflow",
]
__all__ += _errors_gen.__all__
