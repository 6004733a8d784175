"""Transactional steps: the user's rows and the checkpoint commit together or not at all (`core/docs/protocol.md`, "Transactions")."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from . import _codec, _native
from ._async_calls import answer as answer_async
from ._async_calls import check_loop, on_a_thread, result
from ._calls import begin_step, ends_the_loop, unwind
from ._cancels import take_back
from ._errors_gen import OutsideRun, PayloadInvalid, Unavailable
from ._failures import Cancelled, Stopped, error_of
from ._handed import handed, running_step, started
from ._ops_gen import (
    KIND_TRANSACTION,
    OP_FINISH_STEP,
    OP_TX_COMMIT,
    OP_TX_DONE,
    OP_TX_GUARD,
    OP_TX_OPEN,
    OP_TX_ROLLBACK,
    VERDICT_PENDING,
    VERDICT_RECORDED,
    VERDICT_RUN,
    VERDICT_STOPPED,
)
from ._outcome import CUT_SHORT, Outcome, cut_short, raised, timed_out
from ._own_transaction import AsyncTransaction, Transaction
from ._registered import Registered
from ._scope import SCOPE, RunningStep, Scope
from ._sync_calls import answer, check_thread
from ._tx_sources import EndedByItself, Source, is_conflict, is_lost, is_refusal, knows_no_engine, uninterrupted

if TYPE_CHECKING:
    from ._engine import Engine

log = logging.getLogger("everstep")


class RegisteredTransaction(Registered):
    """A step whose function's first parameter is the transaction."""

    startable = False
    source: Source | None = None


class _Ended(BaseException):
    """This call is over before its COMMIT: out of time, or its branch was closed, or the whole execution stopped. `finish_step` is told which."""


def _still_wanted(running: RunningStep) -> None:
    """Before the COMMIT: the rows of a call whose end the workflow has already seen must not be stored."""
    if running.signal in ("timeout", "branch"):
        raise _Ended


def _guard(scope: Scope, running: RunningStep, at: tuple[Any, ...], output: bytes, style: str) -> tuple[str, list[Any]]:
    """The engine's last statement of the transaction. A refusal may concern this branch alone, so it does not end the execution here."""
    execution = scope.execution
    if execution.stopped is not None:
        unwind(execution, (VERDICT_STOPPED, execution.stopped))
    _still_wanted(running)
    try:
        sql, params = _native.call(execution.client.handle, OP_TX_GUARD, (*at, output, style))
    except _native.NativeError as error:
        if error.args[0] in ("stopped", "closed"):
            raise _Ended from None
        raise error_of(*error.args) from None
    return sql, list(params)


# -- threads


def step_sync(scope: Scope, function: Registered, place: str, args: tuple[Any, ...], kwargs: dict[str, Any], key: str | None) -> Any:
    check_thread(scope, f"transaction {function.name!r}")
    token, verdict = begin_step(scope, function, KIND_TRANSACTION, place, args, kwargs, key)
    execution = scope.execution
    sent: Outcome | None = None
    try:
        while True:
            kind = verdict[0]
            if kind == VERDICT_RUN:
                execution.replaying = False
                sent, op, arguments = _attempt(scope, function, args, kwargs, verdict)
                verdict = execution.client.request(op, arguments)
            elif kind == VERDICT_RECORDED:
                return result(execution, function, verdict, sent)
            elif kind == VERDICT_PENDING:
                verdict = answer(execution, token, verdict)
            else:
                unwind(execution, verdict)
    finally:
        _over(scope, sent)


def _over(scope: Scope, last: Outcome | None) -> None:
    """No try follows the last one, after which signals were kept for the next."""
    if last is not None and isinstance(last.value, RunningStep):
        scope.execution.running.pop((scope.branch, last.value.seq), None)


