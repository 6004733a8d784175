"""What happens to a step after its call and outside its function: before it starts, instead of it, between two tries of a transaction, and just after it."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from conftest import Database
from test_transactions import postgres as postgres

import everstep
from everstep import AsyncEverstep, Everstep, StepTimeout
from everstep._scope import Execution

SOON = timedelta(seconds=20)
SHORT = timedelta(milliseconds=50)
DAY = timedelta(days=1)


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Whether a signal of the engine has come to any run."""
    seen: list[Any] = []
    signal = Execution.signal

    def see(execution: Execution, frame: tuple[Any, ...]) -> None:
        signal(execution, frame)
        seen.append(frame)

    monkeypatch.setattr(Execution, "signal", see)
    return lambda: bool(seen)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - no event fits both: the signal may come on another thread
        await asyncio.sleep(0)


def test_a_timeout_before_the_start_is_kept(database: Database, signalled: Callable[[], bool]) -> None:
    """It found no running step, and the step had no timeout from then on."""

    async def main() -> None:
        app = AsyncEverstep(**database.settings)

        @app.step(timeout=SHORT)
        async def fetch() -> None:
            await asyncio.Event().wait()

        @app.step
        async def slow() -> None:
            await until(signalled)

        @app.workflow
        async def work() -> str:
            fetched = fetch()
            await slow()
            try:
                await fetched
            except StepTimeout as error:
                return error.code
            return "no timeout"

        async with app:
            assert await (await work.start()).result(SOON) == "step_timeout"

    asyncio.run(main())


def test_a_step_that_is_out_of_time_before_its_start_does_not_start(database: Database, signalled: Callable[[], bool]) -> None:
    async def main() -> None:
        app = AsyncEverstep(**{**database.settings, "replay": None})  # a replay gives it its time again
        ran = False

        @app.step(timeout=SHORT)
        async def fetch() -> None:
            nonlocal ran
            ran = True

        @app.workflow
        async def work() -> None:
            fetched = fetch()
            await until(signalled)
            with pytest.raises(StepTimeout):
                await fetched

        async with app:
            await (await work.start()).result(SOON)
            assert not ran

    asyncio.run(main())


@pytest.mark.parametrize("how", ["gather", "wait_for", "cancelled"])
def test_a_step_that_never_starts_holds_up_nothing(database: Database, how: str) -> None:
    """For the engine it was running, and a close waited for it until its time was over."""

    async def main() -> None:
        app = AsyncEverstep(**database.settings)
        reached = asyncio.Event()

        @app.step
        async def charge(amount: Any) -> None:
            raise AssertionError("it never starts")

        @app.workflow
        async def work() -> None:
            if how == "gather":
                with pytest.raises(everstep.PayloadInvalid):
                    await asyncio.gather(charge(1), charge(object()))
            elif how == "wait_for":
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(charge(1), 0)
            else:
                task = asyncio.create_task(charge(1))
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                del task
            gc.collect()
            reached.set()
            await app.sleep(DAY)

        await app.launch()
        run = await work.start()
        await reached.wait()
        begun = time.monotonic()
        await app.close(SOON)
        assert time.monotonic() - begun < SOON.total_seconds() / 2
        assert run.key

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # asyncio's own about a coroutine that was never awaited
        asyncio.run(main())


@pytest.mark.parametrize("view", ["threads", "asyncio"])
def test_the_time_of_a_transaction_goes_on_between_its_tries(postgres: Database, view: str) -> None:
    """Almost all of it is spent waiting for the next try, where the signal was lost: it ran on until there had been sixty."""
    import psycopg

    app = Everstep(**postgres.settings)
    limit = timedelta(milliseconds=300)

    @app.transaction(lambda: psycopg.connect(postgres.url), timeout=limit)
    def conflicts(tx: Any) -> None:
        raise psycopg.errors.SerializationFailure

    @app.transaction(lambda: psycopg.AsyncConnection.connect(postgres.url), timeout=limit)
    async def conflicts_async(tx: Any) -> None:
        raise psycopg.errors.SerializationFailure

    @app.workflow
    def threads() -> str:
        with pytest.raises(StepTimeout) as caught:
            conflicts()
        return caught.value.code

    @app.workflow
    async def asynchronous() -> str:
        with pytest.raises(StepTimeout) as caught:
            await conflicts_async()
        with pytest.raises(StepTimeout):
            await conflicts.aio()
        return caught.value.code

    with app:
        run = threads.start() if view == "threads" else asynchronous.start()
        assert run.result(SOON) == "step_timeout"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 counts no cancels")
def test_a_signal_leaves_no_cancel_behind(postgres: Database) -> None:
    """The count of a step that swallowed its cancel, or raised something else, stayed with the workflow's task: the next `timeout` there never fired."""
    import psycopg

    async def main() -> None:
        app = AsyncEverstep(**postgres.settings)

        async def swallow(how: str) -> str:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if how == "raises":
                    raise ValueError("something else") from None
                if how == "cancelled":
                    raise
            return "late"

        @app.step(timeout=SHORT)
        async def step(how: str) -> str:
            return await swallow(how)

        @app.transaction(lambda: psycopg.AsyncConnection.connect(postgres.url), timeout=SHORT)
        async def transaction(tx: Any, how: str) -> str:
            return await swallow(how)

        @app.workflow
        async def work() -> list[int]:
            left: list[int] = []
            task: Any = asyncio.current_task()
            for call in (step, transaction):
                for how in ("returns", "raises", "cancelled"):
                    with pytest.raises(StepTimeout):
                        await call(how)
                    left.append(task.cancelling())
            return left

        async with app:
            assert await (await work.start()).result(SOON) == [0] * 6

    asyncio.run(main())
