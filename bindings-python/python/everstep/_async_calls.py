"""Calls of an async workflow. The place in the run is taken when the step is called, not when its coroutine is first awaited: program order is
what a replay can repeat."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from ._calls import begin, begin_step, ends_the_loop, failed, unwind
from ._cancels import take_back
from ._errors_gen import WrongLoop
from ._handed import handed, running_step, started
from ._ops_gen import KIND_STEP, OP_FINISH_STEP, VERDICT_PENDING, VERDICT_RECORDED, VERDICT_RUN
from ._outcome import CUT_SHORT, Outcome, cut_short, raised, returned, timed_out
from ._registered import Registered
from ._scope import SCOPE, Execution, Scope

if TYPE_CHECKING:
    from ._engine import Engine


def check_loop(scope: Scope) -> None:
    if not scope.execution.is_async:
        raise WrongLoop("this run executes on a thread: use the sync form of the call (app.sync, step.sync)")
    if asyncio._get_running_loop() is not scope.execution.client.loop:
        raise WrongLoop("this run executes on another event loop: its calls belong there, not on a loop or thread that its code has started")


async def answer(execution: Execution, token: int, verdict: tuple[Any, ...]) -> tuple[Any, ...]:
    """The verdict, once it is more than `pending`."""
    client = execution.client
    while verdict[0] == VERDICT_PENDING:
        waiting = execution.begun.pop(token, None) or client.expect(token, execution)
        if verdict[1]:
            client.want_turn(execution)
        else:
            execution.replaying = False
        try:
            verdict = await waiting
        except asyncio.CancelledError:
            client.forget(token)
            raise
    return verdict


async def settled(execution: Execution, token: int, verdict: tuple[Any, ...]) -> tuple[bool, bytes | None]:
    """(failed, value) of a call that runs nothing here: a wait, a message, a durable value."""
    verdict = await answer(execution, token, verdict)
    if verdict[0] != VERDICT_RECORDED:
        unwind(execution, verdict)
    return bool(verdict[1]), verdict[2] if len(verdict) > 2 else None


async def recorded(execution: Execution, token: int, verdict: tuple[Any, ...]) -> bytes | None:
    broken, value = await settled(execution, token, verdict)
    if broken:
        failed(execution, value)
    return value


def call(scope: Scope, op: int, rest: tuple[Any, ...]) -> Coroutine[Any, Any, bytes | None]:
    check_loop(scope)
    token, verdict = begin(scope, op, rest)
    return recorded(scope.execution, token, verdict)


def step(scope: Scope, function: Registered, place: str, args: tuple[Any, ...], kwargs: dict[str, Any], key: str | None = None) -> Coroutine[Any, Any, Any]:
    check_loop(scope)
    token, verdict = begin_step(scope, function, KIND_STEP, place, args, kwargs, key)
    return handed(scope, function, token, verdict, _step(scope, function, args, kwargs, token, verdict))


async def _step(scope: Scope, function: Registered, args: tuple[Any, ...], kwargs: dict[str, Any], token: int, verdict: tuple[Any, ...]) -> Any:
    execution = scope.execution
    started(execution, token)
    sent: Outcome | None = None
    while True:
        kind: int = verdict[0]
        if kind == VERDICT_RUN:
            execution.replaying = False
            sent = await attempt(scope, function, args, kwargs, verdict)
            # `ask` spelled out: a coroutine less for every step of every run.
            client = execution.client
            sent_as, answered = client.send(execution, OP_FINISH_STEP, (execution.id, scope.branch, verdict[1], verdict[2], *sent.fields))
            try:
                verdict = await answered
            except asyncio.CancelledError:
                client.forget(sent_as)
                raise
        elif kind == VERDICT_RECORDED:
            return result(execution, function, verdict, sent)
        elif kind == VERDICT_PENDING:
            verdict = await answer(execution, token, verdict)
        else:
            unwind(execution, verdict)


def result(execution: Execution, function: Registered, verdict: tuple[Any, ...], sent: Outcome | None) -> Any:
    """What the workflow sees: the recorded bytes, decoded. No bytes in the verdict: what was sent stands."""
    broken: bool = verdict[1]
    stored: bytes | None = verdict[2] if len(verdict) > 2 else None
    if broken:
        failed(execution, sent.output if stored is None and sent is not None else stored)
    if stored is None and sent is not None:
        return function.signature.returned(sent.value, sent.output)
    return function.signature.result(stored)


async def attempt(scope: Scope, function: Registered, args: tuple[Any, ...], kwargs: dict[str, Any], verdict: tuple[Any, ...]) -> Outcome:
    """One attempt of the user's function."""
    execution = scope.execution
    task = asyncio.current_task(execution.client.loop)
    assert task is not None
    place = (scope.branch, verdict[1])
    running = running_step(scope, function, verdict, task)
    if running.signalled:
        del execution.running[place]
        return cut_short(function, running, execution)
    reset = SCOPE.set(Scope(execution, scope.branch, scope.flags, running))
    ended: Outcome | None = None
    value: Any = None
    try:
        if function.is_async:
            value = await function.function(*args, **kwargs)
        else:
            value = await on_a_thread(execution.engine, function.function, *args, **kwargs)
            if inspect.isawaitable(value):
                value = await value
    except asyncio.CancelledError:
        if not running.cancel_sent or execution.stopped is not None:
            # The program's own cancel (a timeout, a task group), or the end of this execution.
            if execution.stopped is None:
                execution.client.submit_quietly(OP_FINISH_STEP, (execution.id, scope.branch, verdict[1], verdict[2], *CUT_SHORT.fields))
            raise
        ended = cut_short(function, running, execution)
    except BaseException as error:
        if ends_the_loop(error, task):
            raise
        # A step that calls sys.exit() has failed; it does not end a server, nor, run again elsewhere, one after the other.
        ended = timed_out(function, execution) if running.signal == "timeout" else raised(function, error, execution)
    finally:
        SCOPE.reset(reset)
        del execution.running[place]
    if running.cancel_sent:
        await take_back(task, lambda: execution.stopped is not None)
        if running.signal == "timeout":
            return timed_out(function, execution)
    return returned(function, value, execution) if ended is None else ended


def on_a_thread(engine: Engine, function: Callable[..., Any], *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
    """Sync code of an async run: off the loop, in the caller's context. A signal reaches it as a token only; its thread ends in its own time.

    On the engine's threads: the loop's default executor has a handful, and its end, and the interpreter's, would wait for a step that takes an hour.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)

    def work() -> None:
        value, failure = None, None
        try:
            value = context.run(function, *args, **kwargs)
        except (StopIteration, KeyboardInterrupt) as error:
            # A future refuses the first; the second, thrown into the loop, would be taken for Ctrl-C, which never comes to this thread.
            failure = RuntimeError(f"{type(error).__name__} was raised")
            failure.__cause__ = error
        except BaseException as error:
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, value, failure)

    engine.threads().workers.run(work)
    return future
