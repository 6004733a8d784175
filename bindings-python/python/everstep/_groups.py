"""all, map, any and race. They take functions: a started coroutine has already taken its place in the wrong branch.

`all` and `map` wait for every branch, then raise the first failure in branch order: nothing goes on behind the workflow's back. `any` and `race`
record their winner; the others get their cancel signal and are not waited for.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import itertools
import json
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from . import _async_calls, _sync_calls
from ._calls import call, scope_in_workflow, unwind
from ._errors_gen import ConfigInvalid, Mismatch
from ._ops_gen import OP_BEGIN_GROUP, OP_FINISH_GROUP, OP_LEAVE_BRANCH, VERDICT_RECORDED, VERDICT_RUN, VERDICT_STOPPED
from ._scope import SCOPE, Scope

Branch = Callable[[], Any]
_HOST_CLOSES = ("all", "map")


class Group:
    """One opened group: the scope of each branch, and the winner recorded before this execution, if any."""

    def __init__(self, kind: str, place: str, keys: Sequence[Any] | None, count: int) -> None:
        scope = scope_in_workflow(kind)
        verdict = call(scope, OP_BEGIN_GROUP, (scope.branch, scope.flags, kind, place))
        self.kind = kind
        self.scope = scope
        self.recorded: int | None = None
        if verdict[0] == VERDICT_RUN:
            self.seq: int = verdict[1]
        elif verdict[0] == VERDICT_RECORDED:
            self.seq = verdict[3]
        else:
            unwind(scope.execution, verdict)
        # `/` separates levels of a branch's path.
        self.names = [str(index) if keys is None else f"k:{_quoted(str(keys[index]))}" for index in range(count)]
        if len(set(self.names)) != count:
            raise ConfigInvalid(f"{kind}: two items have the same key")
        if verdict[0] == VERDICT_RECORDED and kind not in _HOST_CLOSES:
            self.recorded = self.index_of(verdict[2])

    def index_of(self, winner: Any) -> int:
        # As recorded: an index as a number, a key as a text.
        name = json.loads(winner)
        text = f"k:{name}" if isinstance(name, str) else str(name)
        try:
            return self.names.index(text)
        except ValueError:
            raise Mismatch(f"the recorded winner {text!r} of this {self.kind} is none of its branches: the program has changed") from None

    def branch(self, index: int) -> Scope:
        outer = self.scope
        return Scope(outer.execution, f"{outer.branch}/{self.seq}/{self.names[index]}", outer.flags, None)

    def leave(self, index: int) -> None:
        execution = self.scope.execution
        if execution.stopped is None:
            call(self.scope, OP_LEAVE_BRANCH, (self.branch(index).branch,))

    def winner_fields(self, index: int) -> tuple[Any, ...]:
        outer = self.scope
        return (outer.execution.id, outer.branch, self.seq, self.names[index])

    def winner(self, verdict: tuple[Any, ...], chosen: int) -> int:
        if verdict[0] != VERDICT_RECORDED:
            unwind(self.scope.execution, verdict)
        value = verdict[2] if len(verdict) > 2 else None
        return chosen if value is None else self.index_of(value)


def _quoted(key: str) -> str:
    return key.replace("%", "%25").replace("/", "%2F")


# -- asyncio


async def _run_branch(group: Group, index: int, function: Branch) -> Any:
    SCOPE.set(group.branch(index))
    try:
        value = function()
        return await value if inspect.isawaitable(value) else value
    finally:
        if group.kind in _HOST_CLOSES:
            group.leave(index)


def _start(group: Group, indices: Sequence[int], functions: Sequence[Branch]) -> dict[asyncio.Task[Any], int]:
    execution = group.scope.execution
    tasks: dict[asyncio.Task[Any], int] = {}
    for index in indices:
        task = asyncio.create_task(_run_branch(group, index, functions[index]))
        tasks[task] = index
        execution.tasks.add(task)
        task.add_done_callback(execution.tasks.discard)
        task.add_done_callback(_heard)
    return tasks


def _heard(task: asyncio.Task[Any]) -> None:
    """Who needs an error raises it; that of a loser is nobody's, and asyncio would log it as one that was never retrieved."""
    if not task.cancelled():
        task.exception()


async def gather_async(group: Group, functions: Sequence[Branch], limit: int | None) -> list[Any]:
    results: list[Any] = [None] * len(functions)
    errors: dict[int, BaseException] = {}
    waiting = iter(range(len(functions)))
    running = _start(group, list(itertools.islice(waiting, limit)), functions)
    try:
        while running:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED if limit else asyncio.ALL_COMPLETED)
            for task in done:
                index = running.pop(task)
                _settle(task, index, results, errors)
            running.update(_start(group, list(itertools.islice(waiting, len(done))), functions))
    except asyncio.CancelledError:
        for task in running:
            task.cancel()
        raise
    if errors:
        raise errors[min(errors)]
    return results


def _settle(task: asyncio.Task[Any], index: int, results: list[Any], errors: dict[int, BaseException]) -> None:
    if task.cancelled():
        errors[index] = asyncio.CancelledError()
    elif task.exception() is not None:
        errors[index] = task.exception()  # pyright: ignore[reportArgumentType]
    else:
        results[index] = task.result()


