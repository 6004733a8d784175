"""Which connection was lost: that of the transaction, and it runs again; or one of the function's own, and that is an error like any other."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from conftest import Database
from test_transactions import ASYNC, SOON, SYNC, async_source, insert, insert_async, rows, sync_source, table_of
from test_transactions import postgres as postgres

import everstep
from everstep import AsyncEverstep, Everstep

#: A peer that refuses: psycopg's error for it has no SQLSTATE, as that for a connection that was cut.
NOBODY = "postgresql://nobody@127.0.0.1:1/nothing"
CUT = "select pg_terminate_backend(pg_backend_pid())"


def elsewhere(wrapped: bool) -> None:
    """The function's own connection to another server."""
    if wrapped:
        import sqlalchemy

        sqlalchemy.create_engine(NOBODY.replace("postgresql:", "postgresql+psycopg:")).connect()
    psycopg.connect(NOBODY)


def cut(tx: Any) -> Any:
    if type(tx).__module__.startswith("sqlalchemy"):
        from sqlalchemy import text

        return tx.execute(text(CUT))
    return tx.execute(CUT)


@pytest.mark.parametrize("kind", SYNC)
def test_on_threads(postgres: Database, kind: str) -> None:
    table = table_of(postgres)
    asked = tries = 0
    with sync_source(kind, postgres.url) as source:
        app = Everstep(**postgres.settings)

        @app.transaction(source)
        def asks(tx: Any, wrapped: bool) -> None:
            nonlocal asked
            asked += 1
            insert(tx, table, f"asked {asked}", 1)
            elsewhere(wrapped)

        @app.transaction(source)
        def loses(tx: Any) -> int:
            nonlocal tries
            tries += 1
            insert(tx, table, f"tried {tries}", 1)
            if tries == 1:
                cut(tx)
            return tries

        @app.workflow
        def work() -> list[Any]:
            out: list[Any] = []
            for wrapped in (False, True):
                try:
                    asks(wrapped)
                except everstep.StepError as error:
                    out.append(error.error_type)
            return [*out, loses()]

        with app:
            assert work.start().result(SOON) == ["OperationalError", "OperationalError", 2]
    assert asked == 2
    assert rows(postgres, table) == [("tried 2", 1)]


@pytest.mark.parametrize("kind", ASYNC)
def test_in_coroutines(postgres: Database, kind: str) -> None:
    table = table_of(postgres)
    asked = tries = 0

    async def main() -> None:
        nonlocal asked, tries
        async with async_source(kind, postgres.url) as source:
            app = AsyncEverstep(**postgres.settings)

            @app.transaction(source)
            async def asks(tx: Any, wrapped: bool) -> None:
                nonlocal asked
                asked += 1
                await insert_async(tx, table, f"asked {asked}", 1)
                elsewhere(wrapped)

            @app.transaction(source)
            async def loses(tx: Any) -> int:
                nonlocal tries
                tries += 1
                await insert_async(tx, table, f"tried {tries}", 1)
                if tries == 1:
                    await cut(tx)
                return tries

            @app.workflow
            async def work() -> list[Any]:
                out: list[Any] = []
                for wrapped in (False, True):
                    try:
                        await asks(wrapped)
                    except everstep.StepError as error:
                        out.append(error.error_type)
                return [*out, await loses()]

            async with app:
                assert await (await work.start()).result(SOON) == ["OperationalError", "OperationalError", 2]

    asyncio.run(main())
    assert asked == 2
    assert rows(postgres, table) == [("tried 2", 1)]