def _attempt(scope: Scope, function: Registered, args: tuple[Any, ...], kwargs: dict[str, Any], verdict: tuple[Any, ...]) -> Any:
    """Opens, runs, and ends one transaction. What is asked of the engine next: (outcome, op, arguments)."""
    execution = scope.execution
    at = (execution.id, scope.branch, verdict[1], verdict[2])
    running = running_step(scope, function, verdict, None)
    if running.signalled:
        return _ended_before(scope, function, running, at)
    reset = SCOPE.set(Scope(execution, scope.branch, scope.flags, running))
    source: Source | None = getattr(function, "source", None)
    transaction: Any = None
    try:
        if source is None:
            return _own(scope, running, function, args, kwargs, at)
        transaction = source.open()
        try:
            value = function.function(transaction.given, *args, **kwargs)
            output = _output(function, value)
            word = _guarded(transaction, *_guard(scope, running, at, output, transaction.style))
            if word == "ok":
                word = _committed(transaction)
            else:
                transaction.rollback()
            return Outcome(output, value, ()), OP_TX_DONE, (*at, word, output)
        except BaseException as error:
            lost = is_lost(error, transaction.given)  # asked before the connection is given back
            _quietly(transaction.rollback)
            if transaction.was_refused_an_end(error):
                raise EndedByItself from error
            if is_conflict(error) or (lost and running.signal is None):
                return _again(function, error, at, running)
            raise
        finally:
            _quietly(transaction.close)
    except _Ended:
        outcome = cut_short(function, running, execution)
    except (Stopped, Cancelled) as error:
        if running.signalled:
            outcome = cut_short(function, running, execution)
        elif execution.stopped is not None or execution.cancelled is not None:
            raise
        else:
            outcome = raised(function, RuntimeError(f"the transaction raised {error!r} without a stop or a cancel"), execution, final=True)
    except BaseException as error:
        # SystemExit and KeyboardInterrupt too: they end nothing on a thread.
        unopened = source is not None and transaction is None
        if running.signal is None and (isinstance(error, Unavailable) or (unopened and is_lost(error))):
            return _again(function, error, at, running)
        outcome = timed_out(function, execution) if running.signal == "timeout" else raised(function, error, execution, final=isinstance(error, EndedByItself))
    finally:
        SCOPE.reset(reset)
        if not running.between:
            del execution.running[(scope.branch, verdict[1])]
    return outcome, OP_FINISH_STEP, (*at, *outcome.fields)


def _ended_before(scope: Scope, function: Registered, running: RunningStep, at: tuple[Any, ...]) -> Any:
    """A signal came before the function was called."""
    del scope.execution.running[(scope.branch, running.seq)]
    outcome = cut_short(function, running, scope.execution)
    return outcome, OP_FINISH_STEP, (*at, *outcome.fields)


def _again(function: Registered, error: BaseException, at: tuple[Any, ...], running: RunningStep) -> Any:
    """A conflict, or a connection lost before COMMIT: the engine has the closure run again, so often and no more. Its time goes on meanwhile: a signal
    stays with the attempt until the next try."""
    running.between, running.task = True, None
    log.log(logging.INFO if is_conflict(error) else logging.WARNING, "transaction %r runs again: %s: %s", function.name, type(error).__name__, error)
    return Outcome(b"", running, ()), OP_TX_DONE, (*at, "conflict")


def _guarded(transaction: Any, sql: str, params: list[Any]) -> str:
    try:
        return transaction.guard(sql, params)
    except Exception as error:
        if knows_no_engine(error):
            return "other_database"
        raise


def _committed(transaction: Any) -> str:
    try:
        transaction.commit()
    except Exception as error:
        if is_conflict(error) or is_refusal(error):
            raise
        # The answer was lost: the engine asks the database which it was.
        log.warning("the answer to a COMMIT was lost: %s", error)
        return "unknown"
    return "committed"


def _own(scope: Scope, running: RunningStep, function: Registered, args: tuple[Any, ...], kwargs: dict[str, Any], at: tuple[Any, ...]) -> Any:
    client = scope.execution.engine.threads()
    number = client.request(OP_TX_OPEN, at[:3])[0]
    try:
        value = function.function(Transaction(scope.execution, number), *args, **kwargs)
        output = _output(function, value)
        _still_wanted(running)
    except BaseException:
        client.submit_quietly(OP_TX_ROLLBACK, (number,))
        raise
    return Outcome(output, value, ()), OP_TX_COMMIT, (number, *at, output)


def _output(function: Registered, value: Any) -> bytes:
    try:
        return _codec.encode(value)
    except PayloadInvalid as error:
        raise PayloadInvalid(f"result of transaction {function.name!r}: {error.message}") from None


