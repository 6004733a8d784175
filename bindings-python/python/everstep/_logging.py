"""Replay-aware logging: records carry run, step, attempt, replaying; while a run replays, records below WARNING are dropped.

A workflow's code between steps runs again on every resume; without this each resume repeats its lines.
"""

from __future__ import annotations

import logging

from ._scope import SCOPE

#: Messages of the engine itself.
engine_log = logging.getLogger("everstep")


class ReplayFilter(logging.Filter):
    """Adds `run`, `workflow`, `step`, `attempt`, `replaying` to records and drops replayed ones below `level`. Put it on your handlers, or use `app.logger`."""

    def __init__(self, level: int = logging.WARNING) -> None:
        super().__init__()
        self._level = level

    def filter(self, record: logging.LogRecord) -> bool:
        """For `logging`: fills the record in; False drops it."""
        scope = SCOPE.get()
        if scope is None:
            record.run = record.workflow = record.step = record.attempt = None
            record.replaying = False
            return True
        execution, step = scope.execution, scope.step
        record.run = execution.run
        record.workflow = execution.name
        record.step = None if step is None else step.name
        record.attempt = execution.attempt if step is None else step.attempt
        replaying = step is None and execution.replaying
        record.replaying = replaying
        return not (replaying and record.levelno < self._level)


def workflow_logger() -> logging.Logger:
    logger = logging.getLogger("everstep.workflow")
    if not any(isinstance(item, ReplayFilter) for item in logger.filters):
        logger.addFilter(ReplayFilter())
    return logger


_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "warn": logging.WARNING, "error": logging.ERROR}


def log_event(level: str, code: str, message: str) -> None:
    engine_log.log(_LEVELS.get(level, logging.INFO), "%s", message, extra={"code": code})
