"""Two modules with an engine each are the first thing people write. What belongs to the other one would be recorded nowhere, and happen again with every
replay: a card charged once a deploy."""

from __future__ import annotations

import asyncio
import pathlib
from datetime import timedelta
from typing import Any

import pytest
from conftest import Database

import everstep
from everstep import AsyncEverstep, Everstep

SOON = timedelta(seconds=20)


def refusal(call: Any) -> str:
    with pytest.raises(everstep.OutsideRun) as caught:
        call()
    return caught.value.message


@pytest.mark.parametrize("strict", [False, True])
def test_what_is_of_another_engine_belongs_in_a_step(database: Database, tmp_path: pathlib.Path, strict: bool) -> None:
    app = Everstep(**{**database.settings, "replay": "always"}, strict=strict)
    other = Everstep(f"sqlite:{tmp_path}/other.db", strict=strict)
    charged: list[int] = []

    @other.step
    def charge(n: int) -> int:
        charged.append(n)
        return n

    @other.transaction
    def book(tx: Any) -> None: ...

    @other.workflow
    def theirs(n: int) -> int:
        return n

    @app.step
    def inside(n: int) -> int:
        return charge(n) + theirs.start(n).result(SOON)

    @app.workflow
    def work(key: str) -> list[str]:
        run = other.run(key=key)
        calls = [
            lambda: charge(1),
            lambda: charge.options(key="a")(1),
            book,
            lambda: charge.start(1),
            lambda: theirs.start(1),
            lambda: theirs.start_many([1]),
            run.result,
            lambda: run.send("topic", 1),
            lambda: other.send(run, "topic", 1),
            lambda: run.get_event("key"),
        ]
        said = [refusal(call) for call in calls]
        assert inside(4) == 8
        return said

    with other, app:
        said = work.start(theirs.start(1).key).result(SOON)
        assert said[0].startswith("step 'charge' is of another engine than this workflow") and "inside a step" in said[0]
        assert all("another engine" in text for text in said)
        assert charged == [4] and len(other.runs().items) == 2


def test_the_same_in_a_coroutine(database: Database, tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        app = AsyncEverstep(**database.settings)
        other = AsyncEverstep(f"sqlite:{tmp_path}/other.db")
        charged: list[int] = []

        @other.step
        async def charge(n: int) -> int:
            charged.append(n)
            return n

        @other.workflow
        async def theirs(n: int) -> int:
            return n

        @app.step
        async def inside(n: int) -> int:
            return await charge(n) + await (await theirs.start(n)).result(SOON)

        @app.workflow
        async def work(key: str) -> list[str]:
            run = other.run(key=key)
            said: list[str] = []
            for call in (
                lambda: charge(1),
                lambda: theirs.start(1),
                lambda: theirs.start_many([1]),
                run.result,
                lambda: run.send("topic", 1),
                lambda: other.send(run, "topic", 1),
                lambda: run.get_event("key"),
            ):
                try:
                    await call()
                except everstep.OutsideRun as error:
                    said.append(error.message)
            assert await inside(4) == 8
            return said

        async with other, app:
            said = await (await work.start((await theirs.start(1)).key)).result(SOON)
            assert len(said) == 7 and all("another engine" in text for text in said)
            assert charged == [4] and len((await other.runs()).items) == 2

    asyncio.run(main())
