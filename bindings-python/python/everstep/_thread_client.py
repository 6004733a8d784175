"""The client of threads: one dispatcher thread drains what nobody waits for, every other thread waits for its own token."""

from __future__ import annotations

import contextvars
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import _native
from ._errors_gen import Closed, InternalError, UnknownWorkflow
from ._failures import error_of
from ._ops_gen import EVENT_FAILED, EVENT_LOG, EVENT_RUN_READY, EVENT_SIGNAL, EVENT_STOP, OP_ABANDON
from ._scope import JOB, Execution

if TYPE_CHECKING:
    from ._engine import Engine

log = logging.getLogger("everstep")

#: Events of tokens from here on are kept for `wait` (core/src/protocol/client.rs).
FIRST_WAITED_TOKEN = 1 << 52
_SLICE_MS = 1_000


class _Workers:
    """Threads for runs: as many as are needed at once (a parked run keeps its thread and holds no slot), kept for a while when idle.

    Daemon threads: an exit of the interpreter must not wait for a step that takes an hour. `Engine.close` ends their waits first.
    """

    _IDLE_SECONDS = 10.0

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._work: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._idle = 0
        self._numbers = itertools.count(1)
        self._ended = False

    def run(self, function: Callable[..., None], *arguments: Any) -> None:
        item = (function, arguments)
        with self._condition:
            self._work.append(item)
            if self._idle >= len(self._work):
                self._condition.notify()
                return
        try:
            threading.Thread(target=self._loop, name=f"everstep-run-{next(self._numbers)}", daemon=True).start()
        except RuntimeError:
            # No more threads to be had. The caller is told so, and must not see it done later by a thread that becomes free; one may have it already.
            with self._condition:
                left = [other for other in self._work if other is not item]
                taken = len(left) == len(self._work)
                self._work = deque(left)
            if not taken:
                raise

    def end(self) -> None:
        with self._condition:
            self._ended = True
            self._condition.notify_all()

    def _loop(self) -> None:
        while True:
            with self._condition:
                if not self._work:
                    self._idle += 1
                    self._condition.wait_for(lambda: self._work or self._ended, self._IDLE_SECONDS)
                    self._idle -= 1
                    if not self._work:
                        return
                function, arguments = self._work.popleft()
            try:
                # A context of its own: what one run sets (a decimal precision, fields of a logger) is nothing to the next. Branches and steps bring theirs.
                contextvars.Context().run(function, *arguments)
            except Exception:
                log.exception("a worker thread failed")
            del function, arguments


class ThreadClient:
    def __init__(self, engine: Engine, handle: int) -> None:
        self.engine = engine
        self.handle = handle
        try:
            self.id = _native.attach(handle, False)
        except _native.NativeError as error:
            raise error_of(*error.args) from None
        self.workers = _Workers()
        self._tokens = itertools.count(FIRST_WAITED_TOKEN)
        self._quiet = itertools.count(1)
        self._dispatcher: threading.Thread | None = None

    def new_token(self) -> int:
        return next(self._tokens)

    def start(self) -> None:
        if self._dispatcher is None:
            self._dispatcher = threading.Thread(target=self._dispatch, name="everstep-dispatch", daemon=True)
            self._dispatcher.start()

    def end(self) -> None:
        self.workers.end()
        if self._dispatcher is not None and self._dispatcher is not threading.current_thread():
            self._dispatcher.join(1.0)

    # -- requests

    def submit(self, op: int, arguments: tuple[Any, ...]) -> int:
        token = next(self._tokens)
        try:
            _native.submit(self.handle, self.id, token, op, arguments)
        except _native.NativeError as error:
            raise error_of(*error.args) from None  # closed at this moment by another thread
        return token

    def submit_quietly(self, op: int, arguments: tuple[Any, ...]) -> None:
        """Nobody waits for the answer; the dispatcher logs a failure."""
        try:
            _native.submit(self.handle, self.id, next(self._quiet), op, arguments)
        except _native.NativeError as error:
            raise error_of(*error.args) from None

    def request(self, op: int, arguments: tuple[Any, ...], *, timeout_ms: int | None = None) -> tuple[Any, ...]:
        return self.completion(self.submit(op, arguments), timeout_ms=timeout_ms)

    def completion(self, token: int, *, timeout_ms: int | None = None) -> tuple[Any, ...]:
        """The answer to this token. On the main thread Python's signals are handled while it waits (the native side looks every 100 ms)."""
        end = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
        # Only the main thread handles signals; a thousand parked runs need not look ten times a second.
        interruptible = threading.current_thread() is threading.main_thread()
        try:
            while True:
                event = _native.wait(self.handle, self.id, token, _SLICE_MS, interruptible)
                if event is not None:
                    break
                if self.engine.closed or self.engine.handle != self.handle:
                    raise Closed("the engine was closed while this call waited; what was submitted may still take effect")
                if end is not None and time.monotonic() >= end:
                    raise InternalError("the engine did not answer in time")
        except BaseException:
            _native.cancel(self.handle, self.id, token)
            raise
        # Not in the try: there is nothing left to cancel of what was answered.
        if event[1] & 0xFF == EVENT_FAILED:
            raise error_of(*event[2][:2])
        return event[2]

    # -- events

    def _dispatch(self) -> None:
        while not self.engine.closed and self.engine.handle == self.handle:
            for token, kind, frame in _native.drain(self.handle, self.id, 256, _SLICE_MS):
                try:
                    self._event(token, kind & 0xFF, frame)
                except Exception:
                    log.exception("an event of the engine could not be handled")

    def _event(self, token: int, kind: int, frame: tuple[Any, ...]) -> None:
        if kind == EVENT_RUN_READY:
            self._run(token, frame)
        elif kind == EVENT_STOP:
            execution = self.engine.executions.pop(token, None)
            if execution is not None:
                self.stop_execution(execution, str(frame[0]))
        elif kind == EVENT_SIGNAL:
            execution = self.engine.executions.get(token)
            if execution is not None:
                execution.signal(frame)
                self._job_timed_out(execution)
        elif kind == EVENT_LOG:
            from ._logging import log_event

            log_event(*frame[:3])
        elif kind == EVENT_FAILED:
            log.error("%s", error_of(*frame[:2]))

    def _run(self, exec_id: int, frame: tuple[Any, ...]) -> None:
        from ._sync_runner import expect_signals, run

        function = self.engine.functions.get(frame[1])
        if function is None:
            self.engine.call(OP_ABANDON, (exec_id, UnknownWorkflow.code))
            return
        execution = Execution(self.engine, self, exec_id, frame, is_async=False)
        self.engine.executions[exec_id] = execution
        expect_signals(execution, function)
        try:
            self.workers.run(run, execution, function, frame[6] if len(frame) > 6 else None)
        except RuntimeError as error:
            log.error("run %s of %s is given back: %s", execution.run, execution.name, error)
            del self.engine.executions[exec_id]
            self.engine.call(OP_ABANDON, (exec_id, "no_thread"))

    def _job_timed_out(self, execution: Execution) -> None:
        job = execution.running.get(JOB)
        if job is not None and job.signal == "timeout":
            from ._sync_runner import timed_out

            # Not here: a `retry_if` is the program's own code.
            self.workers.run(timed_out, execution, self.engine.functions[execution.name])

    def stop_execution(self, execution: Execution, why: str) -> None:
        execution.stop(why)
