"""What a workflow does, in threads and in asyncio."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import threading
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal

import pytest
from conftest import Database

import everstep
from everstep import AsyncEverstep, Dedup, Everstep, Retry

SOON = timedelta(seconds=20)


@dataclasses.dataclass
class Order:
    id: int
    total: Decimal
    at: dt.datetime


@dataclasses.dataclass
class Receipt:
    order: Order
    labels: list[str]


def test_types_arrive_as_declared(database: Database) -> None:
    app = Everstep(**database.settings)
    seen: list[Any] = []

    @app.step
    def price(order: Order, factor: int) -> Order:
        return dataclasses.replace(order, total=order.total * factor)

    @app.workflow
    def checkout(order: Order, *, factor: int = 2) -> Receipt:
        seen.append(order)
        priced = price(order, factor)
        return Receipt(priced, ["a"])

    order = Order(1, Decimal("12.50"), dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc))
    with app:
        run = checkout.options(id="order-1").start(order, factor=3)
        assert run.result(SOON) == Receipt(Order(1, Decimal("37.50"), order.at), ["a"])
        assert seen == [order]
        again = checkout.options(id="order-1").start(order, factor=3)
        assert again.attached and again.key == run.key
        assert [step.name for step in run.steps()] == ["price"]


def test_start_returns_what_the_first_run_saw(database: Database) -> None:
    """A step's result is what its bytes decode to, the first time too."""
    app = Everstep(**database.settings)

    @app.step
    def pair() -> Any:
        return (1, [Decimal("2")])

    @app.workflow
    def work() -> str:
        return repr(pair())

    with app:
        assert work.start().result(SOON) == "[1, [Decimal('2')]]"


def test_retries_and_errors(database: Database) -> None:
    app = Everstep(**database.settings)
    attempts: list[int] = []

    @app.error("card_declined")
    class CardDeclined(Exception):
        def __init__(self, reason: str, amount: Decimal) -> None:
            super().__init__(f"declined: {reason}")
            self.reason = reason
            self.amount = amount

    @app.step(retry=Retry(max_attempts=3, initial=timedelta(milliseconds=5), non_retryable=(CardDeclined,)))
    def flaky() -> int:
        attempts.append(app.attempt())
        if len(attempts) < 3:
            raise OSError("line down")
        return 7

    @app.step(retry=Retry(max_attempts=3, initial=timedelta(milliseconds=5), non_retryable=(CardDeclined,)))
    def declined() -> int:
        attempts.append(app.attempt())
        raise CardDeclined("funds", Decimal("9.50"))

    @app.step
    def broken() -> int:
        raise LookupError("nothing here")

    @app.workflow
    def work() -> list[Any]:
        out: list[Any] = [flaky()]
        try:
            declined()
        except CardDeclined as error:
            out += [error.reason, str(error.amount)]
        try:
            broken()
        except everstep.StepError as error:
            out += [error.error_type, error.message, error.stack is not None and "nothing here" in error.stack]
        return out

    @app.workflow
    def failing() -> None:
        declined()

    with app:
        assert work.start().result(SOON) == [7, "funds", "9.50", "LookupError", "nothing here", True]
        assert attempts == [1, 2, 3, 1]
        with pytest.raises(everstep.RunFailed, match="declined: funds") as caught:
            failing.start().result(SOON)
        assert isinstance(caught.value.__cause__, CardDeclined) and caught.value.__cause__.amount == Decimal("9.50")


def test_all_map_any_race(database: Database) -> None:
    app = Everstep(**database.settings)
    released = threading.Event()

    @app.step
    def double(n: int) -> int:
        return 2 * n

    @app.step
    def slow(n: int) -> int:
        assert released.wait(20)
        return n

    @app.step
    def fails(n: int) -> int:
        raise ValueError(n)

    @app.workflow
    def work() -> list[Any]:
        one, two = app.all(lambda: double(1), lambda: double(2))
        mapped = app.map(double, [3, 4, 5], key=str, limit=2)
        winner = app.race(lambda: slow(9), lambda: double(6))
        succeeded = app.any(lambda: fails(1), lambda: double(7))
        return [one, two, mapped, winner, succeeded]

    with app:
        try:
            assert work.start().result(SOON) == [2, 4, [6, 8, 10], 12, 14]
        finally:
            released.set()


