"""What `Everstep` and `AsyncEverstep` share: configuration, declarations, and the verbs that answer at once."""

from __future__ import annotations

import copy
import datetime as dt
import inspect
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from . import _clock, _logging
from ._annotations import is_local
from ._calls import call, scope_in_workflow
from ._engine import Engine
from ._errors_gen import ConfigInvalid, OutsideRun, OutsideStep, RegisteredLate
from ._functions import AsyncStep, AsyncTransactionStep, Step, TransactionStep
from ._ops_gen import FLAG_SHIELDED, OP_INFO, OP_MIGRATION_SQL, OP_PATCH, OP_RUN_KEY
from ._options import Named, Retry, RunOptions, declared_retry, listed, name_of, policy_record, text, words
from ._registered import Registered
from ._run import Handle
from ._runs import QueueInfo
from ._scope import SCOPE, Execution, RunningStep, Scope, location
from ._signature import Signature
from ._times import milliseconds
from ._transaction import RegisteredTransaction
from ._tx_sources import Isolation, Source, isolation_statement

if TYPE_CHECKING:
    from contextvars import Token

    from typing_extensions import Self

E = TypeVar("E", bound=type[Exception])
Role = Literal["client", "starter", "worker"]
#: 25 s, within the 30 s most orchestrators give.
GRACE = dt.timedelta(seconds=25)


class _Shielded:
    """A clean-up scope: calls inside go on although the run was asked to cancel."""

    def __init__(self) -> None:
        self._token: Token[Scope | None] | None = None

    def __enter__(self) -> None:
        scope = scope_in_workflow("shielded")
        self._token = SCOPE.set(Scope(scope.execution, scope.branch, scope.flags | FLAG_SHIELDED, None))

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            SCOPE.reset(self._token)


