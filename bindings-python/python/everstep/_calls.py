"""What the sync and the async call paths share: asking the engine, and what a verdict that ends the execution means."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any, NoReturn

from . import _native
from ._errors_gen import Forked, OutsideRun, UnknownWorkflow, WrongLoop
from ._failures import Cancelled, Failure, Stopped, error_of
from ._ops_gen import OP_BEGIN_STEP, VERDICT_CANCELLED, VERDICT_PENDING, VERDICT_STOPPED
from ._registered import Registered
from ._scope import SCOPE, Execution, Scope

log = logging.getLogger("everstep")

#: Stops of one branch or one attempt; the execution goes on.
_LOCAL_STOPS = frozenset(("branch_closed", "superseded"))


def scope_in_workflow(verb: str) -> Scope:
    """The scope of a call that belongs inside a workflow, and not inside one of its steps."""
    scope = SCOPE.get()
    if scope is None:
        raise OutsideRun(f"{verb} belongs inside a workflow")
    if scope.execution.stopped == "forked":
        unwind(scope.execution, (VERDICT_STOPPED, "forked"))
    if scope.step is not None:
        raise OutsideRun(f"{verb} belongs inside a workflow, not inside its step {scope.step.name!r}")
    return scope


def begin(scope: Scope, op: int, rest: tuple[Any, ...]) -> tuple[int, tuple[Any, ...]]:
    """Asks for a place in the run: the token later verdicts come to, and the first verdict."""
    execution = scope.execution
    if execution.stopped is not None:
        unwind(execution, (VERDICT_STOPPED, execution.stopped))
    client = execution.client
    token = client.new_token()
    try:
        verdict = _native.call(client.handle, op, (execution.id, scope.branch, token, scope.flags, *rest))
    except _native.NativeError as error:
        refused(execution, error)
    if execution.is_async and verdict[0] == VERDICT_PENDING:
        # Now, not when the coroutine first runs: its verdict may come before that, and would be nobody's.
        execution.begun[token] = client.expect(token, execution)
    return token, verdict


def call(scope: Scope, op: int, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    execution = scope.execution
    if execution.stopped is not None:
        unwind(execution, (VERDICT_STOPPED, execution.stopped))
    try:
        return _native.call(execution.client.handle, op, (execution.id, *arguments))
    except _native.NativeError as error:
        refused(execution, error)


def refused(execution: Execution, error: Exception) -> NoReturn:
    if error.args[0] in ("stopped", "closed"):
        unwind(execution, (VERDICT_STOPPED, error.args[0]))
    raise error_of(*error.args) from None


def begin_step(scope: Scope, function: Registered, kind: int, place: str, args: tuple[Any, ...], kwargs: dict[str, Any], key: str | None) -> Any:
    data = function.signature.encode(args, kwargs)
    return begin(scope, OP_BEGIN_STEP, (kind, function.name, place, data, key, function.policy))


def unwind(execution: Execution, verdict: tuple[Any, ...]) -> NoReturn:
    """Verdicts after which the calling code does not go on."""
    if verdict[0] == VERDICT_CANCELLED:
        by, why = (*verdict[1:], "", "")[:2]
        execution.cancelled = (by or "", why or "")
        raise Cancelled(by or "", why or "")
    why = str(verdict[1]) if len(verdict) > 1 else "stopped"
    if why == "forked":
        raise Forked("this process was forked inside a run; the run goes on in the parent")
    if why not in _LOCAL_STOPS and execution.stopped is None:
        execution.stopped = why
    if execution.is_async:
        raise asyncio.CancelledError(f"this execution has ended ({why})")
    raise Stopped(f"this execution has ended ({why})")


def failed(execution: Execution, data: bytes | None) -> NoReturn:
    """Raises the recorded error, the same way on the first run and on replay."""
    error = Failure.read(data).exception(execution.engine.declared)
    raise error from error.__cause__


def blocking_allowed(verb: str, instead: str) -> None:
    if asyncio._get_running_loop() is not None:
        raise WrongLoop(f"{verb} would block the event loop of this thread; use {instead}")


def function_named(execution: Execution, name: str) -> Registered:
    found = execution.engine.functions.get(name)
    if found is None:
        raise UnknownWorkflow(f"no function {name!r} is declared here.{execution.engine.nearest(name)}")
    return found


def warn_after_stop(execution: Execution, what: str, error: BaseException | None) -> None:
    """A value or an exception of a stopped execution counts for nothing; say so once, with the line."""
    if execution.warned:
        return
    execution.warned = True
    line = ""
    trace = error.__traceback__ if error is not None else None
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(_OWN):
            line = f" at {code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    if not line:
        code = getattr(execution.engine.functions[execution.name].function, "__code__", None)
        line = f" at {code.co_filename}:{code.co_firstlineno}" if code is not None else ""
    log.warning(
        "workflow %s, run %s: %s%s after this execution had ended (%s) is ignored; let the stop pass through your except and finally blocks",
        execution.name,
        execution.run,
        what,
        line,
        execution.stopped,
    )


def ends_the_loop(error: BaseException, task: asyncio.Task[Any] | None) -> bool:
    """Whether this ends the loop or the process, and so says nothing about the code it came through: Ctrl-C, which only the main thread hears, and the
    `GeneratorExit` of a task whose loop is gone. The same types raised by the program's own code are failures: given back, the run would be taken, and
    fail, again at once, without end."""
    if isinstance(error, KeyboardInterrupt):
        return threading.current_thread() is threading.main_thread()
    if isinstance(error, GeneratorExit):
        return asyncio._get_running_loop() is None or asyncio.current_task() is not task
    return False


_OWN = __file__.rsplit("/", 1)[0]
