"""Transactional steps: the user's rows and the checkpoint commit together, through every driver, and through the engine's own connection."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from conftest import Database

import everstep
from everstep import AsyncEverstep, AsyncTransaction, Everstep, Retry, Transaction

SOON = timedelta(seconds=20)


@pytest.fixture
def postgres(postgres_url: str) -> Database:
    return Database("postgres", postgres_url, f"tx_{uuid.uuid4().hex[:10]}")


def table_of(database: Database) -> str:
    import psycopg

    name = f"booked_{database.schema}"
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute(f"create table {name} (item text primary key, n int not null)")
    return name


def rows(database: Database, table: str) -> list[Any]:
    import psycopg

    with psycopg.connect(database.url, autocommit=True) as connection:
        return connection.execute(f"select item, n from {table} order by item").fetchall()


SYNC = ["psycopg_pool", "psycopg_autocommit_pool", "psycopg_factory", "sessionmaker", "engine"]
ASYNC = ["async_psycopg_pool", "async_psycopg_factory", "async_sessionmaker", "async_engine", "async_engine_psycopg", "asyncpg_pool"]


@contextlib.contextmanager
def sync_source(kind: str, url: str) -> Iterator[Any]:
    import psycopg

    if kind in ("psycopg_pool", "psycopg_autocommit_pool"):
        from psycopg_pool import ConnectionPool

        with ConnectionPool(url, min_size=1, kwargs={"autocommit": kind != "psycopg_pool"}) as pool:
            yield pool
    elif kind == "psycopg_factory":
        yield lambda: psycopg.connect(url)
    else:
        import sqlalchemy
        from sqlalchemy.orm import sessionmaker

        engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        try:
            yield sessionmaker(engine) if kind == "sessionmaker" else engine
        finally:
            engine.dispose()


def insert(tx: Any, table: str, item: str, n: int) -> None:
    if type(tx).__module__.startswith("sqlalchemy"):
        from sqlalchemy import text

        tx.execute(text(f"insert into {table} values (:item, :n)"), {"item": item, "n": n})
    else:
        tx.execute(f"insert into {table} values (%s, %s)", (item, n))


@pytest.mark.parametrize("kind", SYNC)
def test_sync_drivers(postgres: Database, kind: str) -> None:
    table = table_of(postgres)
    with sync_source(kind, postgres.url) as source:
        app = Everstep(**postgres.settings)

        @app.transaction(source, retry=Retry(max_attempts=2, initial=timedelta(milliseconds=1)))
        def book(tx: Any, item: str, fail: int) -> str:
            insert(tx, table, item, app.attempt())
            if app.attempt() <= fail:
                raise ValueError("not this time")
            return f"booked {item}"

        @app.workflow
        def work() -> list[Any]:
            out: list[Any] = [book("a", 0), book("b", 1)]
            try:
                book("c", 9)
            except everstep.StepError as error:
                out.append(error.message)
            try:
                book("a", 0)
            except everstep.StepError as error:
                out.append(error.error_type)
            return out

        with app:
            run = work.start()
            result = run.result(SOON)
            assert result[:3] == ["booked a", "booked b", "not this time"]
            assert result[3] in ("UniqueViolation", "IntegrityError")
            assert [step.kind for step in run.steps()] == ["transaction"] * 4
            assert rows(postgres, table) == [("a", 1), ("b", 2)], "what was rolled back left nothing"
            assert book("outside", 0) == "booked outside"


@contextlib.asynccontextmanager
async def async_source(kind: str, url: str) -> AsyncIterator[Any]:
    if kind == "async_psycopg_pool":
        from psycopg_pool import AsyncConnectionPool

        async with AsyncConnectionPool(url, min_size=1, open=False) as pool:
            yield pool
    elif kind == "async_psycopg_factory":
        import psycopg

        yield lambda: psycopg.AsyncConnection.connect(url)
    elif kind == "asyncpg_pool":
        import asyncpg

        async with asyncpg.create_pool(url, min_size=1, max_size=4) as pool:
            yield pool
    else:
        from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

        driver = "psycopg" if kind.endswith("psycopg") else "asyncpg"
        engine = create_async_engine(url.replace("postgresql://", f"postgresql+{driver}://"))
        try:
            yield async_sessionmaker(engine) if kind == "async_sessionmaker" else engine
        finally:
            await engine.dispose()


async def insert_async(tx: Any, table: str, item: str, n: int) -> None:
    module = type(tx).__module__
    if module.startswith("sqlalchemy"):
        from sqlalchemy import text

        await tx.execute(text(f"insert into {table} values (:item, :n)"), {"item": item, "n": n})
    elif module.startswith("asyncpg"):
        await tx.execute(f"insert into {table} values ($1, $2)", item, n)
    else:
        await tx.execute(f"insert into {table} values (%s, %s)", (item, n))


@pytest.mark.parametrize("kind", ASYNC)
def test_async_drivers(postgres: Database, kind: str) -> None:
    table = table_of(postgres)

    async def main() -> None:
        async with async_source(kind, postgres.url) as source:
            app = AsyncEverstep(**postgres.settings)

            @app.transaction(source, retry=Retry(max_attempts=2, initial=timedelta(milliseconds=1)))
            async def book(tx: Any, item: str, fail: int) -> str:
                await insert_async(tx, table, item, app.attempt())
                if app.attempt() <= fail:
                    raise ValueError("not this time")
                return f"booked {item}"

            @app.workflow
            async def work() -> list[Any]:
                out: list[Any] = list(await asyncio.gather(book("a", 0), book("b", 1)))
                try:
                    await book("c", 9)
                except everstep.StepError as error:
                    out.append(error.message)
                return out

            async with app:
                result = await (await work.start()).result(SOON)
                assert result == ["booked a", "booked b", "not this time"]
                assert rows(postgres, table) == [("a", 1), ("b", 2)]
                assert await book("outside", 0) == "booked outside"

    asyncio.run(main())


def test_a_conflict_runs_the_closure_again(postgres: Database) -> None:
    from psycopg_pool import ConnectionPool

    table = table_of(postgres)
    calls: list[int] = []
    with ConnectionPool(postgres.url, min_size=1) as pool:
        app = Everstep(**postgres.settings)

        @app.transaction(pool)
        def book(tx: Any) -> int:
            calls.append(1)
            insert(tx, table, "once", len(calls))
            if len(calls) < 3:
                tx.execute("do $$ begin raise exception 'busy' using errcode = '40001'; end $$")
            return len(calls)

        @app.workflow
        def work() -> int:
            return book()

        with app:
            assert work.start().result(SOON) == 3
            assert rows(postgres, table) == [("once", 3)]


@pytest.mark.parametrize("kind", SYNC)
def test_the_end_of_a_transaction_is_the_engines(postgres: Database, kind: str) -> None:
    """What a driver offers inside a transaction is a savepoint or an error, never a commit without the checkpoint."""
    table = table_of(postgres)
    refused = kind.startswith("psycopg")
    with sync_source(kind, postgres.url) as source:
        app = Everstep(**postgres.settings)

        @app.transaction(source)
        def nested(tx: Any) -> None:
            with tx.transaction() if hasattr(tx, "transaction") else tx.begin():
                insert(tx, table, "nested", 1)
            raise ValueError("afterwards")

        # Not again, whatever the policy: the row stands, and a second attempt would stumble over it, or double it.
        @app.transaction(source, retry=Retry(max_attempts=3, initial=timedelta(milliseconds=1)))
        def commits(tx: Any) -> None:
            insert(tx, table, f"committed {app.attempt()}", 1)
            tx.commit()
            if refused:
                insert(tx, table, "afterwards", 1)  # would begin another transaction, in which the first is not to be seen

        @app.workflow
        def work() -> list[str]:
            out: list[str] = []
            for step in (nested, commits):
                try:
                    step()
                except everstep.TransactionFailed as error:
                    out.append(error.code)
                except everstep.StepError as error:
                    out.append(error.message)
            return out

        with app:
            first, second = work.start().result(SOON)
            assert first == "afterwards" or "already" in first
            assert second == "transaction_failed"
            kept = [] if refused else [("committed 1", 1)]
            assert rows(postgres, table) == kept, "only what was committed against the rules is there, and was not passed over"


@pytest.mark.parametrize("kind", SYNC)
def test_isolation_of_sync_drivers(postgres: Database, kind: str) -> None:
    with sync_source(kind, postgres.url) as source:
        app = Everstep(**postgres.settings)

        def level(tx: Any) -> Any:
            statement = "show transaction_isolation"
            if kind in ("sessionmaker", "engine"):
                from sqlalchemy import text

                return tx.execute(text(statement)).scalar()
            return tx.execute(statement).fetchone()[0]

        strict = app.transaction(source, name="strict", isolation="serializable")(level)
        plain = app.transaction(source, name="plain")(level)

        @app.workflow
        def work() -> list[Any]:
            # In turns, on connections of one pool: the level of one does not stay for the other.
            return [strict(), plain(), strict(), plain()]

        with app:
            assert work.start().result(SOON) == ["serializable", "read committed"] * 2


@pytest.mark.parametrize("kind", ASYNC)
def test_isolation_of_async_drivers(postgres: Database, kind: str) -> None:
    async def main() -> None:
        async with async_source(kind, postgres.url) as source:
            app = AsyncEverstep(**postgres.settings)

            async def level(tx: Any) -> Any:
                statement = "show transaction_isolation"
                if hasattr(tx, "fetchval"):
                    return await tx.fetchval(statement)
                if hasattr(tx, "cursor"):
                    return (await (await tx.execute(statement)).fetchone())[0]
                from sqlalchemy import text

                return (await tx.execute(text(statement))).scalar()

            strict = app.transaction(source, name="strict", isolation="repeatable read")(level)
            plain = app.transaction(source, name="plain")(level)

            @app.workflow
            async def work() -> list[Any]:
                return [await strict(), await plain(), await strict(), await plain()]

            async with app:
                assert await (await work.start()).result(SOON) == ["repeatable read", "read committed"] * 2

    asyncio.run(main())


def test_isolation_that_is_none() -> None:
    app = Everstep()
    for isolation in ("snapshot", "SERIALIZABLE", 5):
        with pytest.raises(everstep.ConfigInvalid, match="serializable"):
            app.transaction(lambda: None, isolation=isolation)  # type: ignore[arg-type]
    with pytest.raises(everstep.ConfigInvalid, match="source"):

        @app.transaction(isolation="serializable")
        def own(tx: Transaction) -> None: ...


def test_every_form_of_a_transaction(postgres: Database) -> None:
    """A sync one in an async workflow runs on a thread; an async one has no sync form, and none is a job."""
    from psycopg_pool import ConnectionPool

    table = table_of(postgres)
    with ConnectionPool(postgres.url, min_size=1) as pool:
        app = Everstep(**postgres.settings)

        @app.transaction(pool)
        def book(tx: Any, item: str) -> str:
            insert(tx, table, item, 1)
            return item

        @app.transaction
        def own(tx: Transaction, item: str) -> str:
            tx.execute(f"insert into {table} values ($1, 2)", item)
            return item

        @app.transaction
        async def own_async(tx: AsyncTransaction, item: str) -> str:
            return item

        @app.workflow
        async def work() -> list[str]:
            both = await asyncio.gather(book.aio("a"), own.aio("b"))
            return [*both, await own_async("c")]

        @app.workflow
        def wrong() -> str:
            return own_async.sync("d")

        with app:
            assert work.start().result(SOON) == ["a", "b", "c"]
            assert rows(postgres, table) == [("a", 1), ("b", 2)]
            assert asyncio.run(_awaited(book.aio("outside"))) == "outside"
            with pytest.raises(everstep.RunFailed, match="async"):
                wrong.start().result(SOON)
            with pytest.raises(everstep.ConfigInvalid, match="no job"):
                book.start("e")
            with pytest.raises(everstep.ConfigInvalid, match="no job"):
                own.options(id="e").start("e")


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def test_a_wrong_statement_is_not_a_lost_connection(postgres: Database) -> None:
    """asyncpg raises InterfaceError for both; only one of them is worth another try."""

    async def main() -> None:
        table = table_of(postgres)
        async with async_source("asyncpg_pool", postgres.url) as pool:
            app = AsyncEverstep(**postgres.settings)
            calls: list[int] = []

            @app.transaction(pool)
            async def wrong(tx: Any) -> None:
                calls.append(1)
                await tx.execute(f"insert into {table} values ($1, $2)", "one argument")

            @app.transaction(pool)
            async def cut(tx: Any) -> int:
                calls.append(2)
                if calls.count(2) == 1:
                    tx.terminate()
                await insert_async(tx, table, "again", 1)
                return calls.count(2)

            @app.workflow
            async def work() -> int:
                try:
                    await wrong()
                except everstep.StepError as error:
                    assert error.error_type == "InterfaceError"
                return await cut()

            async with app:
                assert await (await work.start()).result(SOON) == 2
                assert calls == [1, 2, 2]
                assert rows(postgres, table) == [("again", 1)]

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["factory", "alchemy"])
def test_a_database_away_when_a_transaction_opens(postgres: Database, kind: str) -> None:
    """The drivers say so with a plain OSError; the function's own OSError stays its own."""
    import asyncpg
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

    async def main() -> None:
        table = table_of(postgres)
        refusals = [ConnectionRefusedError("connection refused"), ConnectionResetError("reset")]

        async def connect(*_: Any, **__: Any) -> Any:
            if refusals:
                raise refusals.pop()
            return await asyncpg.connect(postgres.url)

        engine = create_async_engine("postgresql+asyncpg://", async_creator=connect)
        app = AsyncEverstep(**postgres.settings)

        @app.transaction(connect if kind == "factory" else async_sessionmaker(engine))
        async def book(tx: Any, fail: bool) -> int:
            if fail:
                raise ConnectionRefusedError("another server")
            await insert_async(tx, table, "once", 1)
            return 1

        @app.workflow
        async def work() -> str:
            assert await book(False) == 1
            try:
                await book(True)
            except everstep.StepError as error:
                return error.message
            return ""

        async with app:
            assert await (await work.start()).result(SOON) == "another server"
            assert not refusals
            assert rows(postgres, table) == [("once", 1)]
        await engine.dispose()

    asyncio.run(main())


