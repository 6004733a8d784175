"""What one start, call or control call may say: the same code for the same mistake in every language, and never an error of the border."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import math
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from conftest import Database

import everstep
from everstep import AsyncEverstep, Dedup, Everstep, Retry, Transaction

SOON = timedelta(seconds=20)
BRIEF = timedelta(milliseconds=100)


def parts(database: Database) -> tuple[Everstep, Any, Any]:
    app = Everstep(**database.settings)

    @app.step
    def double(n: int) -> int:
        return 2 * n

    @app.workflow
    def work(n: int) -> int:
        return double.options(retry=Retry(retry_if=lambda error: False))(n)

    return app, work, double


@pytest.mark.parametrize("retry", [Retry(non_retryable=(ValueError,)), Retry(retry_if=lambda error: True)])
def test_predicates_do_not_travel_with_a_start(database: Database, retry: Retry) -> None:
    app, work, double = parts(database)
    with app:
        for start in (
            lambda: work.options(retry=retry).start(1),
            lambda: double.options(retry=retry).start(1),
            lambda: work.options(retry=retry).start_many([1]),
            lambda: app.reference("work").options(retry=retry).start(1),
        ):
            with pytest.raises(everstep.ConfigInvalid, match="not for a start"):
                start()
        assert app.runs().items == []
        # A call runs here, where they are.
        assert work.start(2).result(SOON) == 4


def test_a_start_leaves_the_rest_of_what_was_declared(database: Database) -> None:
    app = Everstep(**database.settings)
    attempts: dict[str, int] = {}
    soon = timedelta(milliseconds=1)

    @app.step(retry=Retry(max_attempts=2, initial=soon), timeout=timedelta(milliseconds=50))
    def hangs(name: str) -> None:
        attempts[name] = app.run_attempt()
        while not app.cancel_requested():
            threading.Event().wait(0.005)
        raise everstep.Cancelled

    with app:
        # Its timeout stays, or this would hang; so do its attempts.
        starts: dict[str, Any] = {"retry": {"retry": Retry(max_attempts=3, initial=soon)}, "timeout": {"timeout": timedelta(milliseconds=20)}}
        for name, options in starts.items():
            with pytest.raises(everstep.RunFailed) as failed:
                hangs.options(**options).start(name).result(SOON)
            assert isinstance(failed.value.__cause__, everstep.StepTimeout)
    assert attempts == {"retry": 3, "timeout": 2}


def test_a_policy_of_one_call_or_start_leaves_the_rest_of_the_declared_one(database: Database) -> None:
    app = Everstep(**database.settings)
    attempts: dict[str, int] = {}
    declared = Retry(max_attempts=3, initial=timedelta(milliseconds=1), non_retryable=(LookupError,), retry_if=lambda error: not isinstance(error, ValueError))

    @app.step(retry=declared)
    def fails(kind: str) -> None:
        attempts[kind] = attempts.get(kind, 0) + 1
        raise {"os": OSError, "final": LookupError, "asked": ValueError, "added": EOFError}[kind]

    @app.step(retry=Retry(), timeout=SOON)
    def bare() -> None:
        attempts["bare"] = app.attempt()
        if app.attempt() < 5:
            raise OSError

    @app.workflow
    def work() -> float:
        begun = time.monotonic()
        for kind in ("os", "final", "asked", "added"):
            with contextlib.suppress(everstep.StepError):
                fails.options(retry=Retry(max_attempts=4, non_retryable=(EOFError,)))(kind)
        bare.options(retry=Retry(initial=timedelta(milliseconds=1)))()
        return time.monotonic() - begun

    with app:
        # Before the second attempt alone it would be half a second on average if the intervals were forgotten.
        assert work.start().result(SOON) < 2
        assert attempts == {"os": 4, "final": 1, "asked": 1, "added": 1, "bare": 5}
        for kind in ("os", "final", "asked"):
            with pytest.raises(everstep.RunFailed):
                fails.options(retry=Retry(max_attempts=5)).start(kind).result(SOON)
        assert attempts == {"os": 9, "final": 2, "asked": 2, "added": 1, "bare": 5}


@pytest.mark.parametrize("retry", [{"max_attempts": 0}, {"factor": 0.5}, {"factor": math.nan}, {"max_attempts": 1.5}])
def test_policies_nothing_could_mean(retry: dict[str, Any]) -> None:
    with pytest.raises(everstep.ConfigInvalid):
        Retry(**retry)


@pytest.mark.parametrize("value", [{"nested": 1}, [1], None, object(), math.nan, "\ud800", b"x"])
def test_attributes_are_scalars(database: Database, value: Any) -> None:
    app, work, _ = parts(database)
    with app:
        with pytest.raises(everstep.PayloadInvalid, match="attribute"):
            work.options(attributes={"region": value}).start(1)
        with pytest.raises(everstep.PayloadInvalid, match="attribute"):
            app.runs(attribute=("region", value))
        with pytest.raises(everstep.PayloadInvalid, match="attribute"):
            work.options(attributes={5: "x"}).start(1)
        assert app.runs().items == []


def test_wrong_types_are_named(database: Database) -> None:
    app, work, double = parts(database)
    five: Any = 5
    with app:
        run = work.options(id="one").start(1)
        for name, call in {
            "by": lambda: run.cancel(by=five),
            "why": lambda: run.cancel(why=five),
            "by ": lambda: run.resume(by=five),
            " by": lambda: run.retry(by=five),
            "branch": lambda: run.rewind(1, branch=five),
            "seq": lambda: run.rewind("1"),  # type: ignore[arg-type]
            "idempotency key": lambda: run.send("topic", 1, idempotency_key=five),
            "workflow": lambda: app.runs(workflow=five),
            "queue": lambda: app.runs(queue=five),
            "after": lambda: app.runs(after=five),
            "states": lambda: app.runs(states=[five]),
            "pair": lambda: app.runs(attribute=five),
            "branch ": lambda: run.rewind(1, branch=None),  # type: ignore[arg-type]
            "seq ": lambda: run.rewind(2**70),
            "list": lambda: app.runs(states=five),
            "inputs": lambda: work.start_many(five),
            "limit": lambda: app.runs(limit="many"),  # type: ignore[arg-type]
            "key": lambda: double.options(key=five),
        }.items():
            with pytest.raises(everstep.ConfigInvalid, match=name.strip()):
                call()
        for call in (
            lambda: app.run(five),
            lambda: app.run(key=five),
            lambda: app.key_of(five),
            lambda: app.send(five, "topic", 1),
            lambda: app.runs(parent=five),
        ):
            with pytest.raises(everstep.IdInvalid, match="str"):
                call()


def test_what_a_program_s_own_iterable_raises_is_the_program_s(database: Database) -> None:
    app, work, _ = parts(database)
    rows: Any = [1, None]
    with app:
        with pytest.raises(TypeError, match="unsupported operand"):
            work.start_many(row + 1 for row in rows)
    with pytest.raises(TypeError, match="unsupported operand"):
        Retry(non_retryable=(row + 1 for row in rows))  # type: ignore[arg-type]


def test_what_is_as_good_as_an_int_or_as_nothing(database: Database) -> None:
    class Priority(enum.IntEnum):
        HIGH = -10

    class Attempts(enum.IntEnum):
        FEW = 2

    app, work, _ = parts(database)
    nothing: Any = None
    assert app.queue("unsaid", paused=nothing, hold=nothing) == "unsaid"
    for wrong in (True, 1.0):
        with pytest.raises(everstep.ConfigInvalid, match="max_attempts is an int"):
            Retry(max_attempts=wrong)  # type: ignore[arg-type]
    with app:
        run = work.options(
            priority=Priority.HIGH, cost=Attempts.FEW, retry=Retry(max_attempts=Attempts.FEW), dedup=Dedup("one", scope=nothing, policy=nothing)
        ).start(1)
        status = run.status()
        assert (status.priority, status.cost) == (-10, 2)
        assert len(app.runs(limit=Attempts.FEW).items) == 1
        assert [(queue.paused, queue.hold) for queue in app.queues() if queue.name == "unsaid"] == [(False, False)]
        assert run.result(SOON) == 2


def test_a_migration_for_a_store_nobody_knows(database: Database) -> None:
    app = Everstep(**database.settings)
    for store, named in (("mysql", "not 'mysql'"), (5, "not 'int'")):
        with pytest.raises(everstep.ConfigInvalid, match=named):
            app.migration_sql(store)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", ["", "x" * 256, "a\nb", "\x85", "\ud800"])
def test_codes_of_errors(code: str) -> None:
    with pytest.raises(everstep.IdInvalid):
        Everstep().error(code)(type("Broken", (Exception,), {}))
    # Whatever the engine takes as a name is one here too.
    Everstep().error("a\u00a0b")(type("Broken", (Exception,), {}))


def test_many_handles_know_their_ids(database: Database) -> None:
    app, work, _ = parts(database)
    with app:
        runs = work.start_many([1, 2], id=lambda n: f"item-{n}")
        assert [run.id for run in runs] == ["item-1", "item-2"]
        assert repr(runs[0]) == "<Run item-1>"
        for nothing in (None, 5, ""):
            with pytest.raises(everstep.IdInvalid):
                work.start_many([3], id=lambda _, nothing=nothing: nothing)

    async def main() -> None:
        async with AsyncEverstep(**database.settings) as app:
            runs = await app.reference("work").start_many([1, 2], id=lambda n: f"item-{n}")
            assert [(run.id, run.attached) for run in runs] == [("item-1", True), ("item-2", True)]

    asyncio.run(main())


def test_many_jobs(database: Database) -> None:
    app, _, double = parts(database)

    @app.transaction
    def book(tx: Any) -> None: ...

    with app:
        runs = double.start_many([1, 2], id=lambda n: f"job-{n}")
        assert [(run.id, run.result(SOON)) for run in runs] == [("job-1", 2), ("job-2", 4)]
        with pytest.raises(everstep.ConfigInvalid, match="no job"):
            book.start_many([1])

    async def main() -> None:
        app = AsyncEverstep(**database.settings)

        @app.step
        async def double(n: int) -> int:
            return 2 * n

        async with app:
            runs = await double.start_many([1, 3], id=lambda n: f"job-{n}")
            assert [(run.attached, await run.result(SOON)) for run in runs] == [(True, 2), (False, 6)]

    asyncio.run(main())


def test_whole_numbers_beyond_64_bits_go_as_text(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.transaction
    def large(tx: Transaction, n: int) -> str:
        return tx.execute("select cast($1 as text)", n).scalar()

    @app.workflow
    def work() -> list[str]:
        return [large(2**70), large(-(2**63) - 1)]

    with app:
        assert work.start().result(SOON) == [str(2**70), str(-(2**63) - 1)]


def test_errors_name_their_run(database: Database) -> None:
    app, _, _ = parts(database)

    @app.workflow
    def waits() -> None:
        app.receive("never")

    @app.workflow
    def parent() -> list[Any]:
        seen: list[Any] = []
        child = waits.options(id="child").start()
        for run in (child, app.run("nobody")):
            try:
                run.result(BRIEF)
            except (everstep.ResultTimeout, everstep.RunNotFound) as error:
                seen.append((error.code, error.run == run.key))
        return seen

    with app:
        run = waits.options(id="waits").start()
        with pytest.raises(everstep.ResultTimeout) as late:
            run.result(BRIEF)
        assert late.value.run == run.key
        nobody = app.run("nobody")
        for call in (
            nobody.status,
            nobody.steps,
            nobody.result,
            lambda: nobody.send("x", 1),
            lambda: app.send("nobody", "x", 1),
            lambda: app.get_event("nobody", "x"),
        ):
            with pytest.raises(everstep.RunNotFound, match="nobody") as missing:
                call()
            assert missing.value.run == nobody.key
        assert parent.start().result(SOON) == [["result_timeout", True], ["run_not_found", True]]


def changing(database: Database, name: str) -> Everstep:
    app = Everstep(**database.settings)
    step = app.step(name=name)(lambda: 1)

    @app.workflow
    def changed() -> None:
        step()
        app.receive("never")

    return app


def test_a_blocked_run_is_named(database: Database) -> None:
    with changing(database, "before") as app:
        with pytest.raises(everstep.ResultTimeout):
            app.reference("changed").options(id="changed").start().result(timedelta(milliseconds=300))
    with changing(database, "after") as app:
        app.send("changed", "never", 1)
        with pytest.raises(everstep.RunBlocked) as blocked:
            app.run("changed").result(SOON)
        assert blocked.value.run == app.key_of("changed")
