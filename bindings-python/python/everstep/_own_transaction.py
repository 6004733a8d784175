"""Transactions on the engine's own connection: no driver needed, on both stores. On SQLite one holds the writer, for five seconds at most."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import uuid
from typing import TYPE_CHECKING, Any

from ._ops_gen import OP_TX_EXECUTE

if TYPE_CHECKING:
    from ._scope import Execution


class Rows(list[tuple[Any, ...]]):
    """The rows of one statement; `columns` names them, `affected` counts the rows it changed."""

    def __init__(self, columns: list[str], rows: list[list[Any]], affected: int) -> None:
        super().__init__(tuple(row) for row in rows)
        self.columns = columns
        self.affected = affected

    def dicts(self) -> list[dict[str, Any]]:
        """Each row as a dict by column name."""
        return [dict(zip(self.columns, row, strict=True)) for row in self]

    def scalar(self) -> Any:
        """The first column of the first row, or None."""
        return self[0][0] if self else None


class Transaction:
    """What a sync function gets. Placeholders are `$1`, `$2` on both stores."""

    def __init__(self, execution: Execution, number: int) -> None:
        self._execution = execution
        self._number = number

    def execute(self, sql: str, *params: Any) -> Rows:
        """Runs one statement; its parameters go beside the text, `tx.execute("update stock set n = n - $1 where item = $2", n, item)`. A dict or list goes
        as JSON. What the database refuses is `TransactionFailed`."""
        return Rows(*self._execution.engine.threads().request(OP_TX_EXECUTE, (self._number, sql, [parameter(value) for value in params])))


class AsyncTransaction:
    """What an async function gets. Placeholders are `$1`, `$2` on both stores."""

    def __init__(self, execution: Execution, number: int) -> None:
        self._execution = execution
        self._number = number

    async def execute(self, sql: str, *params: Any) -> Rows:
        """Runs one statement; its parameters go beside the text, `await tx.execute("update stock set n = n - $1 where item = $2", n, item)`. A dict or list
        goes as JSON. What the database refuses is `TransactionFailed`."""
        return Rows(*await self._execution.client.request(OP_TX_EXECUTE, (self._number, sql, [parameter(value) for value in params])))


def parameter(value: Any) -> Any:
    """What the border carries: scalars as they are, others as the text a database reads."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, uuid.UUID)):
        return str(value)
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
