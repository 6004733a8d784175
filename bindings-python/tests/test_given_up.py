"""Answers that nobody waits for any more: the program cancelled its own step. The rest of the run goes on."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest
from conftest import Database

from everstep import AsyncEverstep, Everstep, ResultTimeout, _native

SOON = timedelta(seconds=10)
DAY = timedelta(days=1)


def test_a_step_cancelled_while_its_answer_waits_takes_no_other_answer_with_it(database: Database) -> None:
    """The first of two answers asks for the turn that hands out the second. It was dropped with its step, and the run waited for ever."""

    async def main() -> None:
        app = AsyncEverstep(**{**database.settings, "replay": None})  # what is recorded already adds no rows
        both = asyncio.Event()
        running = 0

        @app.step
        async def quick(n: int) -> int:
            nonlocal running
            running += 1
            if running == 2:
                both.set()
            await both.wait()
            return n

        @app.workflow
        async def work() -> list[int]:
            recorded = app.info()["counters"]["rows"]
            first, second = asyncio.create_task(quick(1)), asyncio.create_task(quick(2))
            await both.wait()
            for _ in range(3):
                await asyncio.sleep(0)  # both have said how they ended, the second, which did not have to wait, first
            while app.info()["counters"]["rows"] < recorded + 2:
                pass  # the loop is busy while both are recorded
            second.cancel()
            return [await first, await quick(3)]

        async with app:
            run = await work.start()
            assert await run.result(SOON) == [1, 3]
            client = app._engine.home()
            # All that is left are answers of this program's own requests.
            assert not [token for token, (_, execution) in client._pending.items() if execution is not None]

    asyncio.run(main())


def test_an_answer_that_came_is_not_given_up(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each `ResultTimeout` of a program that polls was noted as one that nobody waits for, in place of those that nobody does."""
    app = Everstep(**database.settings)
    given_up: list[int] = []

    @app.workflow
    def waits() -> None:
        app.receive("never")

    with app:
        run = waits.start()
        monkeypatch.setattr(_native, "cancel", lambda handle, client, token: given_up.append(token))
        for _ in range(3):
            with pytest.raises(ResultTimeout):
                run.result(timedelta(milliseconds=5))
        monkeypatch.undo()
    assert given_up == []


def test_what_a_run_leaves_open_unwinds_in_silence(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Tasks that nobody awaited are answered that the run has ended, and say nothing about it."""
    caplog.set_level(logging.WARNING)

    async def main() -> None:
        app = AsyncEverstep(**database.settings)
        left: list[asyncio.Task[None]] = []
        over = asyncio.Event()

        @app.step
        async def slow() -> None:
            await over.wait()

        @app.step
        async def quick() -> str:
            return "done"

        @app.workflow
        async def work() -> str:
            left.extend((asyncio.create_task(app.sleep(DAY)), asyncio.create_task(slow())))
            return await quick()

        async with app:
            run = await work.start()
            assert await run.result(SOON) == "done"
            over.set()
            await asyncio.wait_for(asyncio.wait(left), 20)
            assert left and all(task.cancelled() for task in left)

    asyncio.run(main())
    assert [record.getMessage() for record in caplog.records if record.name in ("everstep", "asyncio")] == []