def _quietly(action: Any) -> None:
    """Rolling back or giving back a connection that is already gone fails; the error that matters is the first one."""
    try:
        action()
    except Exception as error:
        log.debug("after a transaction: %s", error)


# -- asyncio


def step_async(scope: Scope, function: Registered, place: str, args: tuple[Any, ...], kwargs: dict[str, Any], key: str | None) -> Coroutine[Any, Any, Any]:
    check_loop(scope)
    token, verdict = begin_step(scope, function, KIND_TRANSACTION, place, args, kwargs, key)
    return handed(scope, function, token, verdict, _step_async(scope, function, args, kwargs, token, verdict))


async def _step_async(scope: Scope, function: Registered, args: tuple[Any, ...], kwargs: dict[str, Any], token: int, verdict: tuple[Any, ...]) -> Any:
    execution = scope.execution
    started(execution, token)
    sent: Outcome | None = None
    attempt = _attempt_async if function.is_async else _attempt_on_a_thread
    try:
        while True:
            kind = verdict[0]
            if kind == VERDICT_RUN:
                execution.replaying = False
                sent, op, arguments = await attempt(scope, function, args, kwargs, verdict)
                verdict = await execution.client.ask(execution, op, arguments)
            elif kind == VERDICT_RECORDED:
                return result(execution, function, verdict, sent)
            elif kind == VERDICT_PENDING:
                verdict = await answer_async(execution, token, verdict)
            else:
                unwind(execution, verdict)
    finally:
        _over(scope, sent)


async def _attempt_on_a_thread(scope: Scope, function: Registered, args: tuple[Any, ...], kwargs: dict[str, Any], verdict: tuple[Any, ...]) -> Any:
    """A sync transaction of an async run."""
    execution = scope.execution
    attempt = on_a_thread(execution.engine, _attempt, scope, function, args, kwargs, verdict)

    def tell(ended: asyncio.Future[Any]) -> None:
        if ended.exception() is None and execution.stopped is None:
            execution.client.submit_quietly(*ended.result()[1:])

    try:
        return await asyncio.shield(attempt)
    except asyncio.CancelledError:
        # The program's own cancel. The thread may commit all the same, and then the engine has to know.
        attempt.add_done_callback(tell)
        raise


async def _attempt_async(scope: Scope, function: Registered, args: tuple[Any, ...], kwargs: dict[str, Any], verdict: tuple[Any, ...]) -> Any:
    """The counterpart of `_attempt`."""
    execution = scope.execution
    task = asyncio.current_task()
    assert task is not None
    at = (execution.id, scope.branch, verdict[1], verdict[2])
    running = running_step(scope, function, verdict, task)
    if running.signalled:
        return _ended_before(scope, function, running, at)
    reset = SCOPE.set(Scope(execution, scope.branch, scope.flags, running))
    try:
        asked = await _asked_next(scope, function, args, kwargs, running, at)
    finally:
        SCOPE.reset(reset)
        if not running.between:
            del execution.running[(scope.branch, verdict[1])]
    if running.cancel_sent:
        await take_back(task, lambda: execution.stopped is not None)
        running.cancel_sent = False
    return asked