class Base:
    """One engine. `_engine` is shared with the other view."""

    _engine: Engine

    def __init__(
        self,
        database: str | os.PathLike[str] | None = None,
        *,
        schema: str | None = None,
        namespace: str | None = None,
        environment: str | None = None,
        version: str | None = None,
        role: Role = "worker",
        queues: Iterable[str] | None = None,
        slots: int | None = None,
        lease: dt.timedelta | None = None,
        outage_budget: dt.timedelta | None = None,
        max_payload: int | None = None,
        auto_migrate: bool | None = None,
        replay: Literal["normal", "always"] | None = None,
        strict: bool = False,
        **settings: Any,
    ) -> None:
        """What is not given here is resolved by the engine: environment variables (`EVERSTEP_DATABASE_URL`, `EVERSTEP_ENV`), then defaults.

        `settings`: further keys of the configuration table in core/docs/protocol.md. `strict`: a step called outside a workflow is an error.
        """
        if isinstance(queues, str):
            raise ConfigInvalid(f"queues is a list of names: queues=[{queues!r}]")
        named = {
            "database": os.fspath(database) if isinstance(database, os.PathLike) else database,
            "schema": schema,
            "namespace": namespace,
            "environment": environment,
            "version": version,
            "language": "python",
            "role": role,
            "queues": None if queues is None else listed("queues is a list of names", queues),
            "slots": slots,
            "lease_ms": None if lease is None else milliseconds(lease),
            "outage_budget_ms": None if outage_budget is None else milliseconds(outage_budget),
            "max_payload": max_payload,
            "auto_migrate": auto_migrate,
            "replay": replay,
        }
        # A named option wins over its key among the settings, and one that was not given must not hide that key.
        config = {**settings, **{key: value for key, value in named.items() if value is not None}}
        self._engine = Engine(config, strict=strict)

    @classmethod
    def _view(cls, engine: Engine) -> Self:
        out = cls.__new__(cls)
        out._engine = engine
        return out

    @property
    def logger(self) -> logging.Logger:
        """For workflow code: records carry run, step and attempt; replayed ones below WARNING are dropped."""
        return _logging.workflow_logger()

    def error(self, code: str) -> Callable[[E], E]:
        """Declares an error type: it is recorded by its fields and rebuilt as this class, on the first run and on replay."""
        if not isinstance(code, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigInvalid('app.error takes the code the type is recorded under: @app.error("card_declined")')

        def declare(kind: E) -> E:
            self._engine.declared.add(code, kind)
            return kind

        return declare

    def patch(self, name: str) -> bool:
        """True for runs that reach this point after the change; false for those recorded before it."""
        _clock.text("the name of a patch", name)
        scope = scope_in_workflow("patch")
        return bool(call(scope, OP_PATCH, (scope.branch, scope.flags, name, location()))[0])

    def shielded(self) -> _Shielded:
        """`with app.shielded():` in an `except` or `finally`: clean-up steps after a cancel."""
        return _Shielded()

    def idempotency_key(self) -> str:
        """The key to pass to an outside service: the same in every attempt of this step, whatever dies in between."""
        return _step("idempotency_key").idempotency_key

    def attempt(self) -> int:
        """Which attempt of the running step this is, from 1; a plain call outside a run is the first."""
        scope = SCOPE.get()
        return 1 if scope is None or scope.step is None else scope.step.attempt

    def cancel_requested(self) -> bool:
        """For loops inside a sync step: a cancel or the step's timeout has come; raise `Cancelled` or return."""
        scope = SCOPE.get()
        if scope is None:
            raise OutsideStep("cancel_requested belongs inside a run")
        return scope.execution.cancelled is not None if scope.step is None else scope.step.signal is not None

    def run_key(self) -> str:
        """The key of the run this code belongs to, a uuid; in its steps too."""
        return _execution("run_key").run

    def run_id(self) -> str | None:
        """The id this run was started with; None where it was started without one."""
        return _execution("run_id").run_id

    def run_attempt(self) -> int:
        """Which attempt of the run this is, from 1: more where the workflow has a `retry`. That of a step is `attempt()`."""
        return _execution("run_attempt").attempt

    def attributes(self) -> Mapping[str, str | int | float | bool]:
        """The attributes this run was started with."""
        stored = _execution("attributes").attributes
        return json.loads(stored) if stored else {}

    def trace_parent(self) -> str | None:
        """The W3C trace context this run was started with, to go on with in what its steps call; None where it had none."""
        return _execution("trace_parent").trace_parent

    def replaying(self) -> bool:
        """True while recorded calls are handed back."""
        return scope_in_workflow("replaying").execution.replaying

    def key_of(self, id: str) -> str:
        """The key of the run with this id."""
        return self._engine.call(OP_RUN_KEY, (_clock.text("the id of a run", id),))[0]

    def info(self) -> dict[str, Any]:
        """This engine, as a dict: `phase` (opened, connected, launched, draining, closed; a client is connected), `store`, `namespace`, `schema`,
        `environment`, `version`; `incarnation`, the worker's key, None for a client; `held`, why it claims nothing, if so; `executing`, runs in memory now;
        `slots`, `lease_ms`, `beat_ms`, `max_parked`, `release_after_ms`, `max_payload`, `cancel_grace_ms`, `max_crashes`, `outage_budget_ms`; and `counters`,
        since its start: `batches` and `rows` written, `claims` and the runs `claimed` by them, `looks` for work, `ticks` of housekeeping, `leases_lost`,
        workers `reaped`, `hints` heard, runs `released`.
        """
        return json.loads(self._engine.call(OP_INFO, ())[0])

    def migration_sql(self, store: Literal["postgres", "sqlite"] = "postgres", schema: str | None = None) -> str:
        """The migrations as text, to run by hand where this role may not change the schema."""
        if store not in ("postgres", "sqlite"):
            raise ConfigInvalid(f"the store of a migration is 'postgres' or 'sqlite', not {store if isinstance(store, str) else type(store).__name__!r}")
        return self._engine.call(OP_MIGRATION_SQL, (store, words("schema", schema)))[0]

    def _declare_step(self, function: Callable[..., Any], name: str | None, retry: Retry | None, timeout: dt.timedelta | None, at_most_once: bool) -> Any:
        retry = declared_retry(retry)
        policy = policy_record(retry, timeout, at_most_once)
        defaults = RunOptions(retry=retry, timeout=timeout, at_most_once=at_most_once)
        registered = Registered(function, "step", name, retry=retry, policy=policy, defaults=defaults)
        self._engine.register(registered)
        return (AsyncStep if registered.is_async else Step)(self._engine, registered)

    def _declare_transaction(self, source: Any, name: str | None, retry: Retry | None, timeout: dt.timedelta | None, isolation: Isolation | None) -> Any:
        retry = declared_retry(retry)
        isolation_statement(isolation)

        def declare(function: Callable[..., Any]) -> Any:
            defaults = RunOptions(retry=retry, timeout=timeout)
            registered = RegisteredTransaction(function, "step", name, retry=retry, policy=policy_record(retry, timeout, False), defaults=defaults, skip=1)
            if not bare and source is not None:
                registered.source = Source(source, is_async=registered.is_async, isolation=isolation)
            elif isolation is not None:
                raise ConfigInvalid("isolation is for transactions on a source; those on the engine's own connection have the database's own level")
            self._engine.register(registered)
            return (AsyncTransactionStep if registered.is_async else TransactionStep)(self._engine, registered)

        # `@app.transaction` without a source: a connection factory needs no argument, a transactional function needs its transaction.
        first = next(iter(inspect.signature(source).parameters.values()), None) if inspect.isfunction(source) else None
        bare = first is not None and first.default is first.empty and first.kind in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD)
        return declare(source) if bare else declare

    def _declare_queue(self, queue: QueueInfo) -> str:
        self._engine.check_open()
        if self._engine.launched:
            raise RegisteredLate(f"queue {queue.name!r} was declared after launch; put_queue changes queues at run time")
        self._engine.queues.append(queue.record())
        return queue.name

    def _declare_workflow(
        self,
        function: Callable[..., Any],
        name: str | None,
        retry: Retry | None,
        deadline: dt.timedelta | None,
        on_finish: str | Named | None,
        version: str | None,
        label: str | None,
    ) -> Registered:
        retry = declared_retry(retry)
        # Here, where the function is known: at launch it would be said of the whole program.
        for what, given in (("version", version), ("label", label)):
            if given is not None:
                text(what, given)
        finish = None if on_finish is None else name_of("on_finish", on_finish)
        defaults = RunOptions(retry=retry, deadline=deadline, on_finish=finish, label=label)
        registered = Registered(function, "workflow", name, retry=retry, version=version, defaults=defaults, policy=policy_record(retry, None, False))
        self._engine.register(registered)
        return registered


