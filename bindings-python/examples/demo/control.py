"""The control: a worker as one writes it by hand. A queue table, a lease, a retry when the lease is over; at least once, no checkpoints.

Started as `control.py DATABASE PROVIDER_PORT`.
"""

from __future__ import annotations

import sqlite3
import sys
import time
import uuid
from pathlib import Path

from work import call_provider, count

LEASE_SECONDS = 3.0

SCHEMA = """
create table task (path text primary key, state text not null default 'todo', lease_until real not null default 0);
create table total (files integer not null, lines integer not null, tokens integer not null);
create table seen (path text primary key, times integer not null);
insert into total values (0, 0, 0);
"""


def connect(database: str) -> sqlite3.Connection:
    connection = sqlite3.connect(database, timeout=60, isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    return connection


def create(database: Path, paths: list[str]) -> None:
    connection = connect(str(database))
    connection.executescript(SCHEMA)
    connection.execute("begin immediate")
    connection.executemany("insert into task (path) values (?)", [(path,) for path in paths])
    connection.execute("commit")
    connection.close()


def left(database: Path) -> int:
    connection = sqlite3.connect(database, timeout=60)
    try:
        return int(connection.execute("select count(*) from task where state <> 'done'").fetchone()[0])
    finally:
        connection.close()


def take(connection: sqlite3.Connection) -> str | None:
    now = time.time()
    row = connection.execute(
        """update task set state = 'taken', lease_until = ? where path = (
             select path from task where state = 'todo' or (state = 'taken' and lease_until < ?) limit 1)
           returning path""",
        [now + LEASE_SECONDS, now],
    ).fetchone()
    return row[0] if row else None


def main() -> None:
    connection, port = connect(sys.argv[1]), int(sys.argv[2])
    while True:
        path = take(connection)
        if path is None:
            time.sleep(0.05)
            continue
        counted = count(path)
        connection.execute("begin immediate")
        connection.execute("update total set files = files + 1, lines = lines + ?, tokens = tokens + ?", [counted.lines, counted.tokens])
        connection.execute("insert into seen values (?, 1) on conflict (path) do update set times = times + 1", [path])
        connection.execute("commit")
        call_provider(port, str(uuid.uuid4()), path)
        connection.execute("update task set state = 'done' where path = ?", [path])


if __name__ == "__main__":
    main()