async def _asked_next(scope: Scope, function: Registered, args: tuple[Any, ...], kwargs: dict[str, Any], running: RunningStep, at: tuple[Any, ...]) -> Any:
    execution = scope.execution
    task = running.task
    source: Source | None = getattr(function, "source", None)
    transaction: Any = None
    told = False
    try:
        if source is None:
            return await _own_async(scope, running, function, args, kwargs, at)
        transaction = await source.open_async()
        try:
            value = await function.function(transaction.given, *args, **kwargs)
            output = _output(function, value)
            word = await _guarded_async(transaction, *_guard(scope, running, at, output, transaction.style))
            if word == "ok":
                # A signal must not tear the COMMIT apart: from here on the outcome is the database's.
                running.task = None
                committing = asyncio.ensure_future(_committed_async(transaction))
                try:
                    word = await asyncio.shield(committing)
                except asyncio.CancelledError:
                    if await _ended_otherwise(committing) or execution.stopped is not None:
                        raise
                    # The program's own cancel. The rows are stored, and the checkpoint with them, so the engine has to know.
                    execution.client.submit_quietly(OP_TX_DONE, (*at, committing.result(), output))
                    told = True
                    raise
            else:
                await transaction.rollback()
            return Outcome(output, value, ()), OP_TX_DONE, (*at, word, output)
        except BaseException as error:
            lost = is_lost(error, transaction.given)  # asked before the connection is given back
            await uninterrupted(_quietly_async(transaction.rollback))
            if transaction.was_refused_an_end(error):
                raise EndedByItself from error
            if is_conflict(error) or (lost and running.signal is None):
                return _again(function, error, at, running)
            raise
        finally:
            await uninterrupted(_quietly_async(transaction.close))
    except asyncio.CancelledError:
        if not running.cancel_sent or execution.stopped is not None:
            if execution.stopped is None and not told:
                execution.client.submit_quietly(OP_FINISH_STEP, (*at, *CUT_SHORT.fields))
            raise
        outcome = cut_short(function, running, execution)
    except _Ended:
        outcome = cut_short(function, running, execution)
    except BaseException as error:
        if ends_the_loop(error, task):
            raise
        unopened = source is not None and transaction is None
        if running.signal is None and (isinstance(error, Unavailable) or (unopened and is_lost(error))):
            return _again(function, error, at, running)
        outcome = timed_out(function, execution) if running.signal == "timeout" else raised(function, error, execution, final=isinstance(error, EndedByItself))
    return outcome, OP_FINISH_STEP, (*at, *outcome.fields)


async def _ended_otherwise(committing: asyncio.Future[str]) -> bool:
    """Waits for the COMMIT, which is not cut in two by a cancel; True: it failed, and nothing is stored."""
    try:
        await uninterrupted(_outcome_of(committing))
    except asyncio.CancelledError:
        pass  # the one that is on its way already
    return committing.cancelled() or committing.exception() is not None


async def _outcome_of(committing: asyncio.Future[str]) -> None:
    await asyncio.wait((committing,))


async def _guarded_async(transaction: Any, sql: str, params: list[Any]) -> str:
    try:
        return await transaction.guard(sql, params)
    except Exception as error:
        if knows_no_engine(error):
            return "other_database"
        raise


async def _committed_async(transaction: Any) -> str:
    try:
        await transaction.commit()
    except Exception as error:
        if is_conflict(error) or is_refusal(error):
            raise
        log.warning("the answer to a COMMIT was lost: %s", error)
        return "unknown"
    return "committed"


async def _own_async(scope: Scope, running: RunningStep, function: Registered, args: tuple[Any, ...], kwargs: dict[str, Any], at: tuple[Any, ...]) -> Any:
    client = scope.execution.client
    number = (await client.request(OP_TX_OPEN, at[:3]))[0]
    try:
        value = await function.function(AsyncTransaction(scope.execution, number), *args, **kwargs)
        output = _output(function, value)
        _still_wanted(running)
    except BaseException:
        client.submit_quietly(OP_TX_ROLLBACK, (number,))
        raise
    return Outcome(output, value, ()), OP_TX_COMMIT, (number, *at, output)


async def _quietly_async(action: Any) -> None:
    try:
        await action()
    except Exception as error:
        log.debug("after a transaction: %s", error)


# -- outside a run: the plain function in a transaction of its own


def run_plain(function: Registered, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    source: Source | None = getattr(function, "source", None)
    if source is None:
        raise OutsideRun(f"transaction {function.name!r} uses the engine's own connection, which exists inside a workflow")
    transaction = source.open()
    try:
        value = function.function(transaction.given, *args, **kwargs)
        transaction.commit()
        return value
    except BaseException:
        _quietly(transaction.rollback)
        raise
    finally:
        _quietly(transaction.close)


async def run_plain_async(engine: Engine, function: Registered, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not function.is_async:
        return await on_a_thread(engine, run_plain, function, args, kwargs)
    source: Source | None = getattr(function, "source", None)
    if source is None:
        raise OutsideRun(f"transaction {function.name!r} uses the engine's own connection, which exists inside a workflow")
    transaction = await source.open_async()
    try:
        value = await function.function(transaction.given, *args, **kwargs)
        await transaction.commit()
        return value
    except BaseException:
        await uninterrupted(_quietly_async(transaction.rollback))
        raise
    finally:
        await uninterrupted(_quietly_async(transaction.close))
