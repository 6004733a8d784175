"""Handles of runs: `Run` for threads, `AsyncRun` for coroutines. Inside a workflow `result()` is a recorded wait."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from . import _async_calls, _clock, _codec, _sync_calls
from ._calls import begin, blocking_allowed
from ._error_base import RunError
from ._errors_gen import ConfigInvalid, ResultTimeout, RunBlocked, RunNotFound
from ._failures import Failure
from ._ops_gen import (
    OP_AWAIT_RESULT,
    OP_CANCEL_RUN,
    OP_GET_EVENT,
    OP_GET_RUN,
    OP_LIST_STEPS,
    OP_RESUME_RUN,
    OP_RETRY_RUN,
    OP_REWIND_RUN,
    OP_SEND,
)
from ._options import flag, whole, words
from ._runs import CancelOutcome, ResumeOutcome, RunInfo, StepInfo, run_info, step_info
from ._scope import location
from ._starting import Target, outcome, parent_scope

if TYPE_CHECKING:
    from ._engine import Engine

T = TypeVar("T")
E = TypeVar("E", bound=Exception)
R = TypeVar("R", covariant=True)
_PAGE = 500


class Handle:
    def __init__(self, engine: Engine, key: str, target: Target | None, *, id: str | None = None, attached: bool = False) -> None:
        self._engine = engine
        self._target = target
        #: The run's key, a uuid.
        self.key = key
        #: The id it was started with, if any.
        self.id = id
        #: True when the run existed before this start.
        self.attached = attached

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id or self.key}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)

    def _await_arguments(self, timeout: dt.timedelta | None) -> tuple[int, tuple[Any, ...]]:
        self._engine.warn_unlaunched()
        return OP_AWAIT_RESULT, (self.key, _clock.limit_ms(timeout))

    def _outcome(self, answer: tuple[Any, ...]) -> Any:
        return outcome(self._engine, self._target, self.key, answer)

    def _child_outcome(self, failed: bool, value: bytes | None) -> Any:
        if not failed:
            return self._outcome(("succeeded", value))
        failure = Failure.read(value)
        if failure.code in (ResultTimeout.code, RunNotFound.code, RunBlocked.code):
            raise self._about(failure.exception(self._engine.declared))
        raise failure.of_run(self.key, self._engine.declared)

    def _missing(self) -> RunNotFound:
        """By the name the program knows; the engine knows the key only."""
        return RunNotFound(f"there is no run {self.id or self.key}", run=self.key)

    def _about(self, error: E) -> E:
        """Whoever waits for many runs in one place sees which of them an error is about."""
        if isinstance(error, RunError) and error.run is None:
            error.run = self.key
        return error

    def _cancel_arguments(self, by: str | None, why: str | None) -> tuple[Any, ...]:
        return self.key, words("by", by), words("why", why)

    def _rewind_arguments(self, seq: int, branch: str, by: str | None, new_effects: bool) -> tuple[Any, ...]:
        flag("new_effects", new_effects)
        if branch is None:  # pyright: ignore[reportUnnecessaryComparison]
            raise ConfigInvalid('branch is a str, "" for the workflow\'s own, not None')
        return self.key, words("branch", branch), whole("seq", seq), words("by", by), new_effects

    def _info(self, answer: tuple[Any, ...]) -> RunInfo:
        if not answer or answer[0] is None:
            raise self._missing()
        return run_info(answer[0])


class Run(Handle, Generic[R]):
    """A run, seen from a thread."""

    def result(self, timeout: dt.timedelta | None = None) -> R:
        """Waits for the end. Raises `RunFailed`, `RunCancelled`, `RunBlocked`, or `ResultTimeout` with what it waits for."""
        scope = parent_scope(self._engine, "run.result()")
        if scope is not None:
            op, rest = _clock.result(self.key, timeout, location())
            _sync_calls.check_thread(scope, "run.result()")
            return self._child_outcome(*_sync_calls.settled(scope.execution, *begin(scope, op, rest)))
        blocking_allowed("run.result()", "`await run.aio.result()`")
        op, arguments = self._await_arguments(timeout)
        return self._outcome(self._ask(op, *arguments))

    def _ask(self, op: int, *arguments: Any) -> tuple[Any, ...]:
        blocking_allowed("this call", "the handle's .aio")
        try:
            return self._engine.threads().request(op, arguments)
        except RunNotFound:
            raise self._missing() from None
        except RunError as error:
            raise self._about(error) from None

    def status(self) -> RunInfo:
        """The run as the database has it now, with what it waits for."""
        return self._info(self._ask(OP_GET_RUN, self.key))

    def steps(self) -> list[StepInfo]:
        """Every recorded call, in order of position."""
        out: list[StepInfo] = []
        after: str | None = None
        while True:
            steps, after, *_ = (*self._ask(OP_LIST_STEPS, self.key, after, _PAGE), None)
            out += [step_info(step) for step in steps]
            if after is None:
                return out

    def cancel(self, *, by: str | None = None, why: str | None = None) -> CancelOutcome:
        """Asks the run to cancel; `by` and `why` are shown in its status. "cancelled": it had not begun and is; "requested": its workflow sees it at its
        next call, and may clean up; "already_finished"."""
        return self._ask(OP_CANCEL_RUN, *self._cancel_arguments(by, why))[0]

    def resume(self, *, by: str | None = None) -> ResumeOutcome:
        """A blocked or cancelled run goes on."""
        return self._ask(OP_RESUME_RUN, self.key, words("by", by))[0]

    def retry(self, *, by: str | None = None) -> ResumeOutcome:
        """A failed run goes on at the step that failed."""
        return self._ask(OP_RETRY_RUN, self.key, words("by", by))[0]

    def rewind(self, seq: int, *, branch: str = "", by: str | None = None, new_effects: bool = False) -> ResumeOutcome:
        """Forgets the step at this position and everything completed since. Idempotency keys stay as they were, so the other side takes a repeated
        call for the one it knows; with `new_effects` they are new, as are messages sent and children started again."""
        return self._ask(OP_REWIND_RUN, *self._rewind_arguments(seq, branch, by, new_effects))[0]

    def send(self, topic: str, message: Any, *, idempotency_key: str | None = None) -> None:
        """A message to this run, kept until it is received; with an `idempotency_key` it arrives once, however often it is sent. Inside a workflow the
        send is recorded."""
        scope = parent_scope(self._engine, "run.send()")
        if scope is not None:
            _sync_calls.call(scope, *_clock.send(self.key, topic, message, idempotency_key, location()))
            return
        self._ask(OP_SEND, self.key, _clock.text("the topic", topic), _codec.encode(message), _clock.message_key(idempotency_key))

    @overload
    def get_event(self, key: str, *, timeout: dt.timedelta | None = None) -> Any: ...
    @overload
    def get_event(self, key: str, *, timeout: dt.timedelta | None = None, returns: type[T]) -> T | None: ...
    def get_event(self, key: str, *, timeout: dt.timedelta | None = None, returns: Any = Any) -> Any:
        """Waits for an event the run publishes; None when the time is over or the run has ended without it, and where the event's value is None."""
        scope = parent_scope(self._engine, "run.get_event()")
        if scope is not None:
            return _clock.read(_sync_calls.call(scope, *_clock.event(self.key, key, timeout, location())), returns)
        return _clock.read(self._ask(OP_GET_EVENT, self.key, _clock.text("the key of an event", key), _clock.limit_ms(timeout))[0], returns)

    @property
    def aio(self) -> AsyncRun[R]:
        """The same run for coroutines."""
        return AsyncRun(self._engine, self.key, self._target, id=self.id, attached=self.attached)


