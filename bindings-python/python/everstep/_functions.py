"""What the decorators return: steps and workflows, each in a sync and an async form of the same registration."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from . import _async_calls, _sync_calls, _transaction
from ._calls import begin, blocking_allowed
from ._errors_gen import ConfigInvalid, OutsideRun, WrongLoop
from ._options import RunOptions, StartOptions, StepOptions, run_options
from ._registered import Registered
from ._run import AsyncRun, Run
from ._scope import SCOPE, Scope, location
from ._starting import NO_OPTIONS, Target, child_arguments, parent_scope, recorded_in, start_arguments, start_many_arguments, started_many, target_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._engine import Engine

P = ParamSpec("P")
R = TypeVar("R")


def recording_scope(engine: Engine, function: Registered) -> Scope | None:
    """Where a call of this step is recorded; None: it is the plain function (outside a run, or inside another step)."""
    scope = SCOPE.get()
    if scope is None:
        if engine.strict:
            raise OutsideRun(f"step {function.name!r} was called outside a workflow, and this engine is strict")
        return None
    return recorded_in(scope, engine, f"step {function.name!r}")


class _Function:
    def __init__(self, engine: Engine, registered: Registered) -> None:
        self._engine = engine
        self._registered = registered
        functools.update_wrapper(cast(Any, self), registered.function, updated=())

    @property
    def name(self) -> str:
        return self._registered.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


class Step(_Function, Generic[P, R]):
    """A declared step. Called in a workflow it is recorded; called elsewhere it is the plain function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._record(location(), args, kwargs, None)

    def _record(self, place: str, args: tuple[Any, ...], kwargs: dict[str, Any], key: str | None) -> Any:
        function = self._registered
        scope = recording_scope(self._engine, function)
        if scope is None:
            return function.function(*args, **kwargs)
        return _sync_calls.step(scope, function, place, args, kwargs, key)

    def options(self, **options: Unpack[StepOptions]) -> StepCall[P, R]:
        """For one call: `key`, `retry`, `timeout`; for one `start` as a job: all of `StartOptions`. Then your own arguments."""
        return StepCall(self, options)

    def start(self, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """Runs this step by itself, as a job: one row, one commit."""
        return self._starter().start(*args, **kwargs)

    def start_many(self, inputs: Iterable[Any], *, id: Callable[[Any], str] | None = None) -> list[Run[R]]:
        """One job an input: the value of the only parameter, or a mapping by parameter name. `id` names each, so that a repeat attaches."""
        return self._starter().start_many(inputs, id=id)

    def _starter(self) -> Starter[P, R]:
        return Starter(target_of(self._engine, self._registered))

    @property
    def aio(self) -> AsyncStep[P, R]:
        """The same step for coroutines; a sync function runs on a thread."""
        return AsyncStep(self._engine, self._registered)


class AsyncStep(_Function, Generic[P, R]):
    """A declared step of async workflows."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[None, None, R]:
        return self._record(location(), args, kwargs, None)

    def _record(self, place: str, args: tuple[Any, ...], kwargs: dict[str, Any], key: str | None) -> Coroutine[Any, Any, Any]:
        function = self._registered
        scope = recording_scope(self._engine, function)
        if scope is None:
            return _plain(function, args, kwargs)
        return _async_calls.step(scope, function, place, args, kwargs, key)

    def options(self, **options: Unpack[StepOptions]) -> AsyncStepCall[P, R]:
        """For one call: `key`, `retry`, `timeout`; for one `start` as a job: all of `StartOptions`. Then your own arguments."""
        return AsyncStepCall(self, options)

    def start(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, AsyncRun[R]]:
        """Runs this step by itself, as a job: one row, one commit."""
        return self._starter().start(*args, **kwargs)

    async def start_many(self, inputs: Iterable[Any], *, id: Callable[[Any], str] | None = None) -> list[AsyncRun[R]]:
        """One job an input: the value of the only parameter, or a mapping by parameter name. `id` names each, so that a repeat attaches."""
        return await self._starter().start_many(inputs, id=id)

    def _starter(self) -> AsyncStarter[P, R]:
        return AsyncStarter(target_of(self._engine, self._registered))

    @property
    def sync(self) -> Step[P, R]:
        """The same step for threads; an async function gets a loop of its own."""
        return Step(self._engine, self._registered)


async def _plain(function: Registered, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    value = function.function(*args, **kwargs)
    return await value if function.is_async else value


class TransactionStep(Step[P, R]):
    """A step whose rows and checkpoint commit together. Its function's first parameter is the transaction."""

    def _record(self, place: str, args: tuple[Any, ...], kwargs: dict[str, Any], key: str | None) -> Any:
        scope = recording_scope(self._engine, self._registered)
        if scope is None:
            return _transaction.run_plain(self._registered, args, kwargs)
        return _transaction.step_sync(scope, self._registered, place, args, kwargs, key)

    @property
    def aio(self) -> AsyncTransactionStep[P, R]:
        """The same transaction for coroutines, on a thread."""
        return AsyncTransactionStep(self._engine, self._registered)


class AsyncTransactionStep(AsyncStep[P, R]):
    """A step whose rows and checkpoint commit together. Its function's first parameter is the transaction."""

    def _record(self, place: str, args: tuple[Any, ...], kwargs: dict[str, Any], key: str | None) -> Coroutine[Any, Any, Any]:
        scope = recording_scope(self._engine, self._registered)
        if scope is None:
            return _transaction.run_plain_async(self._engine, self._registered, args, kwargs)
        return _transaction.step_async(scope, self._registered, place, args, kwargs, key)

    @property
    def sync(self) -> TransactionStep[P, R]:
        """The same transaction for threads; of a sync function only."""
        if self._registered.is_async:
            raise WrongLoop(f"transaction {self.name!r} is async, and its pool belongs to one loop: call it in an async workflow, or declare a sync one")
        return TransactionStep(self._engine, self._registered)


class Starter(Generic[P, R]):
    """A target with its options, for threads."""

    def __init__(self, target: Target, options: RunOptions = NO_OPTIONS) -> None:
        self._target = target
        self._options = options

    def start(self, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """Starts a run, or attaches to the run of this id. Inside a workflow the start is recorded and the run is a child.

        Raises `IdConflict` (the id is another workflow's), `UnknownWorkflow` (nobody knows the name, and it is nearly one that is known), `UnknownQueue`,
        `RunDeduplicated` (another run holds the dedup key, under "reject"), `RunPurged` (retention has removed the run of this id), `PayloadTooLarge`.
        """
        target, options = self._target, self._options
        scope = parent_scope(target.engine, "start()")
        if scope is not None:
            op, rest = child_arguments(target, options, args, kwargs, location())
            key = _child_key(_sync_calls.call(scope, op, rest))
            return Run(target.engine, key, target, id=options.id)
        blocking_allowed("start()", "the async form: .aio")
        op, arguments = start_arguments(target, options, args, kwargs)
        key, attached = target.engine.threads().request(op, arguments)[:2]
        return Run(target.engine, key, target, id=options.id, attached=attached)

    def start_many(self, inputs: Iterable[Any], *, id: Callable[[Any], str] | None = None) -> list[Run[R]]:
        """One run an input: the value of the only parameter, or a mapping by parameter name. `id` names each run, so that a repeat attaches."""
        target = self._target
        blocking_allowed("start_many()", "the async form: .aio")
        ids, op, arguments = start_many_arguments(target, self._options, inputs, id)
        answer = target.engine.threads().request(op, arguments)
        return [Run(target.engine, key, target, id=own, attached=attached) for key, own, attached in started_many(answer, ids)]


class AsyncStarter(Generic[P, R]):
    """A target with its options, for coroutines."""

    def __init__(self, target: Target, options: RunOptions = NO_OPTIONS) -> None:
        self._target = target
        self._options = options

    def start(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, AsyncRun[R]]:
        """Starts a run, or attaches to the run of this id. Inside a workflow the start is recorded and the run is a child.

        Raises `IdConflict` (the id is another workflow's), `UnknownWorkflow` (nobody knows the name, and it is nearly one that is known), `UnknownQueue`,
        `RunDeduplicated` (another run holds the dedup key, under "reject"), `RunPurged` (retention has removed the run of this id), `PayloadTooLarge`.
        """
        target, options = self._target, self._options
        scope = parent_scope(target.engine, "start()")
        if scope is not None:
            op, rest = child_arguments(target, options, args, kwargs, location())
            return self._child(scope, *begin(scope, op, rest))
        op, arguments = start_arguments(target, options, args, kwargs)
        return self._start(op, arguments)

    async def _child(self, scope: Scope, token: int, verdict: tuple[Any, ...]) -> AsyncRun[R]:
        key = _child_key(await _async_calls.recorded(scope.execution, token, verdict))
        return AsyncRun(self._target.engine, key, self._target, id=self._options.id)

    async def _start(self, op: int, arguments: tuple[Any, ...]) -> AsyncRun[R]:
        engine = self._target.engine
        key, attached = (await engine.here().request(op, arguments))[:2]
        return AsyncRun(engine, key, self._target, id=self._options.id, attached=attached)

    async def start_many(self, inputs: Iterable[Any], *, id: Callable[[Any], str] | None = None) -> list[AsyncRun[R]]:
        """One run an input: the value of the only parameter, or a mapping by parameter name. `id` names each run, so that a repeat attaches."""
        target = self._target
        ids, op, arguments = start_many_arguments(target, self._options, inputs, id)
        answer = await target.engine.here().request(op, arguments)
        return [AsyncRun(target.engine, key, target, id=own, attached=attached) for key, own, attached in started_many(answer, ids)]


def _child_key(value: bytes | None) -> str:
    from . import _codec

    return _codec.decode(value or b"null")


def called_with(function: Registered, options: StepOptions) -> Registered:
    """What options change for a call; the others are for `start`, and not to be ignored."""
    rest = options.keys() - {"key", "retry", "timeout"}
    if rest:
        raise ConfigInvalid(f"a call of step {function.name!r} takes the options key, retry and timeout; {', '.join(sorted(rest))} is for start()")
    retry, timeout = options.get("retry"), options.get("timeout")
    return function if retry is None and timeout is None else function.with_policy(retry, timeout)


class StepCall(Starter[P, R]):
    """A step with options: call it, or start it as a job."""

    def __init__(self, step: Step[P, R], options: StepOptions) -> None:
        super().__init__(target_of(step._engine, step._registered), run_options(options, StepOptions))
        self._step = step
        self._given = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        step = type(self._step)(self._step._engine, called_with(self._step._registered, self._given))
        return step._record(location(), args, kwargs, self._given.get("key"))


class AsyncStepCall(AsyncStarter[P, R]):
    """A step with options: call it, or start it as a job."""

    def __init__(self, step: AsyncStep[P, R], options: StepOptions) -> None:
        super().__init__(target_of(step._engine, step._registered), run_options(options, StepOptions))
        self._step = step
        self._given = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[None, None, R]:
        step = type(self._step)(self._step._engine, called_with(self._step._registered, self._given))
        return step._record(location(), args, kwargs, self._given.get("key"))


class Workflow(_Function, Starter[P, R]):
    """A declared workflow. `start` runs it durably; calling it is calling the plain function."""

    def __init__(self, engine: Engine, registered: Registered) -> None:
        _Function.__init__(self, engine, registered)
        self._target = target_of(engine, registered)
        self._options = NO_OPTIONS

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        return self._registered.function(*args, **kwargs)

    def options(self, **options: Unpack[StartOptions]) -> Starter[P, R]:
        """For one start: see `StartOptions`. Then your own arguments: `.options(id="order-7").start(order)`."""
        return Starter(self._target, run_options(options))

    @property
    def aio(self) -> AsyncWorkflow[P, R]:
        """The same workflow for coroutines."""
        return AsyncWorkflow(self._engine, self._registered)


class AsyncWorkflow(_Function, AsyncStarter[P, R]):
    """A declared workflow. `await start(..)` runs it durably; calling it is calling the plain function."""

    def __init__(self, engine: Engine, registered: Registered) -> None:
        _Function.__init__(self, engine, registered)
        self._target = target_of(engine, registered)
        self._options = NO_OPTIONS

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        return self._registered.function(*args, **kwargs)

    def options(self, **options: Unpack[StartOptions]) -> AsyncStarter[P, R]:
        """For one start: see `StartOptions`. Then your own arguments: `.options(id="order-7").start(order)`."""
        return AsyncStarter(self._target, run_options(options))

    @property
    def sync(self) -> Workflow[P, R]:
        """The same workflow for threads."""
        return Workflow(self._engine, self._registered)


class Reference(Starter[P, R]):
    """A workflow known by name: of another process, another program, another language."""

    @property
    def name(self) -> str:
        """What it is known by: also where a name is asked for, as in `on_finish=`."""
        return self._target.name

    def options(self, **options: Unpack[StartOptions]) -> Starter[P, R]:
        """For one start: see `StartOptions`. Then your own arguments: `.options(id="order-7").start(order)`."""
        return Starter(self._target, run_options(options))


class AsyncReference(AsyncStarter[P, R]):
    """A workflow known by name: of another process, another program, another language."""

    @property
    def name(self) -> str:
        """What it is known by: also where a name is asked for, as in `on_finish=`."""
        return self._target.name

    def options(self, **options: Unpack[StartOptions]) -> AsyncStarter[P, R]:
        """For one start: see `StartOptions`. Then your own arguments: `.options(id="order-7").start(order)`."""
        return AsyncStarter(self._target, run_options(options))
