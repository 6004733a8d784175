"""Where transactions come from: the user's pool, session factory, engine or connection factory, found out by the module of its type, so that no
driver is imported that the program does not use. Each opens one transaction, runs the engine's last statement in it, and commits or rolls back."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar, get_args

from ._errors_gen import ConfigInvalid, TransactionFailed

T = TypeVar("T")
_CONFLICTS = ("40001", "40P01")
Isolation = Literal["read committed", "repeatable read", "serializable"]


def isolation_statement(isolation: Isolation | None) -> str | None:
    """What makes an open transaction one of this level. As its first statement it says the same to every driver, each of which has an option of its own."""
    if isolation is None:
        return None
    if isolation not in get_args(Isolation):
        raise ConfigInvalid(f"isolation is {' or '.join(map(repr, get_args(Isolation)))}, not {isolation!r}")
    return f"SET TRANSACTION ISOLATION LEVEL {isolation.upper()}"


def sqlstate_of(error: BaseException) -> str | None:
    """Of psycopg, asyncpg, and what SQLAlchemy wraps."""
    seen: BaseException | None = error
    for _ in range(4):
        if seen is None:
            return None
        state = getattr(seen, "sqlstate", None) or getattr(seen, "pgcode", None)
        if isinstance(state, str):
            return state
        seen = getattr(seen, "orig", None) or seen.__cause__
    return None


def is_conflict(error: BaseException) -> bool:
    return sqlstate_of(error) in _CONFLICTS


def is_lost(error: BaseException, connection: Any = None) -> bool:
    """The connection went before COMMIT was asked for, or there was none to be had: nothing is stored, so the closure may run again.

    `connection`: what the closure worked on; None: opening failed. Drivers raise InterfaceError for a closed connection and for a wrong number of
    arguments alike, and the closure may have lost a connection of its own to another database, so the connection is asked.
    """
    state = sqlstate_of(error)
    if state is not None:
        return state[:2] in ("08", "53") or state[:3] == "57P"
    if connection is None and isinstance(error, (OSError, TimeoutError, asyncio.TimeoutError)):
        return True
    seen: BaseException | None = error
    for _ in range(4):
        if seen is None:
            return False
        names = {base.__name__ for base in type(seen).__mro__}
        if getattr(seen, "connection_invalidated", False):
            return getattr(connection, "invalidated", True)  # a session cannot be asked
        if _driver(seen) in ("psycopg", "psycopg_pool") and "OperationalError" in names:
            return connection is None or _is_closed(connection)
        if _driver(seen) in ("psycopg", "asyncpg") and "InterfaceError" in names:
            return _is_closed(connection)
        seen = getattr(seen, "orig", None) or seen.__cause__
    return False


def _driver(error: BaseException) -> str:
    return type(error).__module__.split(".")[0]


def _is_closed(connection: Any) -> bool:
    """psycopg says `closed`, asyncpg `is_closed()`, which fails on a connection its pool has taken back after a loss."""
    try:
        asked = getattr(connection, "is_closed", None)
        return bool(asked() if callable(asked) else getattr(connection, "closed", False))
    except Exception:
        return True


def is_refusal(error: BaseException) -> bool:
    """The server answered, and the answer is no: the transaction is known to be rolled back. Or psycopg did not ask it: a block inside is still open."""
    if type(error).__name__ == "OutOfOrderTransactionNesting":
        return True
    state = sqlstate_of(error)
    return state is not None and state[:2] not in ("08", "57", "53", "XX")


def knows_no_engine(error: BaseException) -> bool:
    """The guard found no tables of the engine: this is another database."""
    return sqlstate_of(error) in ("42P01", "3F000")


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Awaits to the end what a cancel must not cut in two; a cancel that came meanwhile is raised afterwards.

    A race that is over both signals the step of a loser and cancels its task. The second of these used to hit the rollback that the first had begun, and
    the pool got its connection back in the middle of a transaction."""
    task = asyncio.ensure_future(work)
    cancel: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancel = error
        except Exception:
            break  # its own, raised below
    if cancel is not None and not task.cancelled():
        task.exception()  # seen; who was cancelled does not ask for it
        raise cancel
    return task.result()


class Transaction:
    """One open transaction. `given` is what the user's function gets."""

    style = ""
    given: Any
    #: The statement that comes first, for a level of isolation that is not the database's own.
    first: str | None = None

    def begin(self) -> Any:
        raise NotImplementedError

    def guard(self, sql: str, params: list[Any]) -> Any:
        raise NotImplementedError

    def commit(self) -> Any:
        raise NotImplementedError

    def rollback(self) -> Any:
        raise NotImplementedError

    def close(self) -> Any:
        raise NotImplementedError

    def was_refused_an_end(self, error: BaseException) -> bool:
        """Whether this is the driver's refusal of a commit or rollback of the function's own."""
        return False


