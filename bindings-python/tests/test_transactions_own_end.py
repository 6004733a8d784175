"""Functions that end their transaction themselves, or leave something open in it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from conftest import Database
from test_transactions import postgres as postgres
from test_transactions import rows, table_of

import everstep
from everstep import AsyncEverstep, Everstep

SOON = timedelta(seconds=20)


def test_a_commit_of_the_functions_own_is_refused_by_async_psycopg(postgres: Database) -> None:
    """What came after it was another transaction, and the guard saw nothing: the rows before it stood without the checkpoint."""
    from psycopg_pool import AsyncConnectionPool

    table = table_of(postgres)
    left_open: list[Any] = []

    async def main() -> None:
        app = AsyncEverstep(**postgres.settings)
        async with AsyncConnectionPool(postgres.url, min_size=1, max_size=1, open=False) as pool:

            @app.transaction(pool)
            async def commits(tx: Any) -> None:
                await tx.execute(f"insert into {table} values ('before', 1)")
                await tx.commit()
                await tx.execute(f"insert into {table} values ('after', 1)")

            @app.transaction(pool)
            async def leaves_a_block_open(tx: Any) -> None:
                left_open.append(tx.transaction())
                await left_open[-1].__aenter__()
                await tx.execute(f"insert into {table} values ('inside', 1)")

            @app.transaction(pool)
            async def books(tx: Any) -> str:
                await tx.execute(f"insert into {table} values ('good', 1)")
                return "good"

            @app.workflow
            async def work() -> list[str]:
                with pytest.raises(everstep.TransactionFailed):
                    await commits()
                with pytest.raises(everstep.StepError):
                    await leaves_a_block_open()
                return [await books()]  # on the same connection, or the one that took its place

            async with app:
                assert await (await work.start()).result(SOON) == ["good"]

    asyncio.run(main())
    assert rows(postgres, table) == [("good", 1)]


@pytest.mark.parametrize("kind", ["engine", "sessionmaker", "execution_options", "async_engine", "async_sessionmaker", "asyncpg"])
def test_autocommit_of_sqlalchemy_is_refused(postgres: Database, kind: str) -> None:
    """Each row stood at once, whatever became of the step."""
    import sqlalchemy
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
    from sqlalchemy.orm import sessionmaker

    table = table_of(postgres)
    url = postgres.url.replace("postgresql://", f"postgresql+{'asyncpg' if kind == 'asyncpg' else 'psycopg'}://")
    insert = sqlalchemy.text(f"insert into {table} values ('stands', 1)")
    is_async = kind.startswith("async")
    engine: Any
    if kind == "execution_options":
        engine = sqlalchemy.create_engine(url).execution_options(isolation_level="AUTOCOMMIT")
    else:
        engine = (create_async_engine if is_async else sqlalchemy.create_engine)(url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    source = sessionmaker(engine) if kind == "sessionmaker" else async_sessionmaker(engine) if kind == "async_sessionmaker" else engine
    app = Everstep(**postgres.settings)

    if is_async:

        @app.transaction(source)
        async def books_async(tx: Any) -> None:
            await tx.execute(insert)

        @app.workflow
        async def work_async() -> None:
            await books_async()
    else:

        @app.transaction(source)
        def books(tx: Any) -> None:
            tx.execute(insert)

        @app.workflow
        def work() -> None:
            books()

    with app:
        run = app.reference("work_async" if is_async else "work").start()
        with pytest.raises(everstep.RunFailed, match="AUTOCOMMIT"):
            run.result(SOON)
    assert rows(postgres, table) == []