def _execution(verb: str) -> Execution:
    scope = SCOPE.get()
    if scope is None:
        raise OutsideRun(f"{verb} belongs inside a run: outside there is none it could be about")
    return scope.execution


def _step(verb: str) -> RunningStep:
    scope = SCOPE.get()
    if scope is None or scope.step is None:
        raise OutsideStep(f"{verb} exists only inside a step: outside there is nothing it could stay the same for")
    return scope.step


def run_key(engine: Engine, run: Handle | str) -> str:
    return run.key if isinstance(run, Handle) else engine.call(OP_RUN_KEY, (_clock.text("the id of a run", run),))[0]


H = TypeVar("H", bound=Handle)


def handle_of(kind: type[H], engine: Engine, run: Handle | str) -> H:
    """The handle of a run given by its handle, of either view, or by its id."""
    return kind(engine, run_key(engine, run), None, id=run if isinstance(run, str) else run.id)


_inline: dict[Any, Registered] = {}


def inline_step(function: Callable[..., Any], kwargs: dict[str, Any]) -> Registered:
    """The registration of a function given to `run_step`, by the function itself. `returns` and `name` are ours unless the function has them."""
    if not callable(function):
        raise ConfigInvalid(f"run_step takes a function, not {type(function).__name__}: write run_step(f, x) instead of run_step(f(x))")
    own = getattr(function, "__func__", function)
    known = _inline.get(own)
    if known is not None and "returns" not in kwargs and "name" not in kwargs:
        if known.function is function:
            return known
        bound = copy.copy(known)  # another instance's method
        bound.function = function
        return bound
    signature = Signature(function)
    returns = kwargs.pop("returns") if "returns" in kwargs and "returns" not in signature.names else None
    name = kwargs.pop("name") if "name" in kwargs and "name" not in signature.names else None
    given = getattr(function, "__name__", "")
    if given == "<lambda>":
        if returns is None:
            raise ConfigInvalid("a lambda has no annotation to read its result by: app.run_step(lambda: .., returns=Type)")
        name = "lambda" if name is None else name
    registered = Registered(function, "step", name)
    if returns is not None:
        registered.signature = Signature(function, returns=returns)
        return registered
    # One made anew in each run would be kept with all it has captured; nor has a `partial` or another callable object a place in a program.
    if name is None and hasattr(own, "__qualname__") and not is_local(own):
        _inline[own] = registered
    return registered