class _Psycopg(Transaction):
    """In a block of the driver's, inside which `commit` and `rollback` are refused: after one, the next statement would begin another transaction, and
    nobody could tell that the rows before it stand already, without the checkpoint."""

    style = "percent"

    def __init__(self, connection: Any, give_back: Callable[[], Any]) -> None:
        from psycopg import Rollback
        from psycopg.rows import tuple_row

        self.given = connection
        self._row = tuple_row
        self._give_back = give_back
        self._block = self._block_of(connection)
        #: What has the block roll back and raise nothing.
        self._back = (Rollback, Rollback(), None)
        self._left = True

    def _block_of(self, connection: Any) -> Any:
        from psycopg import Transaction as Block

        return Block(connection)

    def begin(self) -> None:
        self._block.__enter__()
        self._left = False
        if self.first:
            self.given.execute(self.first)

    def check(self) -> None:
        """INTRANS or INERROR: what was begun still stands."""
        if self.given.info.transaction_status.name == "IDLE":
            raise EndedByItself

    def was_refused_an_end(self, error: BaseException) -> bool:
        return _driver(error) == "psycopg" and str(error).startswith(("Explicit commit() forbidden", "Explicit rollback() forbidden"))

    def guard(self, sql: str, params: list[Any]) -> Any:
        self.check()
        with self.given.cursor(row_factory=self._row) as cursor:
            return cursor.execute(sql, params).fetchone()[0]

    def commit(self) -> None:
        self._left = True
        self._block.__exit__(None, None, None)
        self.given.commit()  # a connection that came with a transaction begun: the block was a savepoint in it

    def rollback(self) -> None:
        if not self._left:
            self._left = True
            self._block.__exit__(*self._back)
        self.given.rollback()

    @property
    def _unclean(self) -> bool:
        """Lost, or with a block of the function's own still open, for which each commit of the next who gets it would be refused."""
        return self.given.info.transaction_status.name != "IDLE"

    def close(self) -> None:
        if self._unclean:
            self.given.close()
        self._give_back()


