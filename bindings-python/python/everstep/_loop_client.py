"""The client of one event loop: the wake fd in the loop's selector, one future a token, and the turns that put recorded completions in order."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from . import _native
from ._cancels import RunTask
from ._errors_gen import Closed, UnknownWorkflow
from ._failures import error_of
from ._ops_gen import EVENT_COMPLETED, EVENT_FAILED, EVENT_LOG, EVENT_RUN_READY, EVENT_SIGNAL, EVENT_STOP, OP_ABANDON, OP_TURN
from ._scope import Execution

if TYPE_CHECKING:
    from ._engine import Engine

log = logging.getLogger("everstep")

_TURN = 256
#: asyncio has no hook for "everything runnable has run". A task, the callback of its `gather`, and the task that awaits that take an iteration each;
#: two such layers fit.
_ITERATIONS_A_TURN = 6
_MAX = 4096


class LoopClient:
    def __init__(self, engine: Engine, handle: int) -> None:
        self.engine = engine
        self.handle = handle
        try:
            self.id = _native.attach(handle, True)
        except _native.NativeError as error:
            raise error_of(*error.args) from None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._fd: int | None = None
        self._pump: threading.Thread | None = None
        self._tokens = itertools.count(1)
        #: The future of each token, and the execution whose turn its event may ask for.
        self._pending: dict[int, tuple[asyncio.Future[tuple[Any, ...]], Execution | None]] = {}
        self._iteration = 0
        self._turns: deque[tuple[int, int]] = deque()

    def new_token(self) -> int:
        return next(self._tokens)

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.loop is loop:
            return
        self.loop = loop
        self._fd = _native.wake_fd(self.handle, self.id)
        if self._fd is not None:
            try:
                # Whatever follows from it, each run's task included, has a context of its own, not that of whoever used this loop first.
                contextvars.Context().run(loop.add_reader, self._fd, self._on_wake)
                return
            except NotImplementedError:
                self._fd = None
        # No fd, or a loop that cannot watch one: a thread drains and hands over.
        self._pump = threading.Thread(target=self._pump_events, name="everstep-drain", daemon=True)
        self._pump.start()

    def unbind(self) -> None:
        if self._fd is not None and self.loop is not None and not self.loop.is_closed():
            self.loop.remove_reader(self._fd)
        self._fd = None

    # -- requests

    def send(self, execution: Execution, op: int, arguments: tuple[Any, ...]) -> tuple[int, asyncio.Future[tuple[Any, ...]]]:
        """A submit of a run: its token, and its answer, which may ask for a turn of the execution. Who is cancelled while waiting forgets the token."""
        token = next(self._tokens)
        future = self.expect(token, execution)
        try:
            _native.submit(self.handle, self.id, token, op, arguments)
        except _native.NativeError as error:
            raise self._refused(token, error) from None
        return token, future

    async def ask(self, execution: Execution, op: int, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        token, future = self.send(execution, op, arguments)
        try:
            return await future
        except asyncio.CancelledError:
            self.forget(token)
            raise

    def submit_quietly(self, op: int, arguments: tuple[Any, ...]) -> None:
        """Nobody waits for the answer; a failure is logged."""
        try:
            _native.submit(self.handle, self.id, next(self._tokens), op, arguments)
        except _native.NativeError as error:
            raise error_of(*error.args) from None

    def _refused(self, token: int, error: _native.NativeError) -> Exception:
        """Closed at this moment by another thread. The `try` is at each submit: those of steps are without a call of their own."""
        self._pending.pop(token, None)
        return error_of(*error.args)

    def expect(self, token: int, execution: Execution | None) -> asyncio.Future[tuple[Any, ...]]:
        loop = self.loop
        if loop is None or self.engine.closed:
            raise Closed("the engine is closed")
        future: asyncio.Future[tuple[Any, ...]] = loop.create_future()
        self._pending[token] = (future, execution)
        return future

    async def completion(self, token: int, execution: Execution | None) -> tuple[Any, ...]:
        """The verdict of a token given to a `begin_*`."""
        try:
            return await self.expect(token, execution)
        except asyncio.CancelledError:
            self.forget(token)
            raise

    async def request(self, op: int, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.loop is not asyncio.get_running_loop():
            raise Closed("this client belongs to another event loop")
        token = next(self._tokens)
        future = self.expect(token, None)
        try:
            _native.submit(self.handle, self.id, token, op, arguments)
        except _native.NativeError as error:
            raise self._refused(token, error) from None
        try:
            return await future
        except asyncio.CancelledError:
            self.forget(token)
            raise

    def forget(self, token: int) -> None:
        """Who waited for it was cancelled."""
        entry = self._pending.get(token)
        if entry is None:
            return
        execution = entry[1]
        if execution is not None and execution.stopped is None:
            # Its answer is still taken, for nobody: it may ask for a turn, without which no later answer of this run is ever handed out.
            execution.given_up.add(token)
        else:
            self._drop(token)

    def ended(self, execution: Execution) -> None:
        """Nothing asks for the answers of this execution any more."""
        for token in (*execution.given_up, *execution.begun):
            self._drop(token)

    def _drop(self, token: int) -> None:
        if self._pending.pop(token, None) is not None and not self.engine.closed:
            _native.cancel(self.handle, self.id, token)

    def leave(self) -> None:
        """The engine is closed: on the loop's own thread the reader is removed, and whoever still waits hears it. Called from another thread."""
        loop = self.loop
        if loop is None or loop.is_closed() or not loop.is_running():
            self._fd = None
            return
        left = threading.Event()

        def leave() -> None:
            self.unbind()
            pending, self._pending = self._pending, {}
            for future, _ in pending.values():
                if not future.done():
                    future.set_exception(Closed("the engine was closed while this call waited; what was submitted may still take effect"))
            left.set()

        loop.call_soon_threadsafe(leave)
        left.wait(1.0)

    # -- events

    def _on_wake(self) -> None:
        # One drain a wake-up: what comes in meanwhile, or is more than this many, makes the fd readable again.
        _native.clear_wake(self.handle, self.id)
        self._take(_native.try_drain(self.handle, self.id, _MAX))

    def _pump_events(self) -> None:
        while not self.engine.closed:
            loop = self.loop
            if loop is None or loop.is_closed():
                return
            events = _native.drain(self.handle, self.id, _MAX, 100)
            if events and not loop.is_closed():
                loop.call_soon_threadsafe(self._take, events)

    def _take(self, events: list[tuple[int, int, tuple[Any, ...]]]) -> None:
        pending = self._pending
        for token, kind, frame in events:
            entry = pending.pop(token, None) if kind & 0xFF <= EVENT_FAILED else None
            if entry is not None:
                future, execution = entry
                if not future.done():
                    if kind & 0xFF == EVENT_COMPLETED:
                        future.set_result(frame)
                    else:
                        future.set_exception(error_of(*frame[:2]))
                if execution is not None:
                    if kind >= _TURN:
                        self.want_turn(execution)
                    if execution.given_up:
                        execution.given_up.discard(token)
                continue
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
                execution.stop(str(frame[0]))
        elif kind == EVENT_SIGNAL:
            execution = self.engine.executions.get(token)
            if execution is not None:
                execution.signal(frame)
        elif kind == EVENT_LOG:
            from ._logging import log_event

            log_event(*frame[:3])
        elif kind == EVENT_FAILED:
            log.error("%s", error_of(*frame[:2]))

    def _run(self, exec_id: int, frame: tuple[Any, ...]) -> None:
        from ._async_runner import run

        function = self.engine.functions.get(frame[1])
        if function is None or self.loop is None:
            self.engine.call(OP_ABANDON, (exec_id, UnknownWorkflow.code))
            return
        execution = Execution(self.engine, self, exec_id, frame, is_async=True)
        self.engine.executions[exec_id] = execution
        data = frame[6] if len(frame) > 6 else None
        execution.tasks.add(RunTask(run(execution, function, data), self.loop, execution.inside))

    def stop_execution(self, execution: Execution, why: str) -> None:
        """From any thread: tasks are cancelled on their own loop."""
        loop = self.loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(execution.stop, why)
        else:
            execution.stopped = why

    # -- turns

    def want_turn(self, execution: Execution) -> None:
        """One at a time an execution: two of its completions in one iteration would leave no room for the code between them."""
        if execution.turning:
            return
        execution.turning = True
        if not self._turns:
            assert self.loop is not None
            self.loop.call_soon(self._next_iteration)
        self._turns.append((self._iteration + _ITERATIONS_A_TURN, execution.id))

    def _next_iteration(self) -> None:
        self._iteration += 1
        turns = self._turns
        while turns and turns[0][0] <= self._iteration:
            self._turn(turns.popleft()[1])
        if turns:
            assert self.loop is not None
            self.loop.call_soon(self._next_iteration)

    def _turn(self, exec_id: int) -> None:
        execution = self.engine.executions.get(exec_id)
        if execution is None or self.engine.closed:
            return
        execution.turning = False
        try:
            more, *completion = _native.call(self.handle, OP_TURN, (exec_id,))
        except _native.NativeError as error:
            log.error("turn: %s", error_of(*error.args))
            return
        if completion:
            entry = self._pending.pop(completion[0], None)
            if entry is not None and not entry[0].done():
                entry[0].set_result(_native.unpack(completion[1]))
        if more:
            execution.turning = True
            self._turns.append((self._iteration + _ITERATIONS_A_TURN, exec_id))
