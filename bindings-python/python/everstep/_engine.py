"""One engine as Python sees it: its handle, its clients, its functions, its life. `Everstep` and `AsyncEverstep` are two views of one of these."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import difflib
import json
import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

from . import _native
from ._error_base import EverstepError
from ._errors_gen import AlreadyLaunched, AlreadyRegistered, Closed, ConfigInvalid, Forked, RegisteredLate, WrongLoop
from ._failures import DeclaredErrors, error_of
from ._loop_client import LoopClient
from ._ops_gen import OP_CONNECT, OP_DRAIN, OP_LAUNCH, OP_PUT_QUEUE, OP_REGISTER
from ._registered import Registered
from ._scope import SCOPE, Execution
from ._thread_client import ThreadClient

log = logging.getLogger("everstep")
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()

#: What an exit of the interpreter waits at most for a close that another thread is in the middle of.
_EXIT_BUDGET_S = 2.0
#: Limits of waiting runs where each of them holds a thread.
_PARKED_THREADS = 100
_RELEASE_THREADS_MS = 1_000
#: Files that were open, by device and number, when this process was forked from one with an engine.
_inherited: set[tuple[int, int]] = set()


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
        self.closed = False
        #: Of a close that has begun: which thread does it, and when it is over.
        self._closing: tuple[int, concurrent.futures.Future[None]] | None = None
        self._threads: ThreadClient | None = None
        self._home: LoopClient | None = None
        self._home_thread: threading.Thread | None = None
        self._loops: dict[asyncio.AbstractEventLoop, LoopClient] = {}

    # -- functions

    def register(self, function: Registered) -> None:
        with self._lock:
            self.check_open()
            known = self.functions.get(function.name)
            if known is not None:
                raise AlreadyRegistered(
                    f"the name {function.name!r} is taken by the {known.kind} declared at {known.where}; this one is declared at {function.where}. "
                    "Give this one another name=; declare functions once, at the top of a module, not in a request handler"
                )
            if self.launched:
                raise RegisteredLate(f"{function.name!r} was declared after launch; import the module that declares it first")
            if self.handle is not None:
                self._announce(function)
            self.functions[function.name] = function

    def check_open(self) -> None:
        if self.closed:
            raise Closed("this engine is closed; make a new one")

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
            self.check_open()
            if self.handle is None:
                self._refuse_inherited()
                try:
                    self.handle = _native.open(self._settings())
                except _native.NativeError as error:
                    raise error_of(*error.args) from None
                try:
                    for function in self.functions.values():
                        self._announce(function)
                except BaseException:
                    # The next launch is to be refused for the same reason, not to run with the functions before this one.
                    _native.close(self.handle, 0)
                    self._reset()
                    raise
            return self.handle

    def _refuse_inherited(self) -> None:
        """A child has its parent's SQLite in memory, with locks that only the parent holds: it would wait for ever for one that is never given back, or
        write to a log that the parent's close deletes."""
        if not _inherited:
            return
        database = self.config.get("database") or os.environ.get("EVERSTEP_DATABASE_URL") or "everstep.db"
        try:
            file = os.stat(database.removeprefix("sqlite:").removeprefix("//"))
        except (OSError, ValueError):
            return  # a server, or a file that is not there yet
        if (file.st_dev, file.st_ino) in _inherited:
            raise Forked(
                "this process was forked while its parent had this SQLite database open, and SQLite's locks do not outlive a fork: fork before "
                "anything uses the engine, start processes anew (multiprocessing's spawn or forkserver), or use PostgreSQL"
            )

    def _settings(self) -> str:
        config = dict(self.config)
        if any(function.kind == "workflow" and not function.is_async for function in self.functions.values()):
            # Each wait of these holds a thread, not a coroutine: fewer of them are kept, and given back sooner (semantics, "Waiting"). Async steps and
            # jobs say nothing about that, and one limit has to do for all.
            config.setdefault("max_parked", _PARKED_THREADS)
            config.setdefault("release_after_ms", _RELEASE_THREADS_MS)
        try:
            return json.dumps(config)
        except (TypeError, ValueError) as error:
            raise ConfigInvalid(f"settings are texts, numbers, booleans and lists of them: {error}") from None

    def _announce(self, function: Registered) -> None:
        if not function.startable:
            return
        client = self.home() if function.is_async else self.threads()
        options = dict(function.registration)
        if not function.is_async and "slots" not in self.config:
            # The engine lets what a registration says win, so whoever gave `slots=` must not be contradicted here.
            options["slots"] = 8 * (os.cpu_count() or 1)
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
                # Another thread's loop may be at it, too.
                gone = self._loops.pop(ended, None)
                if gone is not None:
                    _native.detach(handle, gone.id)
            client = self._loops[loop] = LoopClient(self, handle)
            client.bind(loop)
        return client

    def call(self, op: int, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        try:
            return _native.call(self.open(), op, arguments)
        except _native.NativeError as error:
            raise error_of(*error.args) from None

    # -- life

    @property
    def is_client(self) -> bool:
        return self.config.get("role") == "client"

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
            if not self.is_client:
                threads.start()
                if any(function.is_async for function in self.functions.values()):
                    self._start_home_thread()
            for queue in self.queues:
                threads.request(OP_PUT_QUEUE, (queue, False))
            self.connected(threads.request(OP_CONNECT if self.is_client else OP_LAUNCH, ()))
        except BaseException:
            self._give_up_launch()
            raise

    async def launch_async(self) -> None:
        self._before_launch()
        try:
            if not self.is_client:
                self.home().bind(asyncio.get_running_loop())
                self.threads().start()
            here = self.here()
            for queue in self.queues:
                await here.request(OP_PUT_QUEUE, (queue, False))
            self.connected(await here.request(OP_CONNECT if self.is_client else OP_LAUNCH, ()))
        except BaseException:
            await _off_the_loop(self._give_up_launch)
            raise

    def _give_up_launch(self) -> None:
        """A launch that failed may be tried again: the database was down, the password wrong. Not after a close that came meanwhile, which ends it."""
        with self._lock:
            if self._closing is not None:
                return
            handle, over = self.handle, self._close_begun()
        try:
            if handle is not None:
                self._end_handle(handle)
        finally:
            with self._lock:
                self._reset()
            over.set_result(None)

    def _close_begun(self) -> concurrent.futures.Future[None]:
        over = concurrent.futures.Future[None]()
        over.set_running_or_notify_cancel()  # who waits for it and is cancelled does not cancel it
        self._closing = (threading.get_ident(), over)
        return over

    def _closed_by_another(self) -> None:
        """After the wait for its end. Where that was a failed launch's, which may be tried again, it may not after this close."""
        with self._lock:
            self.closed = self.closed or self.handle is None

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

    def close(self, deadline_ms: int, wait: float | None = None) -> None:
        """Claim no more, let runs finish or park, hand the rest over, end every thread. `wait`: at most so long for a close that is under way."""
        handle, over = self._begin_close()
        if handle is None:
            if over is not None:
                concurrent.futures.wait((over,), wait)
                self._closed_by_another()
            return
        try:
            if self.launched and deadline_ms > 0:
                self.threads().request(OP_DRAIN, (deadline_ms,), timeout_ms=deadline_ms + 5_000)
        except EverstepError as error:
            log.warning("drain: %s", error)
        finally:
            # Ctrl-C too ends the drain, not the end that follows: runs owned by an engine that nobody can close any more would wait for this process's end.
            self._end(handle)

    async def close_async(self, deadline_ms: int) -> None:
        handle, over = self._begin_close()
        if handle is None:
            if over is not None:
                await asyncio.wrap_future(over)
                self._closed_by_another()
            return
        try:
            if self.launched and deadline_ms > 0:
                await self.here().request(OP_DRAIN, (deadline_ms,))
        except EverstepError as error:
            log.warning("drain: %s", error)
        finally:
            await _off_the_loop(self._end, handle)

    def _begin_close(self) -> tuple[int | None, concurrent.futures.Future[None] | None]:
        """The handle that the caller has to end; without one, the close to wait for, if there is another under way."""
        scope = SCOPE.get()
        if scope is not None and scope.execution.engine is self:
            raise ConfigInvalid("close() inside a run would wait for that run; close from outside")
        with self._lock:
            if self._closing is not None:
                thread, over = self._closing
                # A signal handler in the middle of its own thread's close would wait for itself; the tasks of a loop do not.
                return None, over if thread != threading.get_ident() or asyncio._get_running_loop() is not None else None
            if self.closed or self.handle is None or self.pid != os.getpid():
                self.closed = self.closed or self.handle is None
                return None, None
            return self.handle, self._close_begun()

    def _end(self, handle: int) -> None:
        try:
            self._end_handle(handle)
        finally:
            if self._closing is not None:
                self._closing[1].set_result(None)

    def _end_handle(self, handle: int) -> None:
        """Ends what uses the handle, then the handle. Readers leave their loops first: the number of a closed fd is soon another file's."""
        self.closed = True
        try:
            for execution in list(self.executions.values()):
                execution.client.stop_execution(execution, "closed")
            home = self._home
            if self._home_thread is not None and home is not None and home.loop is not None:
                home.loop.call_soon_threadsafe(home.loop.stop)
                self._home_thread.join(2.0)
            for client in [*self._loops.values(), *([home] if home is not None and self._home_thread is None else [])]:
                client.leave()
        finally:
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


def _off_the_loop(function: Callable[..., None], *args: Any) -> asyncio.Future[None]:
    """On a thread of its own, to its end even if the caller is cancelled: the loop's default executor may be full of the program's work, or shut down."""
    over = concurrent.futures.Future[None]()
    over.set_running_or_notify_cancel()

    def work() -> None:
        try:
            function(*args)
        except BaseException as error:
            over.set_exception(error)
        else:
            over.set_result(None)

    threading.Thread(target=work, name="everstep-close", daemon=True).start()
    return asyncio.wrap_future(over)


def _at_exit(reference: weakref.ref[Engine]) -> None:
    engine = reference()
    if engine is not None and not engine.closed and engine.pid == os.getpid():
        engine.close(0, _EXIT_BUDGET_S)


def forget_after_fork(engine: Engine) -> None:
    """The child has none of the engine's threads: it forgets the handle (dropping it would wait for them) and starts over unlaunched."""
    for execution in engine.executions.values():
        execution.stopped = "forked"
    engine.executions = {}
    engine._lock = threading.RLock()
    engine._reset()


def _in_child() -> None:
    engines = list(_engines)
    if any(engine.handle is not None for engine in engines):
        _inherited.update(_open_files())
    for engine in engines:
        forget_after_fork(engine)


def _open_files() -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    try:
        numbers = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        return found
    for number in numbers:
        try:
            file = os.fstat(number)
        except OSError:
            continue  # that of the listing itself
        found.add((file.st_dev, file.st_ino))
    return found


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