def test_another_database_is_refused(postgres: Database) -> None:
    import psycopg

    other = f"other_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"create database {other}")
    app = Everstep(**postgres.settings)

    @app.transaction(lambda: psycopg.connect(postgres.url.rsplit("/", 1)[0] + f"/{other}"))
    def book(tx: Any) -> int:
        tx.execute("create table if not exists t (n int)")
        return 1

    @app.workflow
    def work() -> str:
        try:
            book()
        except everstep.StepError as error:  # whatever a step has failed with
            return error.code
        return "no error"

    with app:
        assert work.start().result(SOON) == "other_database"


def test_sources_are_checked_when_declared(postgres: Database) -> None:
    from psycopg_pool import AsyncConnectionPool

    app = Everstep(**postgres.settings)
    pool = AsyncConnectionPool(postgres.url, open=False)
    with pytest.raises(everstep.ConfigInvalid, match="async def"):

        @app.transaction(pool)
        def book(tx: Any) -> None: ...

    with pytest.raises(everstep.ConfigInvalid, match="int"):
        app.transaction(5, name="five")(lambda tx: None)


def test_the_engines_own_connection(database: Database) -> None:
    app = Everstep(**database.settings)
    table = f"own_{uuid.uuid4().hex[:8]}"

    @app.transaction
    def create(tx: Transaction) -> None:
        tx.execute(f"create table {table} (item text primary key, n bigint)")

    @app.transaction(retry=Retry(max_attempts=2, initial=timedelta(milliseconds=1)))
    def add(tx: Transaction, item: str, fail: int) -> list[Any]:
        tx.execute(f"insert into {table} values ($1, $2)", item, app.attempt())
        if app.attempt() <= fail:
            raise ValueError("not this time")
        found = tx.execute(f"select item, n from {table} order by item")
        return [found.columns, found.dicts(), found.scalar()]

    @app.workflow
    def work() -> list[Any]:
        create()
        out: list[Any] = [add("a", 0), add("b", 1)]
        try:
            add("a", 0)
        except everstep.StepError as error:  # a `TransactionFailed`
            out.append(error.code)
        return out

    with app:
        first, second, code = work.start().result(SOON)
        assert first == [["item", "n"], [{"item": "a", "n": 1}], "a"]
        assert second[1] == [{"item": "a", "n": 1}, {"item": "b", "n": 2}]
        assert code == "transaction_failed"
    with pytest.raises(everstep.OutsideRun):
        add("c", 0)


