"""Starting and awaiting runs: what is the same for both views."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from . import _codec
from ._errors_gen import ConfigInvalid, OutsideRun, RunCancelled, UnknownWorkflow
from ._failures import Failure, error_of
from ._ops_gen import OP_BEGIN_CHILD, OP_START, OP_START_MANY
from ._options import Retry, RunOptions, check_travels, listed, text
from ._registered import Registered
from ._scope import SCOPE, Scope
from ._signature import ForeignSignature, Signature

if TYPE_CHECKING:
    from ._engine import Engine


NO_OPTIONS = RunOptions()


@dataclasses.dataclass(frozen=True)
class Target:
    """What is started: a function of this program, or one known by name only."""

    engine: Engine
    name: str
    signature: Signature | ForeignSignature
    #: What was declared.
    retry: Retry | None = None


def target_of(engine: Engine, function: Registered) -> Target:
    return Target(engine, function.name, function.signature, function.retry)


def foreign(engine: Engine, name: str, returns: Any) -> Target:
    known = engine.functions.get(text("the name of a workflow", name))
    if known is not None:
        return target_of(engine, known)
    return Target(engine, name, ForeignSignature(name, returns))


def _check_startable(target: Target, options: RunOptions) -> None:
    check_travels(options.retry)
    known = target.engine.functions.get(target.name)
    if known is not None and not known.startable:
        raise ConfigInvalid(f"transaction {target.name!r} is no job: its checkpoint belongs to a run. Start a workflow that calls it")


def start_arguments(target: Target, options: RunOptions, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, tuple[Any, ...]]:
    _check_startable(target, options)
    return OP_START, (target.name, target.signature.encode(args, kwargs), _asked(target, options).record())


def _asked(target: Target, options: RunOptions) -> RunOptions:
    """What the caller says. The engine lays it over what was declared, which it knows."""
    if options.retry is None or target.retry is not None:
        return options
    return dataclasses.replace(options, retry=options.retry.over(None))


def child_arguments(target: Target, options: RunOptions, args: tuple[Any, ...], kwargs: dict[str, Any], place: str) -> tuple[int, tuple[Any, ...]]:
    _check_startable(target, options)
    wire = target.signature.encode(args, kwargs)
    return OP_BEGIN_CHILD, (place, target.name, wire, _asked(target, options).record(), options.parent_close)


def start_many_arguments(
    target: Target, options: RunOptions, inputs: Iterable[Any], id: Callable[[Any], str] | None
) -> tuple[list[str | None], int, tuple[Any, ...]]:
    """The ids of the runs to come, and what to ask for."""
    _check_startable(target, options)
    if parent_scope(target.engine, "start_many()") is not None:
        raise OutsideRun(
            "start_many() inside a workflow is not recorded, and every replay would start the runs again: call start() for each, or do it in a step"
        )
    base = _asked(target, options)
    plain = base.record()
    ids: list[str | None] = []
    items: list[tuple[Any, Any]] = []
    for item in listed("start_many takes a list of inputs", inputs):
        wire = target.signature.encode_input(item)
        own = base.id if id is None else text("the id of a run", id(item))
        ids.append(own)
        items.append((wire, plain if id is None else dataclasses.replace(base, id=own).record()))
    return ids, OP_START_MANY, (target.name, items)


def started_many(answer: tuple[Any, ...], ids: list[str | None]) -> list[tuple[str, str | None, bool]]:
    """(key, id, attached) of each. Raises for the first item that was refused; the others stand, and ids make a second call attach to them."""
    out: list[tuple[str, str | None, bool]] = []
    for index, item in enumerate(answer[0]):
        run, attached, *refusal = item
        if refusal and refusal[0] is not None:
            raise error_of(refusal[0], f"item {index}: {refusal[1]}")
        out.append((run, ids[index], bool(attached)))
    return out


def parent_scope(engine: Engine, verb: str) -> Scope | None:
    """The scope a verb is recorded in: inside a workflow, and not inside one of its steps."""
    scope = SCOPE.get()
    return None if scope is None else recorded_in(scope, engine, verb)


def recorded_in(scope: Scope, engine: Engine, what: str) -> Scope | None:
    """In a workflow of another engine it would be recorded nowhere, and happen again with every replay."""
    if scope.step is not None:
        return None
    if scope.execution.engine is not engine:
        raise OutsideRun(f"{what} is of another engine than this workflow, which could not record it: call it inside a step")
    return scope


def outcome(engine: Engine, target: Target | None, run: str, answer: tuple[Any, ...]) -> Any:
    """The result of `await_result`, or the run's error."""
    state = answer[0]
    value: bytes | None = answer[1] if len(answer) > 1 else None
    if state == "succeeded":
        if target is not None:
            return target.signature.result(value)
        return _codec.decode(value) if value else None
    failure = Failure.read(value)
    if state == "cancelled":
        raise RunCancelled(failure.message or "the run was cancelled", run=run)
    raise failure.of_run(run, engine.declared)


def unknown(engine: Engine, name: str) -> UnknownWorkflow:
    return UnknownWorkflow(f"no workflow {name!r} is declared here.{engine.nearest(name)}")
