"""One execution of an async function: decode, run, say how it ended."""

from __future__ import annotations

import asyncio
from typing import Any

from . import _codec
from ._calls import ends_the_loop, log, warn_after_stop
from ._cancels import RunTask
from ._error_base import EverstepError
from ._errors_gen import InternalError, PayloadInvalid, StepTimeout
from ._failures import Failure
from ._ops_gen import OP_ABANDON, OP_FINISH_RUN
from ._registered import Registered
from ._scope import JOB, SCOPE, Execution, RunningStep, Scope


async def run(execution: Execution, function: Registered, data: bytes | None) -> None:
    client = execution.client
    task = asyncio.current_task()
    fields: tuple[Any, ...]
    running: RunningStep | None = None
    try:
        if function.kind == "step":
            running = RunningStep(function.name, 0, execution.attempt, execution.idempotency_key, task)
            execution.running[JOB] = running
        SCOPE.set(Scope(execution, "", 0, running))
        try:
            args, kwargs = function.signature.decode(data)
            value = await function.function(*args, **kwargs)
            fields = finished(function, value, execution)
        except asyncio.CancelledError as error:
            if execution.stopped is not None:
                return
            signalled = running is not None and running.signal is not None
            if not signalled and execution.cancelled is None and isinstance(task, RunTask) and task.cancelled_from_outside:
                # Not this run's end but its process's: `asyncio.run` cancels whatever is left on its loop. The next one goes on with it.
                execution.stopped = "abandoned"
                if not client.engine.closed:
                    client.engine.call(OP_ABANDON, (execution.id, InternalError.code))
                return
            fields = cancelled(function, error, execution, running)
        except BaseException as error:
            if ends_the_loop(error, task):
                # The process goes down. Another worker takes the run.
                client.engine.call(OP_ABANDON, (execution.id, type(error).__name__))
                raise
            if execution.stopped is not None:
                warn_after_stop(execution, f"a {type(error).__name__} raised", error)
                return
            fields = broken(function, error, execution)
        if execution.stopped is not None:
            warn_after_stop(execution, "the value it returned", None)
            return
        await client.ask(execution, OP_FINISH_RUN, (execution.id, *fields))
    except EverstepError as error:
        log.error("run %s of %s could not be ended here: %s", execution.run, execution.name, error)
    except asyncio.CancelledError:
        pass  # stopped while its end was on the way
    except Exception:
        unended(execution)
    finally:
        execution.tasks.discard(task)  # pyright: ignore[reportArgumentType]
        client.engine.executions.pop(execution.id, None)
        client.ended(execution)


def unended(execution: Execution) -> None:
    """How it ended could not be said, which is a fault of ours. Given back it is tried again; kept, it would be this process's until that ends."""
    log.exception("run %s of %s could not be ended here", execution.run, execution.name)
    engine = execution.engine
    if execution.stopped is None and not engine.closed:
        execution.stopped = "abandoned"
        engine.call(OP_ABANDON, (execution.id, InternalError.code))


def finished(function: Registered, value: Any, execution: Execution) -> tuple[Any, ...]:
    try:
        return (False, _codec.encode(value))
    except PayloadInvalid as error:
        return broken(function, PayloadInvalid(f"result of {function.name!r}: {error.message}"), execution, final=True)


def broken(function: Registered, error: BaseException, execution: Execution, *, final: bool = False) -> tuple[Any, ...]:
    retryable = not final and function.retryable(error)
    failure = Failure.of(error, execution.engine.declared, retryable=retryable)
    return (True, failure.encode(), failure.type[:255], failure.message[:1000], retryable)


def cancelled(function: Registered, error: BaseException, execution: Execution, running: RunningStep | None) -> tuple[Any, ...]:
    """A cancel that nobody asked the run for is a failure of the program's own."""
    if running is not None and running.signal == "timeout":
        return broken(function, StepTimeout(f"step {function.name!r} took too long"), execution)
    fields = broken(function, error, execution, final=True)
    return (*fields, execution.cancelled is not None)