class _AsyncPsycopg(_Psycopg):
    def _block_of(self, connection: Any) -> Any:
        from psycopg import AsyncTransaction as Block

        return Block(connection)

    async def begin(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        await self._block.__aenter__()
        self._left = False
        if self.first:
            await self.given.execute(self.first)

    async def guard(self, sql: str, params: list[Any]) -> Any:
        self.check()
        async with self.given.cursor(row_factory=self._row) as cursor:
            await cursor.execute(sql, params)
            return (await cursor.fetchone())[0]

    async def commit(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._left = True
        await self._block.__aexit__(None, None, None)
        await self.given.commit()

    async def rollback(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not self._left:
            self._left = True
            await self._block.__aexit__(*self._back)
        await self.given.rollback()

    async def close(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self._unclean:
            await self.given.close()
        await self._give_back()


class _Asyncpg(Transaction):
    style = "dollar"

    def __init__(self, connection: Any, give_back: Callable[[], Any]) -> None:
        self.given = connection
        self.close = give_back
        self._transaction = connection.transaction()
        self.commit = self._transaction.commit
        self.rollback = self._transaction.rollback

    async def begin(self) -> None:
        await self._transaction.start()
        if self.first:
            await self.given.execute(self.first)

    async def guard(self, sql: str, params: list[Any]) -> Any:
        if not self.given.is_in_transaction():
            raise EndedByItself
        return await self.given.fetchval(sql, *params)


class _Alchemy(Transaction):
    """A Session or a Connection."""

    style = "named"

    def __init__(self, given: Any) -> None:
        from sqlalchemy import text

        self.given = given
        self._text = text
        self.commit = given.commit
        self.rollback = given.rollback
        self.close = given.close
        self._begun: Any = None

    def begin(self) -> None:
        # Begun by us: a `with tx.begin()` of the function's own is then SQLAlchemy's error, not a commit without the checkpoint.
        if not self.given.in_transaction():
            self.given.begin()
        self._begun = self.given.get_transaction()
        # A session connects at its first statement, where a refused connection could be any OSError of the function's own.
        self._check_autocommit(self.given.connection() if hasattr(self.given, "flush") else self.given)
        if self.first:
            self.given.execute(self._text(self.first))

    @staticmethod
    def _check_autocommit(connection: Any) -> None:
        """SQLAlchemy begins and commits there all the same, in name: each statement stands at once."""
        if getattr(connection.connection.dbapi_connection, "autocommit", False) is True:
            raise ConfigInvalid('app.transaction needs transactions, and this SQLAlchemy source has isolation_level="AUTOCOMMIT": give it an engine without')

    def check(self, current: Any) -> None:
        if current is not self._begun:
            raise EndedByItself

    def _statement(self, sql: str, params: list[Any]) -> tuple[Any, dict[str, Any]]:
        return self._text(sql), {f"p{index}": value for index, value in enumerate(params, 1)}

    def guard(self, sql: str, params: list[Any]) -> Any:
        self.check(self.given.get_transaction())
        if hasattr(self.given, "flush"):
            self.given.flush()
        return self.given.execute(*self._statement(sql, params)).scalar()


class _AsyncAlchemy(_Alchemy):
    @property
    def _inner(self) -> Any:
        """The sync object inside, whose transactions can be compared."""
        return getattr(self.given, "sync_session", None) or self.given.sync_connection

    async def begin(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not self.given.in_transaction():
            await self.given.begin()
        self._begun = self._inner.get_transaction()
        connection = await self.given.connection() if hasattr(self.given, "sync_session") else self.given
        self._check_autocommit(connection.sync_connection)
        if self.first:
            await self.given.execute(self._text(self.first))

    async def guard(self, sql: str, params: list[Any]) -> Any:
        self.check(self._inner.get_transaction())
        if hasattr(self.given, "flush"):
            await self.given.flush()
        return (await self.given.execute(*self._statement(sql, params))).scalar()


class EndedByItself(TransactionFailed):
    """Final: where the function has committed, its rows stand, and another attempt would store them again."""

    def __init__(self) -> None:
        super().__init__(
            "the function committed or rolled back its transaction itself: its rows and the checkpoint can no longer commit together. "
            "Leave the end of the transaction to the engine; a savepoint is fine",
            error_type=TransactionFailed.__name__,
        )


def _is_named(value: Any, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(value).__mro__)


class Source:
    """`open` and `open_async` give an open transaction."""

    def __init__(self, source: Any, *, is_async: bool, isolation: Isolation | None = None) -> None:
        self._source = source
        self._first = isolation_statement(isolation)
        modules = _modules(source)
        self._open: Callable[[], Any] = self._factory
        if _from(modules, "psycopg_pool"):
            self._check("the pool", _is_named(source, "AsyncConnectionPool"), is_async)
            self._open = self._psycopg_pool
        elif _from(modules, "asyncpg.pool"):
            self._check("asyncpg", True, is_async)
            self._open = self._asyncpg_pool
        elif _from(modules, "sqlalchemy"):
            self._check("this SQLAlchemy source", _from(modules, "sqlalchemy.ext.asyncio"), is_async)
            self._open = self._alchemy_engine if hasattr(source, "connect") and not callable(source) else self._factory
        elif not callable(source):
            raise ConfigInvalid(
                f"app.transaction takes a pool, a SQLAlchemy engine or session factory, or a connection factory, not {type(source).__qualname__}"
            )

    @staticmethod
    def _check(what: str, source_is_async: bool, function_is_async: bool) -> None:
        if source_is_async != function_is_async:
            wants, has = ("async def", "def") if source_is_async else ("def", "async def")
            raise ConfigInvalid(f"{what} needs a function declared with `{wants}`, this one is `{has}`")

    def _psycopg_pool(self) -> Any:
        source = self._source
        if _is_named(source, "AsyncConnectionPool"):

            async def open_async() -> Transaction:
                connection = await source.getconn()
                return _AsyncPsycopg(connection, lambda: source.putconn(connection))

            return open_async()
        connection = source.getconn()
        return _Psycopg(connection, lambda: source.putconn(connection))

    async def _asyncpg_pool(self) -> Transaction:
        source = self._source
        connection = await source.acquire()
        return _Asyncpg(connection, lambda: source.release(connection))

    def _alchemy_engine(self) -> Any:
        source = self._source
        if _from(_modules(source), "sqlalchemy.ext.asyncio"):

            async def open_async() -> Transaction:
                return _AsyncAlchemy(await source.connect())

            return open_async()
        return _Alchemy(source.connect())

    def _factory(self) -> Any:
        made = self._source()
        if inspect.isawaitable(made) and not hasattr(made, "execute"):

            async def open_async() -> Transaction:
                return _wrap(await made)

            return open_async()
        return _wrap(made)

    def open(self) -> Transaction:
        transaction = self._open()
        transaction.first = self._first
        try:
            transaction.begin()
        except BaseException:
            transaction.close()  # or the pool runs dry while the database is away
            raise
        return transaction

    async def open_async(self) -> Transaction:
        opened = self._open()
        transaction: Transaction = await opened if inspect.isawaitable(opened) else opened
        transaction.first = self._first
        try:
            await transaction.begin()
        except BaseException:
            await uninterrupted(transaction.close())
            raise
        return transaction


def _modules(value: Any) -> list[str]:
    """Of its class and what that derives from: a user's subclass lives in the user's module."""
    return [kind.__module__ for kind in type(value).__mro__]


def _from(modules: list[str], prefix: str) -> bool:
    return any(module == prefix or module.startswith(prefix + ".") for module in modules)


def _wrap(made: Any) -> Transaction:
    modules = _modules(made)
    if _from(modules, "psycopg"):
        return _AsyncPsycopg(made, made.close) if _is_named(made, "AsyncConnection") else _Psycopg(made, made.close)
    if _from(modules, "asyncpg"):
        return _Asyncpg(made, made.close)
    if _from(modules, "sqlalchemy.ext.asyncio"):
        return _AsyncAlchemy(made)
    if _from(modules, "sqlalchemy"):
        return _Alchemy(made)
    raise ConfigInvalid(f"the factory of app.transaction made a {type(made).__qualname__}: wanted: a psycopg, asyncpg or SQLAlchemy connection or session")
