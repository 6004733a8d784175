"""A step between the engine's word to run it and the start of its function.

In asyncio a step is called now and its coroutine runs later, or never: `gather(charge(a), charge(b))` whose second call raises drops the first. The engine
counts from the call: a timeout that comes before the start must not be lost, and a coroutine that is dropped has to be said to have ended.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine
from typing import Any

from ._ops_gen import OP_FINISH_STEP, VERDICT_PENDING, VERDICT_RUN
from ._outcome import CUT_SHORT
from ._registered import Registered
from ._scope import Execution, RunningStep, Scope


def running_step(scope: Scope, function: Registered, verdict: tuple[Any, ...], task: asyncio.Task[Any] | None) -> RunningStep:
    """The attempt of a verdict `run`, where signals find it. One that has a signal already is not to be started."""
    execution = scope.execution
    place = (scope.branch, verdict[1])
    running = execution.running.get(place)
    if running is None or running.attempt != verdict[2]:
        running = execution.running[place] = RunningStep(function.name, verdict[1], verdict[2], verdict[3], None, scope.flags)
        if execution.cancelled is not None and not running.shielded:
            running.signal = "cancel"  # it came while this verdict was on its way here
    running.task = task
    running.between = False
    return running


def handed(scope: Scope, function: Registered, token: int, verdict: tuple[Any, ...], coroutine: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
    """The coroutine of a step just called, which calls `started` first."""
    execution = scope.execution
    running = running_step(scope, function, verdict, None) if verdict[0] == VERDICT_RUN else None

    def dropped(_: object) -> None:
        # From wherever the last reference went, the garbage collector in another thread too.
        loop = execution.client.loop
        try:
            loop.call_soon_threadsafe(_dropped, scope, token, verdict, running)
        except RuntimeError:
            pass  # the loop is closed, and this execution over

    execution.unstarted[token] = weakref.ref(coroutine, dropped)
    return coroutine


def started(execution: Execution, token: int) -> None:
    execution.unstarted.pop(token, None)


def _dropped(scope: Scope, token: int, verdict: tuple[Any, ...], running: RunningStep | None) -> None:
    execution = scope.execution
    if execution.unstarted.pop(token, None) is None or execution.stopped is not None or execution.client.engine.closed:
        return
    if running is not None:
        place = (scope.branch, running.seq)
        if execution.running.get(place) is running:
            del execution.running[place]
        _cut_short(scope, running.seq, running.attempt)
    elif verdict[0] == VERDICT_PENDING:
        if verdict[1]:
            execution.client.want_turn(execution)
        answer = execution.begun.pop(token, None)
        if answer is not None:
            execution.client.forget(token)
            answer.add_done_callback(lambda told: _answered(scope, told))


def _answered(scope: Scope, answer: asyncio.Future[tuple[Any, ...]]) -> None:
    if not answer.cancelled() and answer.exception() is None and answer.result()[0] == VERDICT_RUN and scope.execution.stopped is None:
        _cut_short(scope, *answer.result()[1:3])


def _cut_short(scope: Scope, seq: int, attempt: int) -> None:
    execution = scope.execution
    execution.client.submit_quietly(OP_FINISH_STEP, (execution.id, scope.branch, seq, attempt, *CUT_SHORT.fields))
