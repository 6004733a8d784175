"""`AsyncEverstep`: the engine for asyncio."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

from . import _async_calls, _clock, _codec, _groups
from ._app_base import GRACE, Base, handle_of, inline_step, run_key
from ._calls import scope_in_workflow
from ._decorators import AsyncWorkflowDecorator, StepDecorator, TransactionDecorator
from ._functions import AsyncReference, AsyncStep, AsyncWorkflow, Step
from ._ops_gen import OP_ADOPT, OP_LIST_QUEUES, OP_LIST_RUNS, OP_MIGRATE, OP_PAUSE_QUEUE, OP_PUT_QUEUE
from ._options import Named, Retry, text
from ._own_transaction import AsyncTransaction, Transaction
from ._run import AsyncRun
from ._runs import Page, QueueInfo, RunInfo, State, filter_record, queue_info, run_info
from ._scope import location
from ._serving import asked_to_stop_async
from ._starting import foreign, parent_scope
from ._times import from_microseconds
from ._tx_sources import Isolation

if TYPE_CHECKING:
    from ._app import Everstep

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
T = TypeVar("T")
Item = TypeVar("Item")


async def _done(coroutine: Coroutine[Any, Any, bytes | None]) -> None:
    await coroutine


async def _read(coroutine: Coroutine[Any, Any, bytes | None], returns: Any) -> Any:
    return _clock.read(await coroutine, returns)


async def _time(coroutine: Coroutine[Any, Any, bytes | None]) -> dt.datetime:
    return from_microseconds(_codec.decode(await coroutine or b"0"))


class AsyncEverstep(Base):
    """A durable-workflow engine inside this process, for asyncio.

    Making one connects nothing and starts no thread; `await launch()` or `async with app:` does, on the running loop. Sync workflows run on threads;
    `app.sync` has the verbs for them.
    """

    @property
    def sync(self) -> Everstep:
        """The same engine for threads."""
        from ._app import Everstep

        return Everstep._view(self._engine)

    # -- life

    async def launch(self) -> None:
        """Connects, claims, runs. A client only connects."""
        await self._engine.launch_async()

    async def close(self, grace: dt.timedelta = GRACE) -> None:
        """Claims no more, lets runs finish or park, hands the rest over."""
        await self._engine.close_async(_clock.limit_ms(grace) or 0)

    async def serve(self, grace: dt.timedelta = GRACE) -> None:
        """For a process that is nothing but a worker: launches, works until SIGTERM or SIGINT, then closes with this grace. A second signal cuts the
        drain short. On the main thread's loop only."""
        launched = False
        try:
            with asked_to_stop_async() as asked:
                await self.launch()
                launched = True
                await asked.wait()
        finally:
            # A launch that failed may be tried again.
            if launched:
                await self.close(grace)

    async def __aenter__(self) -> AsyncEverstep:
        await self.launch()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def migrate(self) -> int:
        """Brings the schema to this library's version."""
        return (await self._ask(OP_MIGRATE))[0]

    async def adopt(self) -> None:
        """Stamps this environment and this database: a copied database may run from now on."""
        await self._ask(OP_ADOPT)

    async def _ask(self, op: int, *arguments: Any) -> tuple[Any, ...]:
        return await self._engine.here().request(op, arguments)

    # -- declarations

    @overload
    def step(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncStep[P, R]: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    @overload
    def step(self, function: Callable[P, R], /) -> Step[P, R]: ...
    @overload
    def step(
        self, function: None = None, /, *, name: str | None = None, retry: Retry | None = None, timeout: dt.timedelta | None = None, at_most_once: bool = False
    ) -> StepDecorator: ...
    def step(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: dt.timedelta | None = None,
        at_most_once: bool = False,
    ) -> Any:
        """Declares a step: its outcome is recorded before the next one starts, and a recorded step never runs again.

        `retry`: attempts after a failure, each a row; without one there is a single attempt, and a failure is raised in the workflow. `timeout`: of one
        attempt; it ends with `StepTimeout`, which a policy retries like any failure. A sync function is not torn away by it: its thread goes on, and what it
        returns counts for nothing; `app.cancel_requested()` tells it. `at_most_once`: the attempt is recorded first; after a crash the workflow gets
        `StepInterrupted` and decides.
        """

        def declare(function: Callable[..., Any]) -> Any:
            return self._declare_step(function, name, retry, timeout, at_most_once)

        return declare if function is None else declare(function)

    @overload
    def transaction(self, function: Callable[Concatenate[AsyncTransaction, P], Coroutine[Any, Any, R]], /) -> AsyncStep[P, R]: ...  # pyright: ignore[reportOverlappingOverload]
    @overload
    def transaction(self, function: Callable[Concatenate[Transaction, P], R], /) -> Step[P, R]: ...
    @overload
    def transaction(
        self,
        source: Any = None,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: dt.timedelta | None = None,
        isolation: Isolation | None = None,
    ) -> TransactionDecorator: ...
    def transaction(
        self,
        source: Any = None,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: dt.timedelta | None = None,
        isolation: Isolation | None = None,
    ) -> Any:
        """Declares a step whose rows and checkpoint commit together or not at all.

        `source`: a psycopg 3 or asyncpg pool, a SQLAlchemy 2 engine or session factory, or a connection factory, on the engine's database; none: the
        engine's own connection, on both stores. The function's first parameter is the transaction; committing is not its business.

        `retry`, `timeout`: as of a step; a sync function whose time is over is waited for, and then rolled back, as its connection is in use until it ends:
        give its statements a limit of their own. `isolation`: of the source's transactions; without it the database's own level. A conflict (40001, 40P01) or a
        connection lost before COMMIT runs the function again by itself, whatever the policy.
        """
        return self._declare_transaction(source, name, retry, timeout, isolation)

    @overload
    def workflow(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncWorkflow[P, R]: ...
    @overload
    def workflow(self, function: Callable[P, R], /) -> AsyncWorkflow[P, R]: ...
    @overload
    def workflow(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        deadline: dt.timedelta | None = None,
        on_finish: str | Named | None = None,
        version: str | None = None,
        label: str | None = None,
    ) -> AsyncWorkflowDecorator: ...
    def workflow(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        deadline: dt.timedelta | None = None,
        on_finish: str | Named | None = None,
        version: str | None = None,
        label: str | None = None,
    ) -> Any:
        """Declares a workflow. Code outside steps runs again whenever a run resumes: keep it free of effects.

        `retry`: attempts of the whole run; each goes on at the step that failed, what was recorded before it stays. `deadline`: so long after its start a
        run is cancelled, with its children. `on_finish`: a workflow, or its name, that is started with the outcome in the commit that ends a run; it
        gets a `Finished`: {run, workflow, state, value}. `version`: stored with its runs and shown, it pins them to no build. `label`:
        only workers of this label run it. All are defaults, over which `options(..)` of a start are laid.
        """

        def declare(function: Callable[..., Any]) -> Any:
            return AsyncWorkflow(self._engine, self._declare_workflow(function, name, retry, deadline, on_finish, version, label))

        return declare if function is None else declare(function)

    @overload
    def reference(self, name: str) -> AsyncReference[..., Any]: ...
    @overload
    def reference(self, name: str, *, returns: type[T]) -> AsyncReference[..., T]: ...
    def reference(self, name: str, *, returns: Any = Any) -> AsyncReference[..., Any]:
        """A workflow known by name only: of another process, another program, another language."""
        return AsyncReference(foreign(self._engine, name, returns))

    # -- inside a workflow

    @overload
    def run_step(self, function: Callable[[], Any], /, *, returns: type[T], name: str = ...) -> Coroutine[Any, Any, T]: ...
    @overload
    def run_step(self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
    @overload
    def run_step(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
    def run_step(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Records any function as a step, under its own name; a sync one runs on a thread. A lambda needs `returns=`."""
        scope = scope_in_workflow("run_step")
        registered = inline_step(function, kwargs)
        return _async_calls.step(scope, registered, location(), args, kwargs)

    def sleep(self, duration: dt.timedelta) -> Coroutine[Any, Any, None]:
        """A durable wait: it holds no slot, and goes on where it was after a restart."""
        return _done(_async_calls.call(scope_in_workflow("sleep"), *_clock.sleep(duration, location())))

    def sleep_until(self, when: dt.datetime) -> Coroutine[Any, Any, None]:
        """A durable wait for a point in time, given with its time zone; one that has passed is no wait."""
        return _done(_async_calls.call(scope_in_workflow("sleep_until"), *_clock.sleep_until(when, location())))

    def now(self) -> Coroutine[Any, Any, dt.datetime]:
        """The database's time, recorded: the same on every replay."""
        return _time(_async_calls.call(scope_in_workflow("now"), *_clock.value("now", location())))

    def uuid(self) -> Coroutine[Any, Any, uuid.UUID]:
        """A random uuid, recorded."""
        return _read(_async_calls.call(scope_in_workflow("uuid"), *_clock.value("uuid", location())), uuid.UUID)

    def random(self) -> Coroutine[Any, Any, float]:
        """A number in [0, 1), recorded."""
        return _read(_async_calls.call(scope_in_workflow("random"), *_clock.value("random", location())), float)

    @overload
    async def all(self, first: Callable[[], Awaitable[A]], second: Callable[[], Awaitable[B]], /) -> tuple[A, B]: ...
    @overload
    async def all(self, first: Callable[[], Awaitable[A]], second: Callable[[], Awaitable[B]], third: Callable[[], Awaitable[C]], /) -> tuple[A, B, C]: ...
    @overload
    async def all(self, *branches: Callable[[], Awaitable[T]]) -> tuple[T, ...]: ...
    async def all(self, *branches: Callable[[], Any]) -> tuple[Any, ...]:
        """Runs the branches at once; waits for every one, then raises the first failure in their order."""
        group = _groups.open_group("all", location(), branches, None, threads=False)
        return tuple(await _groups.gather_async(group, branches, None))

    async def map(
        self,
        function: Callable[[Item], Awaitable[T]],
        items: Iterable[Item],
        /,
        *,
        key: Callable[[Item], str] | None = None,
        limit: int | None = None,
    ) -> list[T]:
        """`function` for each item at once, `limit` of them at a time. `key` names the branches, so that items may come in another order on replay."""
        given = list(items)
        branches = [_groups.bound(function, item) for item in given]
        group = _groups.open_group("map", location(), branches, None if key is None else [key(item) for item in given], threads=False, limit=limit)
        return await _groups.gather_async(group, branches, limit)

    async def any(self, *branches: Callable[[], Awaitable[T]]) -> T:
        """The first branch to succeed; the others get their cancel signal and are not waited for."""
        return await _groups.first_async(_groups.open_group("any", location(), branches, None, threads=False), branches)

    async def race(self, *branches: Callable[[], Awaitable[T]]) -> T:
        """The first branch to settle, with its value or its error; the others get their cancel signal and are not waited for."""
        return await _groups.first_async(_groups.open_group("race", location(), branches, None, threads=False), branches)

    @overload
    def receive(self, topic: str = "", *, returns: type[T]) -> Coroutine[Any, Any, T]: ...
    @overload
    def receive(self, topic: str = "", *, timeout: dt.timedelta, returns: type[T]) -> Coroutine[Any, Any, T | None]: ...
    @overload
    def receive(self, topic: str = "", *, timeout: dt.timedelta | None = None) -> Coroutine[Any, Any, Any]: ...
    def receive(self, topic: str = "", *, timeout: dt.timedelta | None = None, returns: Any = Any) -> Coroutine[Any, Any, Any]:
        """The next message of this topic to this run, exactly once; None when the time is over, and where None was sent."""
        return _read(_async_calls.call(scope_in_workflow("receive"), *_clock.receive(topic, timeout, location())), returns)

    def set_event(self, key: str, value: Any) -> Coroutine[Any, Any, None]:
        """Publishes a value of this run; others wait for it with `get_event`."""
        return _done(_async_calls.call(scope_in_workflow("set_event"), *_clock.set_event(key, value, location())))

    # -- from anywhere

    async def send(self, run: AsyncRun[Any] | str, topic: str, message: Any, *, idempotency_key: str | None = None) -> None:
        """A message to a run (its handle or id); kept until it is received. Inside a workflow the send is recorded."""
        scope = parent_scope(self._engine, "send()")
        if scope is not None:
            key = run_key(self._engine, run)
            await _async_calls.call(scope, *_clock.send(key, topic, message, idempotency_key, location()))
        else:
            await handle_of(AsyncRun[Any], self._engine, run).send(topic, message, idempotency_key=idempotency_key)

    @overload
    async def get_event(self, run: AsyncRun[Any] | str, key: str, *, timeout: dt.timedelta | None = None) -> Any: ...
    @overload
    async def get_event(self, run: AsyncRun[Any] | str, key: str, *, timeout: dt.timedelta | None = None, returns: type[T]) -> T | None: ...
    async def get_event(self, run: AsyncRun[Any] | str, key: str, *, timeout: dt.timedelta | None = None, returns: Any = Any) -> Any:
        """Waits for an event of a run (its handle or id); None when the time is over or the run has ended without it, and where the event's value is None."""
        return await handle_of(AsyncRun[Any], self._engine, run).get_event(key, timeout=timeout, returns=returns)

    @overload
    def run(self, id: str | None = None, *, key: str | None = None) -> AsyncRun[Any]: ...
    @overload
    def run(self, id: str | None = None, *, key: str | None = None, returns: type[T]) -> AsyncRun[T]: ...
    def run(self, id: str | None = None, *, key: str | None = None, returns: Any = Any) -> AsyncRun[Any]:
        """The handle of a run by its id, or by its key. Looks nothing up."""
        target = foreign(self._engine, "", returns)
        return AsyncRun(self._engine, text("the key of a run", key) if key is not None else self.key_of("" if id is None else id), target, id=id)

    async def runs(
        self,
        *,
        states: State | Iterable[State] | None = None,
        workflow: str | None = None,
        queue: str | None = None,
        parent: AsyncRun[Any] | str | None = None,
        attribute: tuple[str, str | int | float | bool] | None = None,
        created_from: dt.datetime | None = None,
        created_before: dt.datetime | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[RunInfo]:
        """Runs, newest first, one page; `after` is the `next` of the page before. `parent`: of one run (its handle or id) the children."""
        since = None if created_from is None else _clock.point(created_from)
        before = None if created_before is None else _clock.point(created_before)
        key = None if parent is None else run_key(self._engine, parent)
        found, following, *_ = (
            *await self._ask(OP_LIST_RUNS, filter_record(states, workflow, queue, key, attribute, since, before, after, limit)),
            None,
        )
        return Page([run_info(record) for record in found], following)

    # -- queues

    def queue(
        self,
        name: str,
        *,
        limit: int | None = None,
        worker_limit: int | None = None,
        key_limit: int | None = None,
        paused: bool = False,
        hold: bool = False,
    ) -> str:
        """Declares a queue, made at launch. What an operator changed since is left alone. Returns its name."""
        return self._declare_queue(QueueInfo(name, paused, limit, worker_limit, key_limit, hold))

    async def put_queue(
        self,
        name: str,
        *,
        limit: int | None = None,
        worker_limit: int | None = None,
        key_limit: int | None = None,
        paused: bool = False,
        hold: bool = False,
    ) -> QueueInfo:
        """Makes or changes a queue now, as an operator: effective in the whole fleet within two seconds."""
        answer = await self._ask(OP_PUT_QUEUE, QueueInfo(name, paused, limit, worker_limit, key_limit, hold).record(), True)
        return queue_info(answer[0])

    async def queues(self) -> list[QueueInfo]:
        """Every queue of this namespace, with its limits as they are now."""
        return [queue_info(record) for record in (await self._ask(OP_LIST_QUEUES))[0]]

    async def pause_queue(self, name: str) -> None:
        """Nothing more is claimed from it; what runs goes on."""
        await self._set_paused(name, True)

    async def resume_queue(self, name: str) -> None:
        """Ends the pause: what has waited is claimed in its order."""
        await self._set_paused(name, False)

    async def _set_paused(self, name: str, paused: bool) -> None:
        # One operation: to read the queue and write it back would undo what another operator changes in between.
        await self._ask(OP_PAUSE_QUEUE, text("the name of a queue", name), paused)
