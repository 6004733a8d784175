"""Clean-up that has begun before the cancel comes is let to its end, and the run ends with it, not after the time for clean-up."""

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
from everstep import AsyncEverstep, Everstep, Transaction

SOON = timedelta(seconds=20)


def test_a_step_of_clean_up_that_runs_when_the_cancel_comes(database: Database) -> None:
    async def main() -> None:
        app = AsyncEverstep(**database.settings)
        inside, asked = asyncio.Event(), asyncio.Event()
        cleaned: list[str] = []

        @app.step
        async def clean_up() -> str:
            inside.set()
            await asked.wait()
            await asyncio.sleep(0)
            cleaned.append("clean")
            return "clean"

        @app.workflow
        async def work() -> None:
            try:
                raise ValueError("first")
            finally:
                with app.shielded():
                    await clean_up()

        async with app:
            run = await work.start()
            await inside.wait()
            assert await run.cancel() == "requested"
            execution = next(iter(app._engine.executions.values()))
            while execution.cancelled is None:  # noqa: ASYNC110  (the package has no event for the arrival of a signal)
                await asyncio.sleep(0)
            asked.set()
            with pytest.raises((everstep.RunFailed, everstep.RunCancelled)):
                await run.result(SOON)
            assert cleaned == ["clean"]
            assert [step.name for step in await run.steps()] == ["clean_up"]

    asyncio.run(main())


def test_on_a_thread_and_in_a_transaction(postgres: Database) -> None:
    import psycopg

    app = Everstep(**postgres.settings)
    table = table_of(postgres)
    inside, asked = threading.Event(), threading.Event()

    def wait() -> bool:
        inside.set()
        asked.wait()
        return app.cancel_requested()

    @app.step
    def step() -> bool:
        return wait()

    @app.transaction
    def own(tx: Transaction) -> bool:
        tx.execute(f"insert into {table} values ('own', 1)")
        return wait()

    @app.transaction(lambda: psycopg.connect(postgres.url))
    def users(tx: Any) -> bool:
        tx.execute(f"insert into {table} values ('users', 1)")
        return wait()

    calls = {"step": step, "own": own, "users": users}

    @app.workflow
    def work(name: str) -> None:
        with app.shielded():
            assert calls[name]() is False, "clean-up is not asked to stop"

    with app:
        for name in calls:
            inside.clear()
            asked.clear()
            run = work.start(name)
            assert inside.wait(20)
            run.cancel()
            execution = next(iter(app._engine.executions.values()))
            while execution.cancelled is None:
                threading.Event().wait(0.01)
            asked.set()
            try:
                run.result(SOON)
            except everstep.RunCancelled:
                pass
            assert [(step.name, step.failed) for step in run.steps()][:1] == [(name, False)]
    assert sorted(rows(postgres, table)) == [("own", 1), ("users", 1)]
