"""Transactions whose end the workflow does not wait for: the loser of a race, and one that is out of time. No row of theirs stays, and the run goes on."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest
from conftest import Database
from test_transactions import postgres as postgres
from test_transactions import rows, table_of

import everstep
from everstep import AsyncEverstep, AsyncTransaction, Everstep, Transaction
from everstep._tx_sources import _AsyncPsycopg

SOON = timedelta(seconds=20)
SHORT = timedelta(milliseconds=50)


def test_the_loser_of_a_race_ends_alone(postgres: Database) -> None:
    """The guard of a closed branch is refused; that stop is the branch's, not the run's."""
    import psycopg

    app = Everstep(**postgres.settings)
    table = table_of(postgres)
    decided, given_back = threading.Event(), threading.Event()

    class Tells(psycopg.Connection[Any]):
        def close(self) -> None:
            super().close()
            given_back.set()

    @app.transaction(lambda: Tells.connect(postgres.url))
    def slow(tx: Any) -> str:
        tx.execute(f"insert into {table} values ('lost', 1)")
        decided.wait(15)
        return "slow"

    @app.step
    def quick() -> str:
        return "quick"

    @app.step
    def afterwards() -> bool:
        decided.set()
        return given_back.wait(15)

    @app.workflow
    def work() -> list[Any]:
        return [app.race(slow, quick), afterwards(), quick()]

    with app:
        assert work.start().result(SOON) == ["quick", True, "quick"]
    assert rows(postgres, table) == []


def test_out_of_time_on_a_thread(postgres: Database) -> None:
    import psycopg

    app = Everstep(**postgres.settings)
    table = table_of(postgres)

    @app.transaction(lambda: psycopg.connect(postgres.url), timeout=SHORT)
    def slow(tx: Any) -> str:
        tx.execute(f"insert into {table} values ('late', 1)")
        while not app.cancel_requested():
            threading.Event().wait(0.01)
        return "late"

    @app.transaction(timeout=SHORT)
    def slow_on_our_own(tx: Transaction) -> str:
        tx.execute(f"insert into {table} values ('late', 1)")
        while not app.cancel_requested():
            threading.Event().wait(0.01)
        return "late"

    @app.workflow
    def work() -> list[str]:
        seen: list[str] = []
        for call in (slow, slow_on_our_own):
            try:
                seen.append(call())
            except everstep.StepTimeout as error:
                seen.append(error.code)
        return seen

    with app:
        assert work.start().result(SOON) == ["step_timeout", "step_timeout"]
    assert rows(postgres, table) == []


def test_out_of_time_though_it_swallows_its_cancel(postgres: Database) -> None:
    import psycopg

    table = table_of(postgres)

    async def main() -> None:
        app = AsyncEverstep(**postgres.settings)

        async def swallow() -> str:
            try:
                await asyncio.sleep(15)
            except asyncio.CancelledError:
                pass
            return "late"

        @app.transaction(lambda: psycopg.AsyncConnection.connect(postgres.url), timeout=SHORT)
        async def slow(tx: Any) -> str:
            await tx.execute(f"insert into {table} values ('late', 1)")
            return await swallow()

        @app.transaction(timeout=SHORT)
        async def slow_on_our_own(tx: AsyncTransaction) -> str:
            await tx.execute(f"insert into {table} values ('late', 1)")
            return await swallow()

        @app.workflow
        async def work() -> list[str]:
            seen: list[str] = []
            for call in (slow, slow_on_our_own):
                try:
                    seen.append(await call())
                except everstep.StepTimeout as error:
                    seen.append(error.code)
            return seen

        async with app:
            assert await (await work.start()).result(SOON) == ["step_timeout", "step_timeout"]

    asyncio.run(main())
    assert rows(postgres, table) == []


@pytest.mark.parametrize("kind", ["Stopped", "KeyboardInterrupt", "CancelledError"])
def test_what_it_raises_beyond_exceptions_is_recorded(postgres: Database, kind: str) -> None:
    import psycopg

    kinds: dict[str, type[BaseException]] = {"Stopped": everstep.Stopped, "KeyboardInterrupt": KeyboardInterrupt, "CancelledError": asyncio.CancelledError}
    app = Everstep(**postgres.settings)

    @app.transaction(lambda: psycopg.connect(postgres.url))
    def raises(tx: Any) -> None:
        raise kinds[kind]

    @app.workflow
    def work() -> str:
        with pytest.raises(everstep.StepError):
            raises()
        return "went on"

    with app:
        assert work.start().result(SOON) == "went on"


def test_a_commit_is_not_cut_in_two_by_the_programs_own_cancel(postgres: Database) -> None:
    """Its rows are stored, so the run has to know of them."""
    import psycopg

    table = table_of(postgres)

    async def main() -> None:
        app = AsyncEverstep(**postgres.settings)
        committing, go_on = asyncio.Event(), asyncio.Event()

        class Slow(psycopg.AsyncConnection[Any]):
            async def commit(self) -> None:
                committing.set()
                await go_on.wait()
                await super().commit()

        @app.transaction(lambda: Slow.connect(postgres.url))
        async def store(tx: Any) -> str:
            await tx.execute(f"insert into {table} values ('stored', 1)")
            return "stored"

        @app.step
        async def goes_on() -> str:
            return "went on"

        @app.workflow
        async def work() -> str:
            storing = asyncio.create_task(store())
            await committing.wait()
            storing.cancel()
            asyncio.get_running_loop().call_later(0.1, go_on.set)
            with pytest.raises(asyncio.CancelledError):
                await storing
            return await goes_on()

        async with app:
            run = await work.start()
            assert await run.result(SOON) == "went on"
            assert [step.name for step in await run.steps()] == ["store", "goes_on"]

    asyncio.run(main())
    assert rows(postgres, table) == [("stored", 1)]


def test_a_rollback_is_not_cut_in_two_by_a_second_cancel(postgres: Database) -> None:
    """A timeout inside a race, or a signal and the end of a task group: a pool got its connection back in the middle of a transaction."""
    import psycopg

    table = table_of(postgres)
    calls: list[str] = []

    async def main() -> None:
        app = AsyncEverstep(**postgres.settings)
        inside, rolling_back, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

        class Tells(psycopg.AsyncConnection[Any]):
            async def rollback(self) -> None:
                rolling_back.set()
                await go_on.wait()
                await super().rollback()
                calls.append("rolled back")

            async def close(self) -> None:
                calls.append("closed")
                await super().close()

        @app.transaction(lambda: Tells.connect(postgres.url))
        async def slow(tx: Any) -> None:
            await tx.execute(f"insert into {table} values ('lost', 1)")
            inside.set()
            await asyncio.Event().wait()

        @app.step
        async def goes_on() -> str:
            return "went on"

        @app.workflow
        async def work() -> str:
            storing = asyncio.create_task(slow())
            await inside.wait()
            storing.cancel()
            await rolling_back.wait()
            storing.cancel()
            await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await storing
            return await goes_on()

        async with app:
            assert await (await work.start()).result(SOON) == "went on"

    asyncio.run(main())
    assert calls == ["rolled back", "closed"] and rows(postgres, table) == []


def test_a_stop_during_the_commit_waits_for_it(postgres: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rollback and the end of the connection began while the COMMIT was on its way."""
    import psycopg

    table = table_of(postgres)
    done: list[str] = []
    commit, rollback = _AsyncPsycopg.commit, _AsyncPsycopg.rollback

    async def main() -> None:
        app = AsyncEverstep(**postgres.settings)
        inside, go_on = asyncio.Event(), asyncio.Event()
        attempts: list[asyncio.Task[Any]] = []

        async def slowly(self: Any) -> None:
            inside.set()
            await go_on.wait()
            await commit(self)
            done.append("committed")

        async def noted(self: Any) -> None:
            done.append("rollback")
            await rollback(self)

        monkeypatch.setattr(_AsyncPsycopg, "commit", slowly)
        monkeypatch.setattr(_AsyncPsycopg, "rollback", noted)

        @app.transaction(lambda: psycopg.AsyncConnection.connect(postgres.url))
        async def books(tx: Any) -> None:
            await tx.execute(f"insert into {table} values ('kept', 1)")

        @app.workflow
        async def work() -> None:
            task = asyncio.current_task()
            assert task is not None
            attempts.append(task)
            await books()

        await app.launch()
        await work.start()
        await inside.wait()
        (execution,) = app._engine.executions.values()
        closing = asyncio.create_task(app.close(timedelta(0)))
        while execution.stopped is None:  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        go_on.set()
        await asyncio.wait(attempts)
        await closing

    asyncio.run(asyncio.wait_for(main(), 30))
    assert done[0] == "committed"
    assert rows(postgres, table) == [("kept", 1)]