class AsyncRun(Handle, Generic[R]):
    """A run, seen from a coroutine."""

    async def result(self, timeout: dt.timedelta | None = None) -> R:
        """Waits for the end. Raises `RunFailed`, `RunCancelled`, `RunBlocked`, or `ResultTimeout` with what it waits for."""
        scope = parent_scope(self._engine, "run.result()")
        if scope is not None:
            op, rest = _clock.result(self.key, timeout, location())
            return self._child_outcome(*await _async_calls.settled(scope.execution, *begin(scope, op, rest)))
        op, arguments = self._await_arguments(timeout)
        return self._outcome(await self._ask(op, *arguments))

    async def _ask(self, op: int, *arguments: Any) -> tuple[Any, ...]:
        try:
            return await self._engine.here().request(op, arguments)
        except RunNotFound:
            raise self._missing() from None
        except RunError as error:
            raise self._about(error) from None

    async def status(self) -> RunInfo:
        """The run as the database has it now, with what it waits for."""
        return self._info(await self._ask(OP_GET_RUN, self.key))

    async def steps(self) -> list[StepInfo]:
        """Every recorded call, in order of position."""
        out: list[StepInfo] = []
        after: str | None = None
        while True:
            steps, after, *_ = (*await self._ask(OP_LIST_STEPS, self.key, after, _PAGE), None)
            out += [step_info(step) for step in steps]
            if after is None:
                return out

    async def cancel(self, *, by: str | None = None, why: str | None = None) -> CancelOutcome:
        """Asks the run to cancel; `by` and `why` are shown in its status. "cancelled": it had not begun and is; "requested": its workflow sees it at its
        next call, and may clean up; "already_finished"."""
        return (await self._ask(OP_CANCEL_RUN, *self._cancel_arguments(by, why)))[0]

    async def resume(self, *, by: str | None = None) -> ResumeOutcome:
        """A blocked or cancelled run goes on."""
        return (await self._ask(OP_RESUME_RUN, self.key, words("by", by)))[0]

    async def retry(self, *, by: str | None = None) -> ResumeOutcome:
        """A failed run goes on at the step that failed."""
        return (await self._ask(OP_RETRY_RUN, self.key, words("by", by)))[0]

    async def rewind(self, seq: int, *, branch: str = "", by: str | None = None, new_effects: bool = False) -> ResumeOutcome:
        """Forgets the step at this position and everything completed since. Idempotency keys stay as they were, so the other side takes a repeated
        call for the one it knows; with `new_effects` they are new, as are messages sent and children started again."""
        return (await self._ask(OP_REWIND_RUN, *self._rewind_arguments(seq, branch, by, new_effects)))[0]

    async def send(self, topic: str, message: Any, *, idempotency_key: str | None = None) -> None:
        """A message to this run, kept until it is received; with an `idempotency_key` it arrives once, however often it is sent. Inside a workflow the
        send is recorded."""
        scope = parent_scope(self._engine, "run.send()")
        if scope is not None:
            await _async_calls.call(scope, *_clock.send(self.key, topic, message, idempotency_key, location()))
            return
        await self._ask(OP_SEND, self.key, _clock.text("the topic", topic), _codec.encode(message), _clock.message_key(idempotency_key))

    @overload
    async def get_event(self, key: str, *, timeout: dt.timedelta | None = None) -> Any: ...
    @overload
    async def get_event(self, key: str, *, timeout: dt.timedelta | None = None, returns: type[T]) -> T | None: ...
    async def get_event(self, key: str, *, timeout: dt.timedelta | None = None, returns: Any = Any) -> Any:
        """Waits for an event the run publishes; None when the time is over or the run has ended without it, and where the event's value is None."""
        scope = parent_scope(self._engine, "run.get_event()")
        if scope is not None:
            return _clock.read(await _async_calls.call(scope, *_clock.event(self.key, key, timeout, location())), returns)
        return _clock.read((await self._ask(OP_GET_EVENT, self.key, _clock.text("the key of an event", key), _clock.limit_ms(timeout)))[0], returns)

    @property
    def sync(self) -> Run[R]:
        """The same run for threads."""
        return Run(self._engine, self.key, self._target, id=self.id, attached=self.attached)
