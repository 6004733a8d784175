"""Waits for a point in time. That one outlives its process is in test_processes."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from conftest import Database

import everstep
from everstep import AsyncEverstep, Everstep

SOON = timedelta(seconds=20)
PAST = (datetime(1970, 1, 1, tzinfo=timezone.utc), datetime(2001, 2, 3, tzinfo=timezone(timedelta(hours=5))))
BRIEF = timedelta(milliseconds=60)


def test_sleep_until(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.workflow
    def work() -> list[datetime]:
        for when in PAST:
            app.sleep_until(when)
        due = app.now() + BRIEF
        app.sleep_until(due)
        woke = app.now()
        app.sleep_until(due)  # has passed: no wait
        return [due, woke, app.now()]

    @app.workflow
    def naive(when: Any) -> None:
        app.sleep_until(datetime(2030, 1, 1) if when is None else when)

    with app:
        run = work.start()
        due, woke, after = run.result(SOON)
        assert due <= woke <= after
        assert [step.kind for step in run.steps()].count("sleep") == 4
        for when, says in ((None, "time zone"), (5, "datetime")):
            with pytest.raises(everstep.RunFailed) as failed:
                naive.start(when).result(SOON)
            assert isinstance(failed.value.__cause__, everstep.ConfigInvalid) and says in failed.value.__cause__.message


def test_sleep_until_in_a_coroutine(database: Database) -> None:
    async def main() -> None:
        app = AsyncEverstep(**database.settings)

        @app.workflow
        async def work() -> list[datetime]:
            await asyncio.gather(*(app.sleep_until(when) for when in PAST))
            due = await app.now() + BRIEF
            await app.sleep_until(due)
            return [due, await app.now()]

        async with app:
            due, woke = await (await work.start()).result(SOON)
            assert due <= woke

    asyncio.run(main())
