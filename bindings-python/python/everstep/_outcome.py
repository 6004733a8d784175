"""How one attempt of a step ended, as `finish_step` says it."""

from __future__ import annotations

from typing import Any

from . import _codec
from ._errors_gen import PayloadInvalid, StepTimeout
from ._failures import Failure
from ._registered import Registered
from ._scope import Execution, RunningStep


class Outcome:
    """`fields`: failed, output, retryable, error_type, error_message, stopped."""

    __slots__ = ("error", "fields", "output", "value")

    def __init__(self, output: bytes, value: Any, fields: tuple[Any, ...], error: BaseException | None = None) -> None:
        self.output = output
        self.value = value
        self.fields = fields
        self.error = error


#: Cut short by a stop or a cancel: nothing is recorded.
CUT_SHORT = Outcome(b"", None, (False, b"", False, None, None, True))


def returned(function: Registered, value: Any, execution: Execution) -> Outcome:
    try:
        output = _codec.encode(value)
    except PayloadInvalid as error:
        return raised(function, PayloadInvalid(f"result of step {function.name!r}: {error.message}"), execution, final=True)
    return Outcome(output, value, (False, output))


def raised(function: Registered, error: BaseException, execution: Execution, *, final: bool = False) -> Outcome:
    retryable = not final and function.retryable(error)
    failure = Failure.of(error, execution.engine.declared, retryable=retryable)
    output = failure.encode()
    return Outcome(output, None, (True, output, retryable, failure.type[:255], failure.message[:1000], False), error)


def cut_short(function: Registered, running: RunningStep, execution: Execution) -> Outcome:
    """Of an attempt that a signal has ended."""
    return timed_out(function, execution) if running.signal == "timeout" else CUT_SHORT


def timed_out(function: Registered, execution: Execution) -> Outcome:
    limit = (function.policy or (None,) * 7)[5]
    return raised(function, StepTimeout(f"step {function.name!r} took longer than {limit} ms"), execution)
