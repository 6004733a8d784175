"""One engine as Python sees it: its handle, its clients, its functions, its life. `Everstep` and `AsyncEverstep` are two views of one of these."""

from __future__ import annotations

import asyncio
import atexit
import difflib
import json
import logging
import os
import threading
import weakref
from typing import Any

from . import _native
from ._error_base import EverstepError
from ._errors_gen import AlreadyLaunched, AlreadyRegistered, Closed, ConfigInvalid, RegisteredLate, WrongLoop
from ._failures import DeclaredErrors, error_of
from ._loop_client import LoopClient
from ._ops_gen import OP_DRAIN, OP_LAUNCH, OP_REGISTER
from ._registered import Registered
from ._scope import SCOPE, Execution
from ._thread_client import ThreadClient

log = logging.getLogger("everstep")
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()

#: What an exit of the interpreter without `close` waits for at most.
EXIT_BUDGET_MS = 2_000


class Engine:
    def __init__(self, config: dict[str, Any], *, strict: bool) -> None:
        self.config = {key: value for key, value in config.items() if value is not None}
        self.strict = strict
        self.declared = DeclaredErrors()
        self.functions: dict[str, Registered] = {}
        self.executions: dict[int, Execution] = {}
        #: Records of the queues declared here, made at launch.
        self.queues: list[tuple[Any, ...]] = []
        self._lock = threading.RLock()
        self._reset()
        _engines.add(self)

    def _reset(self) -> None:
        self.pid = os.getpid()
        self.handle: int | None = None
        self.launched = False
        self._warned_unlaunched = False
        self.closing = False
        self.closed = False
        self._threads: ThreadClient | None = None
        self._home: LoopClient | None = None
        self._home_thread: threading.Thread | None = None
        self._loops: dict[asyncio.AbstractEventLoop, LoopClient] = {}

    # -- functions

    def register(self, function: Registered) -> None:
        with self._lock:
            known = self.functions.get(function.name)
            if known is not None:
                raise AlreadyRegistered(f"the name {function.name!r} is taken by {known.where}; give this one another: name=")
            if self.launched:
                raise RegisteredLate(f"{function.name!r} was declared after launch; import the module that declares it first")
            self.functions[function.name] = function
            if self.handle is not None:
                self._announce(function)

    def nearest(self, name: str) -> str:
        close = difflib.get_close_matches(name, self.functions, n=1)
        return f" Did you mean {close[0]!r}?" if close else ""

    # -- the handle

    def open(self) -> int:
        """The handle, opened on first use: importing a program opens nothing, so a forked child opens its own."""
        handle = self.handle
        if handle is not None and not self.closed and self.pid == os.getpid():
            return handle
        with self._lock:
            if self.pid != os.getpid():
                forget_after_fork(self)
            if self.closed:
                raise Closed("this engine is closed; make a new one")
            if self.handle is None:
                try:
                    self.handle = _native.open(self._settings())
                    for function in self.functions.values():
                        self._announce(function)
                except _native.NativeError as error:
                    raise error_of(*error.args) from None
            return self.handle

    def _settings(self) -> str:
        try:
            return json.dumps(self.config)
        except (TypeError, ValueError) as error:
            raise ConfigInvalid(f"settings are texts, numbers, booleans and lists of them: {error}") from None

    def _announce(self, function: Registered) -> None:
        if not function.startable:
            return
        client = self.home() if function.is_async else self.threads()
        options = dict(function.registration)
        if not function.is_async:
            options.setdefault("slots", 8 * (os.cpu_count() or 1))
        self.call(OP_REGISTER, (client.id, function.kind, function.name, function.version, json.dumps(options)))

    def threads(self) -> ThreadClient:
        """The client of every thread without a loop."""
        if self._threads is None or self.closed:
            handle = self.open()
            with self._lock:
                if self._threads is None:
                    self._threads = ThreadClient(self, handle)
        return self._threads

    def home(self) -> LoopClient:
        """The client that async functions run on."""
        if self._home is None:
            handle = self.open()
            with self._lock:
                if self._home is None:
                    self._home = LoopClient(self, handle)
        return self._home

    def here(self) -> LoopClient:
        """The client of the running loop."""
        loop = asyncio.get_running_loop()
        handle = self.open()
        home = self._home
        if home is not None and home.loop is not None and home.loop.is_closed() and any(function.is_async for function in self.functions.values()):
            # Async runs are still claimed for that loop: whoever awaits one would wait until this process ends.
            raise WrongLoop("the event loop this engine was launched on has ended without close(); launch, use and close it in one loop: `async with app:`")
        if self._home is not None and self._home.loop is loop:
            return self._home
        client = self._loops.get(loop)
        if client is None:
            for ended in [other for other in self._loops if other.is_closed()]:
                del self._loops[ended]
            client = self._loops[loop] = LoopClient(self, handle)
            client.bind(loop)
        return client

    def call(self, op: int, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        try:
            return _native.call(self.open(), op, arguments)
        except _native.NativeError as error:
            raise error_of(*error.args) from None

    # -- life

    def _before_launch(self) -> None:
        with self._lock:
            self.open()
            if self.launched:
                raise AlreadyLaunched("launch was called twice")
            for function in self.functions.values():
                function.signature.prepare()
            self.launched = True
        atexit.register(_at_exit, weakref.ref(self))

    def connected(self, answer: tuple[Any, ...]) -> None:
        notice = answer[0] if answer else None
        held = answer[1] if len(answer) > 1 else None
        if notice:
            # Shown without any configuration of logging: whoever named no database learns where the runs are.
            log.warning("%s", notice)
        if held:
            log.warning("%s", held)

    def launch(self) -> None:
        self._before_launch()
        try:
            threads = self.threads()
            threads.start()
            if any(function.is_async for function in self.functions.values()):
                self._start_home_thread()
            self.connected(threads.request(OP_LAUNCH, ()))
        except BaseException:
            self._give_up_launch()
            raise

    async def launch_async(self) -> None:
        self._before_launch()
        try:
            self.home().bind(asyncio.get_running_loop())
            self.threads().start()
            self.connected(await self.home().request(OP_LAUNCH, ()))
        except BaseException:
            await asyncio.get_running_loop().run_in_executor(None, self._give_up_launch)
            raise

    def _give_up_launch(self) -> None:
        """A launch that failed may be tried again: the database was down, the password wrong."""
        if self.handle is not None:
            self._end(self.handle)
        self._reset()

    def _start_home_thread(self) -> None:
        loop = asyncio.new_event_loop()
        home = self.home()
        ready = threading.Event()

        def run() -> None:
            asyncio.set_event_loop(loop)
            home.bind(loop)
            ready.set()
            try:
                _run_until_stopped(loop)
                # What was cancelled gets to its `finally` blocks; what does not end is left behind.
                rest = asyncio.all_tasks(loop)
                for task in rest:
                    task.cancel()
                if rest:
                    loop.run_until_complete(asyncio.wait(rest, timeout=1.0))
            finally:
                home.unbind()
                loop.close()

        self._home_thread = threading.Thread(target=run, name="everstep-loop", daemon=True)
        self._home_thread.start()
        ready.wait()

    def close(self, deadline_ms: int) -> None:
        """Claim no more, let runs finish or park, hand the rest over, end every thread."""
        self._close_from_outside()
        with self._lock:
            if self.closed or self.handle is None or self.pid != os.getpid():
                self.closed = self.closed or self.handle is None
                return
            if self.closing:
                return
            self.closing = True
            handle = self.handle
        if self.launched and deadline_ms > 0:
            try:
                self.threads().request(OP_DRAIN, (deadline_ms,), timeout_ms=deadline_ms + 5_000)
            except EverstepError as error:
                log.warning("drain: %s", error)
        self._end(handle)

    def _close_from_outside(self) -> None:
        scope = SCOPE.get()
        if scope is not None and scope.execution.engine is self:
            raise ConfigInvalid("close() inside a run would wait for that run; close from outside")

    async def close_async(self, deadline_ms: int) -> None:
        self._close_from_outside()
        with self._lock:
            if self.closed or self.handle is None or self.pid != os.getpid():
                self.closed = self.closed or self.handle is None
                return
            if self.closing:
                return
            self.closing = True
            handle = self.handle
        if self.launched and deadline_ms > 0:
            try:
                await self.here().request(OP_DRAIN, (deadline_ms,))
            except EverstepError as error:
                log.warning("drain: %s", error)
        await asyncio.get_running_loop().run_in_executor(None, self._end, handle)

    def _end(self, handle: int) -> None:
        """Ends what uses the handle, then the handle. Readers leave their loops first: the number of a closed fd is soon another file's."""
        self.closed = True
        for execution in list(self.executions.values()):
            execution.client.stop_execution(execution, "closed")
        home = self._home
        if self._home_thread is not None and home is not None and home.loop is not None:
            home.loop.call_soon_threadsafe(home.loop.stop)
            self._home_thread.join(2.0)
        for client in [*self._loops.values(), *([home] if home is not None and self._home_thread is None else [])]:
            client.leave()
        _native.close(handle, 1_000)
        if self._threads is not None:
            self._threads.end()

    def warn_unlaunched(self) -> None:
        """Said before a wait that nothing here will end; another worker may."""
        if not self.launched and self.config.get("role") == "worker" and not self._warned_unlaunched:
            self._warned_unlaunched = True
            log.warning("waiting for a run on an engine that is not launched: unless another worker runs it, call launch() or use `with app:`")


def _run_until_stopped(loop: asyncio.AbstractEventLoop) -> None:
    """A task of the user's that raises SystemExit breaks out of `run_forever`; every other run on this loop goes on."""
    while True:
        try:
            return loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:
            log.error("a task raised %s, which ends nothing here", type(error).__name__)


def _at_exit(reference: weakref.ref[Engine]) -> None:
    engine = reference()
    if engine is not None and not engine.closed and engine.pid == os.getpid():
        engine.close(0)


def forget_after_fork(engine: Engine) -> None:
    """The child has none of the engine's threads: it forgets the handle (dropping it would wait for them) and starts over unlaunched."""
    for execution in engine.executions.values():
        execution.stopped = "forked"
    engine.executions = {}
    engine._lock = threading.RLock()
    engine._reset()


def _in_child() -> None:
    for engine in list(_engines):
        forget_after_fork(engine)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