def test_a_failed_branch_of_all_is_raised_after_the_others(database: Database) -> None:
    app = Everstep(**database.settings)
    done: list[int] = []

    @app.step
    def one(n: int) -> int:
        if n == 1:
            raise ValueError("first")
        done.append(n)
        return n

    @app.workflow
    def work() -> Any:
        try:
            return app.all(lambda: one(1), lambda: one(2), lambda: one(3))
        except everstep.StepError as error:
            return error.message

    with app:
        assert work.start().result(SOON) == "first"
        assert sorted(done) == [2, 3]


def test_children_messages_events(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.workflow
    def child(n: int) -> int:
        if n < 0:
            raise ValueError("negative")
        return n * n

    @app.workflow
    def parent() -> list[Any]:
        runs = [child.options(id=f"child-{n}").start(n) for n in (2, 3)]
        out: list[Any] = [run.result() for run in runs]
        try:
            child.start(-1).result()
        except everstep.RunFailed as error:
            out.append(str(error.message))
        app.set_event("stage", {"at": 1})
        out.append(app.receive("word", returns=str))
        out.append(app.receive("word", timeout=timedelta(milliseconds=1), returns=str))
        return out

    with app:
        run = parent.options(id="family").start()
        assert run.get_event("stage", timeout=SOON) == {"at": 1}
        app.send("family", "word", "hello", idempotency_key="k1")
        app.send(run, "word", "hello", idempotency_key="k1")
        assert run.result(SOON) == [4, 9, "ValueError: negative", "hello", None]
        for parent_of in (run, "family"):
            assert {info.id for info in app.runs(parent=parent_of).items} == {"child-2", "child-3", None}


def test_cancel_reaches_a_waiting_and_a_running_step(database: Database) -> None:
    app = Everstep(**database.settings)
    running = threading.Event()
    cleaned: list[str] = []

    @app.step
    def clean_up(what: str) -> None:
        cleaned.append(what)

    @app.step
    def loops() -> None:
        running.set()
        waiter = threading.Event()
        while not app.cancel_requested():
            waiter.wait(0.01)
        raise everstep.Cancelled()

    @app.workflow
    def works() -> None:
        try:
            loops()
        finally:
            with app.shielded():
                clean_up("loops")

    @app.workflow
    def waits() -> None:
        try:
            app.sleep(timedelta(days=1))
        except everstep.Cancelled as error:
            with app.shielded():
                clean_up(f"{error.by}: {error.why}")
            raise

    with app:
        run = works.start()
        assert running.wait(20)
        assert run.cancel(by="me", why="enough") in ("requested", "cancelled")
        with pytest.raises(everstep.RunCancelled):
            run.result(SOON)
        sleeper = waits.start()
        until(lambda: bool(sleeper.status().waits_for))
        sleeper.cancel(by="me", why="enough")
        with pytest.raises(everstep.RunCancelled):
            sleeper.result(SOON)
        assert cleaned == ["loops", "me: enough"]
        assert sleeper.cancel() == "already_finished"


def until(condition: Any, seconds: float = 20) -> None:
    import time

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come"
        threading.Event().wait(0.01)


def test_step_timeout(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.step(timeout=timedelta(milliseconds=50))
    def slow() -> int:
        while not app.cancel_requested():
            threading.Event().wait(0.01)
        return 1

    @app.workflow
    def work() -> str:
        try:
            return str(slow())
        except everstep.StepTimeout as error:
            return error.code

    with app:
        assert work.start().result(SOON) == "step_timeout"


def test_a_step_is_a_job(database: Database) -> None:
    app = Everstep(**database.settings)
    keys: list[str] = []

    @app.step(retry=Retry(max_attempts=2, initial=timedelta(milliseconds=5)))
    def job(n: int) -> int:
        keys.append(app.idempotency_key())
        if len(keys) == 1:
            raise OSError
        return n + 1

    queue = app.queue("jobs", limit=3)
    with app:
        assert job.options(queue=queue).start(4).result(SOON) == 5
        assert len(keys) == 2 and keys[0] == keys[1]
        assert [q.name for q in app.queues()] == ["jobs"]
        app.pause_queue("jobs")
        held = job.options(queue=queue).start(5)
        with pytest.raises(everstep.ResultTimeout, match="jobs"):
            held.result(timedelta(milliseconds=300))
        app.resume_queue("jobs")
        assert held.result(SOON) == 6


def test_start_many_and_lists(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.workflow
    def square(n: int) -> int:
        return n * n

    with app:
        runs = square.options(attributes={"batch": "one"}).start_many(range(25), id=lambda n: f"sq-{n}")
        assert [run.result(SOON) for run in runs] == [n * n for n in range(25)]
        assert all(run.attached for run in square.start_many(range(25), id=lambda n: f"sq-{n}"))
        seen: set[str | None] = set()
        after: str | None = None
        while True:
            page = app.runs(workflow="square", attribute=("batch", "one"), after=after, limit=10)
            seen |= {info.id for info in page.items}
            after = page.next
            if after is None:
                break
        assert len(seen) == 25
        assert app.run("sq-3", returns=int).result(SOON) == 9


def test_durable_values_and_patch(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.workflow
    def work() -> list[Any]:
        return [app.now(), app.uuid(), app.random(), app.patch("new"), app.run_step(str.upper, "x"), app.run_step(lambda: 4, returns=int)]

    with app:
        now, identity, number, patched, upper, four = work.start().result(SOON)
        assert abs(now - dt.datetime.now(dt.timezone.utc)) < timedelta(minutes=1)
        assert len(str(identity)) == 36 and 0 <= number < 1
        assert (patched, upper, four) == (True, "X", 4)


def test_asyncio(database: Database) -> None:
    async def main() -> None:
        app = AsyncEverstep(**database.settings)

        @app.step
        async def double(n: int) -> int:
            await asyncio.sleep(0)
            return 2 * n

        @app.step
        def threaded(n: int) -> int:
            assert threading.current_thread() is not threading.main_thread()
            return n + 1

        @app.step(timeout=timedelta(milliseconds=50))
        async def endless() -> None:
            await asyncio.Event().wait()

        @app.workflow
        async def work(n: int) -> list[Any]:
            out: list[Any] = list(await asyncio.gather(double(n), double(n + 1), double(n + 2)))
            out.append(await threaded.aio(1))
            await app.sleep(timedelta(milliseconds=5))
            out += await app.map(double, [10, 20], key=str)
            out.append(await app.race(lambda: double(1), lambda: app.sleep(timedelta(days=1))))
            try:
                await endless()
            except everstep.StepTimeout as error:
                out.append(error.code)
            async with asyncio.timeout(10) if hasattr(asyncio, "timeout") else _Nothing():
                out.append(await double(50))
            return out

        @app.workflow
        def sync_work(n: int) -> int:
            return threaded(n)

        async with app:
            run = await work.options(id="a").start(1)
            assert await run.result(SOON) == [2, 4, 6, 2, 20, 40, 2, "step_timeout", 100]
            assert await (await sync_work.start(4)).result(SOON) == 5
            assert (await run.status()).state == "succeeded"
            waiting = await app.reference("nobody").start({"a": 1})
            assert (await waiting.status()).state == "ready"

    asyncio.run(main())


class _Nothing:
    async def __aenter__(self) -> None: ...
    async def __aexit__(self, *_: object) -> None: ...


def test_async_cancel(database: Database) -> None:
    async def main() -> None:
        app = AsyncEverstep(**database.settings)
        started = asyncio.Event()
        cleaned: list[str] = []

        @app.step
        async def endless() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cleaned.append("step")
                raise

        @app.step
        async def clean_up() -> None:
            cleaned.append("workflow")

        @app.workflow
        async def work() -> None:
            try:
                await endless()
            finally:
                with app.shielded():
                    await clean_up()

        async with app:
            run = await work.start()
            await asyncio.wait_for(started.wait(), 20)
            await run.cancel()
            with pytest.raises(everstep.RunCancelled):
                await run.result(SOON)
            assert cleaned == ["step", "workflow"]

    asyncio.run(main())


def test_views_share_one_engine(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.step
    async def add(n: int) -> int:
        return n + 1

    @app.workflow
    async def work(n: int) -> int:
        return await add(n)

    with app:
        assert work.start(1).result(SOON) == 2

        async def handler() -> int:
            with pytest.raises(everstep.WrongLoop, match="aio"):
                work.start(5)
            return await (await work.aio.start(5)).result(SOON)

        assert asyncio.run(handler()) == 6


def test_children_under_a_dedup_key(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.workflow
    def child(n: int) -> int:
        app.receive("go")
        return n

    @app.workflow
    def other(n: int) -> int:
        return n

    @app.workflow
    def parent(policy: Literal["attach", "reject"]) -> int:
        return child.options(dedup=Dedup("k", scope="until_done", policy=policy)).start(2).result()

    @app.workflow
    def stranger() -> int:
        return other.options(dedup=Dedup("k", scope="until_done")).start(3).result()

    with app:
        holder = child.options(dedup=Dedup("k", scope="until_done")).start(1)
        with pytest.raises(everstep.RunFailed) as refused:
            parent.start("reject").result(SOON)
        assert isinstance(refused.value.__cause__, everstep.RunDeduplicated)
        for strange in (stranger.start, lambda: other.options(dedup=Dedup("k", scope="until_done")).start(3)):
            with pytest.raises((everstep.RunFailed, everstep.IdConflict)):
                strange().result(SOON)
        attached = parent.start("attach")
        holder.send("go", None)
        assert attached.result(SOON) == holder.result(SOON) == 1


def test_a_retry_repeats_no_transaction_after_a_failure_that_was_handled(database: Database) -> None:
    app = Everstep(**database.settings)
    calls: list[str] = []

    @app.step
    def look_up() -> str:
        calls.append("look_up")
        raise LookupError("no such coupon")

    @app.transaction
    def pay(tx: everstep.Transaction) -> int:
        calls.append("pay")
        return 5

    @app.workflow(retry=Retry(max_attempts=3, initial=timedelta(0)))
    def order() -> int:
        try:
            look_up()
        except everstep.StepError:
            pass
        paid = pay()
        calls.append("end")
        if calls.count("end") < 3:
            raise RuntimeError("the warehouse is closed")
        return paid

    with app:
        assert order.start().result(SOON) == 5
    assert (calls.count("look_up"), calls.count("pay")) == (1, 1)


def test_a_runs_own_retry_does_not_repeat_an_at_most_once_step(database: Database) -> None:
    app = Everstep(**database.settings)
    calls: list[str] = []

    @app.step(at_most_once=True)
    def fire() -> None:
        calls.append("fire")
        raise RuntimeError("misfire")

    @app.workflow(retry=Retry(max_attempts=3, initial=timedelta(0)))
    def launch() -> None:
        calls.append("launch")
        fire()

    with app:
        run = launch.start()
        with pytest.raises(everstep.RunFailed):
            run.result(SOON)
        assert (calls.count("fire"), calls.count("launch")) == (1, 3)
        run.retry()
        with pytest.raises(everstep.RunFailed):
            run.result(SOON)
        assert calls.count("fire") == 2, "a person's retry is a decision to make it again"