async def first_async(group: Group, functions: Sequence[Branch]) -> Any:
    execution = group.scope.execution
    if group.recorded is not None:
        (task,) = _start(group, [group.recorded], functions)
        return await _awaiting(task)
    running = _start(group, range(len(functions)), functions)
    settled: dict[int, asyncio.Task[Any]] = {}
    try:
        while running:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=running.__getitem__):
                settled[running.pop(task)] = task
                if not task.cancelled() and (group.kind == "race" or task.exception() is None):
                    index = next(i for i, t in settled.items() if t is task)
                    verdict = await execution.client.ask(execution, OP_FINISH_GROUP, group.winner_fields(index))
                    index = group.winner(verdict, index)
                    for other, number in running.items():
                        if number != index:
                            other.cancel()
                    winner = settled[index] if index in settled else next(t for t, i in running.items() if i == index)
                    return await _awaiting(winner)
    except asyncio.CancelledError:
        for task in running:
            task.cancel()
        raise
    return settled[min(settled)].result()


async def _awaiting(task: asyncio.Task[Any]) -> Any:
    try:
        return await task
    except asyncio.CancelledError:
        task.cancel()
        raise


# -- threads


class _Settled:
    __slots__ = ("error", "index", "value")

    def __init__(self, index: int, value: Any, error: BaseException | None) -> None:
        self.index = index
        self.value = value
        self.error = error


def _run_branch_thread(group: Group, index: int, function: Branch, out: queue.SimpleQueue[_Settled]) -> None:
    owner = group.scope.execution.owner
    owner.add(threading.get_ident())
    SCOPE.set(group.branch(index))
    try:
        out.put(_Settled(index, function(), None))
    except BaseException as error:
        out.put(_Settled(index, None, error))
    finally:
        owner.discard(threading.get_ident())


def _start_thread(group: Group, index: int, function: Branch, out: queue.SimpleQueue[_Settled]) -> None:
    context = contextvars.copy_context()
    group.scope.execution.client.workers.run(context.run, _run_branch_thread, group, index, function, out)


def _next(group: Group, out: queue.SimpleQueue[_Settled]) -> _Settled:
    """The next branch that settles; a stop ends the wait, for a branch may be inside a long call of the user's."""
    execution = group.scope.execution
    while True:
        try:
            return out.get(timeout=0.25)
        except queue.Empty:
            if execution.stopped is not None:
                unwind(execution, (VERDICT_STOPPED, execution.stopped))


def gather_threads(group: Group, functions: Sequence[Branch], limit: int | None) -> list[Any]:
    results: list[Any] = [None] * len(functions)
    errors: dict[int, BaseException] = {}
    out: queue.SimpleQueue[_Settled] = queue.SimpleQueue()
    waiting = iter(range(len(functions)))
    for index in itertools.islice(waiting, limit):
        _start_thread(group, index, functions[index], out)
    for _ in functions:
        settled = _next(group, out)
        group.leave(settled.index)
        if settled.error is not None:
            errors[settled.index] = settled.error
        else:
            results[settled.index] = settled.value
        for index in itertools.islice(waiting, 1):
            _start_thread(group, index, functions[index], out)
    if errors:
        raise errors[min(errors)]
    return results


def first_threads(group: Group, functions: Sequence[Branch]) -> Any:
    execution = group.scope.execution
    out: queue.SimpleQueue[_Settled] = queue.SimpleQueue()
    indices = range(len(functions)) if group.recorded is None else [group.recorded]
    for index in indices:
        _start_thread(group, index, functions[index], out)
    settled: dict[int, _Settled] = {}
    chosen = group.recorded
    for _ in indices:
        last = _next(group, out)
        settled[last.index] = last
        if group.recorded is None and (group.kind == "race" or last.error is None):
            verdict = execution.client.request(OP_FINISH_GROUP, group.winner_fields(last.index))
            chosen = group.winner(verdict, last.index)
            break
    if chosen is None:
        chosen = min(settled)
    while chosen not in settled:
        last = _next(group, out)
        settled[last.index] = last
    winner = settled[chosen]
    if winner.error is not None:
        raise winner.error
    return winner.value


def bound(function: Callable[[Any], Any], item: Any) -> Branch:
    return lambda: function(item)


def open_group(kind: str, place: str, functions: Sequence[Branch], keys: Sequence[Any] | None, *, threads: bool, limit: int | None = None) -> Group:
    if limit is not None and limit < 1:
        raise ConfigInvalid(f"{kind}: a limit of {limit} would run nothing")
    for function in functions:
        if not callable(function):
            raise ConfigInvalid(f"{kind} takes functions, not {type(function).__name__}: write {kind}(lambda: step(x)) instead of {kind}(step(x))")
    if not functions and kind not in _HOST_CLOSES:
        raise ConfigInvalid(f"{kind} of nothing has no winner")
    if threads:
        _sync_calls.check_thread(scope_in_workflow(kind), kind)
    else:
        _async_calls.check_loop(scope_in_workflow(kind))
    return Group(kind, place, keys, len(functions))