def test_the_engines_own_connection_async(database: Database) -> None:
    async def main() -> None:
        app = AsyncEverstep(**database.settings)
        table = f"own_{uuid.uuid4().hex[:8]}"

        @app.transaction
        async def add(tx: AsyncTransaction, n: int) -> int:
            await tx.execute(f"create table if not exists {table} (n bigint)")
            await tx.execute(f"insert into {table} values ($1)", n)
            return (await tx.execute(f"select cast(sum(n) as bigint) from {table}")).scalar()

        @app.workflow
        async def work() -> list[Any]:
            return [int(await add(n)) for n in (1, 2, 3)]

        async with app:
            assert await (await work.start()).result(SOON) == [1, 3, 6]

    asyncio.run(main())


_KILLED = """
import os, signal, sys
from datetime import timedelta
import psycopg
from everstep import Everstep
app = Everstep(os.environ["TEST_DATABASE"], schema=os.environ["TEST_SCHEMA"], auto_migrate=True)

class Dies(psycopg.Connection):
    def commit(self):
        super().commit()
        if os.environ.get("DIE"):
            os.kill(os.getpid(), signal.SIGKILL)

@app.transaction(lambda: Dies.connect(os.environ["TEST_DATABASE"]))
def book(tx) -> int:
    tx.execute("update " + os.environ["TEST_TABLE"] + " set n = n + 1")
    return 1

@app.workflow
def work() -> int:
    return book()

with app:
    print(work.options(id="killed").start().result(timedelta(seconds=20)))
"""


def test_killed_between_the_commit_and_its_acknowledgement(postgres: Database, tmp_path: pathlib.Path) -> None:
    import psycopg

    table = table_of(postgres)
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"insert into {table} values ('total', 0)")
    program = tmp_path / "killed.py"
    program.write_text(_KILLED)
    environment = {**postgres.environment, "TEST_TABLE": table}
    first = subprocess.run([sys.executable, str(program)], env={**environment, "DIE": "1"}, timeout=60)
    assert first.returncode == -signal.SIGKILL
    second = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=60)
    assert second.stdout == "1\n", second.stderr
    assert rows(postgres, table) == [("total", 1)]
