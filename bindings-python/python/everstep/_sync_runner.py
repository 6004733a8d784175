"""One execution of a sync function, on a thread of its own. The counterpart of `_async_runner`."""

from __future__ import annotations

import threading
from typing import Any

from ._async_runner import broken, cancelled, finished, unended
from ._calls import log, warn_after_stop
from ._error_base import EverstepError
from ._errors_gen import Closed, StepTimeout
from ._failures import Cancelled, Stopped
from ._ops_gen import OP_FINISH_RUN
from ._registered import Registered
from ._scope import JOB, SCOPE, Execution, RunningStep, Scope


def run(execution: Execution, function: Registered, data: bytes | None) -> None:
    client = execution.client
    fields: tuple[Any, ...]
    execution.owner.add(threading.get_ident())
    running = execution.running.get(JOB)
    if running is None and function.kind == "step":
        client.engine.executions.pop(execution.id, None)
        return  # `timed_out` before this thread was there
    reset = SCOPE.set(Scope(execution, "", 0, running))
    try:
        try:
            args, kwargs = function.signature.decode(data)
            value = function.function(*args, **kwargs)
            fields = finished(function, value, execution)
        except Stopped as error:
            if execution.stopped is not None:
                return
            # Raised by the program itself: without an end of its own, the run would wait for one until this process ends.
            fields = broken(function, RuntimeError(f"the function raised {error!r} without a stop"), execution, final=True)
        except Closed as error:
            if client.engine.closed:
                return
            fields = broken(function, error, execution)
        except Cancelled as error:
            fields = cancelled(function, error, execution, running)
        except BaseException as error:
            # SystemExit too: it ends nothing on a thread.
            if execution.stopped is not None:
                warn_after_stop(execution, f"a {type(error).__name__} raised", error)
                return
            fields = broken(function, error, execution)
        if execution.stopped is not None:
            warn_after_stop(execution, "the value it returned", None)
            return
        if running is not None and execution.running.pop(JOB, None) is None:
            return  # `timed_out` was first
        client.submit_quietly(OP_FINISH_RUN, (execution.id, *fields))
    except EverstepError as error:
        if not client.engine.closed:
            log.error("run %s of %s could not be ended here: %s", execution.run, execution.name, error)
    except Exception:
        unended(execution)
    finally:
        SCOPE.reset(reset)
        client.engine.executions.pop(execution.id, None)


def expect_signals(execution: Execution, function: Registered) -> None:
    """Before the thread is asked for, which may come late: a signal must not be lost meanwhile."""
    if function.kind == "step":
        execution.running[JOB] = RunningStep(function.name, 0, execution.attempt, execution.idempotency_key, None)


def timed_out(execution: Execution, function: Registered) -> None:
    """Of a job whose time is over: its end is told from here, for its thread may wait for a silent peer. What it does then counts for nothing."""
    if execution.running.pop(JOB, None) is not None:
        execution.stopped, execution.warned = "timeout", True  # as of a step in a workflow, nobody is warned of a late value
        fields = broken(function, StepTimeout(f"step {function.name!r} took too long"), execution)
        execution.client.submit_quietly(OP_FINISH_RUN, (execution.id, *fields))
