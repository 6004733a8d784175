"""Calls of a sync workflow, on its own thread. The counterpart of `_async_calls`."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from typing import Any

from ._async_calls import result
from ._calls import begin, begin_step, failed, unwind
from ._errors_gen import ForeignThread, WrongLoop
from ._failures import Cancelled, Stopped
from ._handed import running_step
from ._ops_gen import KIND_STEP, OP_FINISH_STEP, VERDICT_PENDING, VERDICT_RECORDED, VERDICT_RUN
from ._outcome import Outcome, cut_short, raised, returned, timed_out
from ._registered import Registered
from ._scope import SCOPE, Execution, RunningStep, Scope

#: A loop that has not taken a cancel by then is blocked by its coroutine, perhaps for ever.
_HEARS_WITHIN_S = 1.0


def check_thread(scope: Scope, what: str) -> None:
    """Positions are counted in program order; a thread the engine did not open has none."""
    execution = scope.execution
    if execution.is_async:
        raise WrongLoop(f"{what} blocks, and this run is async: await its async form (.aio)")
    if threading.get_ident() not in execution.owner:
        raise ForeignThread(f"{what} from a thread the engine did not open; use all, any, race or map")


def answer(execution: Execution, token: int, verdict: tuple[Any, ...]) -> tuple[Any, ...]:
    while verdict[0] == VERDICT_PENDING:
        execution.replaying = False
        verdict = execution.client.completion(token)
    return verdict


def settled(execution: Execution, token: int, verdict: tuple[Any, ...]) -> tuple[bool, bytes | None]:
    """(failed, value) of a call that runs nothing here: a wait, a message, a durable value."""
    verdict = answer(execution, token, verdict)
    if verdict[0] != VERDICT_RECORDED:
        unwind(execution, verdict)
    return bool(verdict[1]), verdict[2] if len(verdict) > 2 else None


def recorded(execution: Execution, token: int, verdict: tuple[Any, ...]) -> bytes | None:
    broken, value = settled(execution, token, verdict)
    if broken:
        failed(execution, value)
    return value


def call(scope: Scope, op: int, rest: tuple[Any, ...]) -> bytes | None:
    check_thread(scope, "this call")
    token, verdict = begin(scope, op, rest)
    return recorded(scope.execution, token, verdict)


def step(scope: Scope, function: Registered, place: str, args: tuple[Any, ...], kwargs: dict[str, Any], key: str | None = None) -> Any:
    check_thread(scope, f"step {function.name!r}")
    token, verdict = begin_step(scope, function, KIND_STEP, place, args, kwargs, key)
    execution = scope.execution
    sent: Outcome | None = None
    while True:
        kind = verdict[0]
        if kind == VERDICT_RUN:
            execution.replaying = False
            sent = attempt(scope, function, args, kwargs, verdict)
            verdict = execution.client.request(OP_FINISH_STEP, (execution.id, scope.branch, verdict[1], verdict[2], *sent.fields))
        elif kind == VERDICT_RECORDED:
            return result(execution, function, verdict, sent)
        elif kind == VERDICT_PENDING:
            verdict = answer(execution, token, verdict)
        else:
            unwind(execution, verdict)


def attempt(scope: Scope, function: Registered, args: tuple[Any, ...], kwargs: dict[str, Any], verdict: tuple[Any, ...]) -> Outcome:
    execution = scope.execution
    place = (scope.branch, verdict[1])
    running = running_step(scope, function, verdict, None)
    if running.signalled:
        del execution.running[place]
        return cut_short(function, running, execution)
    reset = SCOPE.set(Scope(execution, scope.branch, scope.flags, running))
    try:
        limited = function.policy is not None and function.policy[5] is not None
        value = _within_its_time(running, execution, function, args, kwargs) if limited else _value(function, args, kwargs)
    except Cancelled as error:
        if running.signal is None:
            return raised(function, RuntimeError(f"the step raised {error!r} without a cancel"), execution, final=True)
        return cut_short(function, running, execution)
    except Stopped as error:
        if execution.stopped is None:
            return raised(function, RuntimeError(f"the step raised {error!r} without a stop"), execution, final=True)
        raise
    except BaseException as error:
        # SystemExit too: it ends nothing on a thread, and to run such a step again would be an endless loop.
        return timed_out(function, execution) if running.signal == "timeout" else raised(function, error, execution)
    finally:
        SCOPE.reset(reset)
        del execution.running[place]
    return timed_out(function, execution) if running.signal == "timeout" else returned(function, value, execution)


def _value(function: Registered, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    value = function.function(*args, **kwargs)
    return asyncio.run(value) if function.is_async else value


def _within_its_time(running: RunningStep, execution: Execution, function: Registered, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """On another thread, in the caller's context: no signal reaches a function that waits for a silent peer. When its time is over it is left there, and
    what it does then counts for nothing. A coroutine is cancelled on its loop and waited for, as in an async workflow; it is left, too, where it blocks
    its loop. Of a cancel or a stop either is told as on the workflow's own thread, and waited for."""
    told = running.event = threading.Event()
    context = contextvars.copy_context()
    value: Any = None
    error: BaseException | None = None
    over = heard = ended = False
    task: asyncio.Task[Any] | None = None

    async def on_its_loop() -> Any:
        nonlocal task, ended
        try:
            # In this order: either the timeout is seen here, or whoever waits for the end sees the task.
            task = asyncio.current_task()
            return None if running.signal == "timeout" else await function.function(*args, **kwargs)
        finally:
            # The end of its loop, which waits for whatever the coroutine has left in threads, is not its own.
            ended = True
            told.set()

    def cancel(task: asyncio.Task[Any]) -> None:
        nonlocal heard
        heard = True
        told.set()
        task.cancel()

    def work() -> None:
        nonlocal value, error, over
        try:
            value = context.run(asyncio.run, on_its_loop()) if function.is_async else context.run(_value, function, args, kwargs)
        except BaseException as raised:
            error = raised
        over = True
        told.set()

    try:
        execution.client.workers.run(work)
    except RuntimeError:
        return _value(function, args, kwargs)  # no more threads to be had: late is better than never
    while not over and running.signal != "timeout":
        told.wait()
        told.clear()
    if function.is_async and not over:
        try:
            if task is not None:
                task.get_loop().call_soon_threadsafe(cancel, task)
        except RuntimeError:
            pass  # the loop is closed: it has ended meanwhile
        until = time.monotonic() + _HEARS_WITHIN_S
        while not ended and (heard or time.monotonic() < until):
            told.wait(None if heard else max(0.0, until - time.monotonic()))
            told.clear()
    if error is not None:
        try:
            raise error
        finally:
            error = None  # or it would hold this frame, and the frame it
    return value
