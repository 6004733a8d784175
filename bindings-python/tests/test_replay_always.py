"""`replay="always"`: released at every wait, replayed before every step, so that the surprise comes in the first unit test."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta
from typing import Any

from conftest import Database

from everstep import AsyncEverstep, Everstep

SOON = timedelta(seconds=20)
BRIEF = timedelta(milliseconds=5)


def settings(database: Database) -> dict[str, Any]:
    return {**database.settings, "replay": "always"}


def test_the_code_between_steps_runs_again_before_each_step(database: Database) -> None:
    app = Everstep(**settings(database))
    passes = {"start": 0, "after one": 0, "after two": 0, "after the wait": 0}
    ran: list[str] = []

    @app.step
    def step(name: str) -> str:
        ran.append(name)
        return name

    @app.workflow
    def work() -> list[str]:
        passes["start"] += 1
        out = [step("one")]
        passes["after one"] += 1
        out.append(step("two"))
        passes["after two"] += 1
        app.sleep(BRIEF)
        passes["after the wait"] += 1
        return [*out, step("three")]

    with app:
        assert work.start().result(SOON) == ["one", "two", "three"]
    assert ran == ["one", "two", "three"], "a recorded step never runs again"
    # Before step two, at the wait (however short), and before step three: three replays at least.
    assert passes["start"] >= 3 and passes["after one"] >= 3 and passes["after two"] >= 2 and passes["after the wait"] >= 1, passes


def test_an_effect_between_steps_shows_at_once(database: Database) -> None:
    app = Everstep(**settings(database))
    numbers = itertools.count()

    @app.step
    def step(value: int) -> int:
        return value

    @app.workflow
    def counts() -> list[int]:
        first = step(next(numbers))
        return [first, step(next(numbers))]

    with app:
        # In production this would give [0, 1] until the day a process dies between the two.
        assert counts.start().result(SOON) != [0, 1]


def test_branches_and_short_waits(database: Database) -> None:
    async def main() -> None:
        app = AsyncEverstep(**settings(database))
        passes = 0

        @app.step
        async def double(n: int) -> int:
            return n * 2

        @app.workflow
        async def work() -> list[Any]:
            nonlocal passes
            passes += 1
            first = await app.map(double, [1, 2, 3])
            await app.sleep(BRIEF)
            message = await app.receive("go")
            pair = await asyncio.gather(double(4), double(5))
            return [first, message, list(pair), await double(6)]

        async with app:
            run = await work.options(id="branches").start()
            await app.send("branches", "go", "on")
            assert await run.result(SOON) == [[2, 4, 6], "on", [8, 10], 12]
        assert passes >= 3

    asyncio.run(main())
