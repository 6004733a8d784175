"""A private PostgreSQL for one benchmark run, and what can be read off it from outside."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

# Durability is the default (fsync, synchronous_commit, full_page_writes on). What differs from the defaults, and why:
SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",  # no checkpoint storm inside a measurement: full page images are measured apart
    "min_wal_size": "2GB",  # what recycle() makes stays
    "checkpoint_timeout": "1h",
    "max_connections": "200",
    "autovacuum_naptime": "5s",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "none",  # switched on only where statements are counted
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "logging_collector": "off",
    "log_min_messages": "fatal",
}


def binaries() -> Path:
    if named := os.environ.get("EVERSTEP_PG_BIN"):
        return Path(named)
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    if found:
        return max(found, key=lambda path: int(path.parent.name))
    if initdb := shutil.which("initdb"):
        return Path(initdb).resolve().parent
    raise SystemExit("No PostgreSQL server found. Install postgresql-15 or set EVERSTEP_PG_BIN.")


def process_seconds(pid: int, with_children: bool) -> float:
    """CPU seconds of one process; `with_children` adds those of the children it has reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    ticks = sum(int(field) for field in fields[11 : 15 if with_children else 13])
    return ticks / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


@dataclass
class Mark:
    cpu: float
    lsn: str


class Cluster:
    def __init__(self) -> None:
        self.bin = binaries()
        # PostgreSQL refuses to run as root; its Debian package brings the user.
        self.as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self.as_user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        self.dir = Path(tempfile.mkdtemp(prefix="everstep-bench-"))
        if self.as_user:
            os.chown(self.dir, pwd.getpwnam("postgres").pw_uid, -1)
        self.data = self.dir / "data"
        self.tool("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in (SETTINGS | {"port": self.port}).items())
        self.server = subprocess.Popen(
            [self.bin / "postgres", "-D", str(self.data)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.dir / "log").open("wb"),
            cwd="/",
            **self.as_user,
        )
        self.control = self.first_connection()
        self.control.execute("create extension pg_stat_statements")
        self.recycle()
        self.version = self.control.info.parameter_status("server_version") or "?"

    def first_connection(self) -> psycopg.Connection[Any]:
        deadline = time.monotonic() + 60
        while True:
            try:
                return psycopg.connect(self.url("postgres"), autocommit=True)
            except psycopg.OperationalError:
                if self.server.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"PostgreSQL did not start: {(self.dir / 'log').read_text()}") from None
                time.sleep(0.1)

    def recycle(self) -> None:
        """Have segments of the log to write over, as a server has that has run for a while. A new one is filled with zeros and flushed
        before its first use, by whoever commits: that would be measured with every system, and most with the one that is fastest."""
        self.control.execute("select count(pg_logical_emit_message(false, 'bench', repeat('x', 1 << 20))) from generate_series(1, 2048)")
        self.control.execute("checkpoint")

    def tool(self, name: str, *arguments: str) -> str:
        done = subprocess.run([self.bin / name, *arguments], check=False, capture_output=True, text=True, cwd="/", **self.as_user)
        if done.returncode != 0:
            raise SystemExit(f"{name} failed: {done.stderr}")
        return done.stdout

    def url(self, database: str, user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def fresh(self, database: str) -> str:
        """An empty database; each measurement gets one, so that no system works beside another's leftovers."""
        name = sql.Identifier(database)
        self.control.execute(sql.SQL("drop database if exists {} with (force)").format(name))
        self.control.execute(sql.SQL("create database {}").format(name))
        # What came before is on disk and out of the way, and every page is imaged again from here on.
        self.control.execute("checkpoint")
        return self.url(database)

    def mark(self) -> Mark:
        row = self.control.execute("select pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        live = sum(process_seconds(child, False) for child in children(self.server.pid))
        return Mark(process_seconds(self.server.pid, True) + live, str(row[0]))

    def wal(self, before: Mark, after: Mark) -> tuple[int, int]:
        """Bytes and commit records between two marks. Full page images are left out: they depend on the last checkpoint, not on
        the work. Commit records are what had to be flushed; the counters of pg_stat_database lag by seconds."""
        self.control.execute("select pg_switch_wal()")
        span = ["--path", str(self.data / "pg_wal"), "-s", before.lsn, "-e", after.lsn]
        table = self.tool("pg_waldump", "--stats=record", *span)
        total = re.search(r"^Total\s+\d+\s+(\d+) ", table, re.M)
        commits = re.search(r"^Transaction/COMMIT\s+(\d+) ", table, re.M)
        if total is None or commits is None:
            raise SystemExit(f"no load between {before.lsn} and {after.lsn}: {table[-500:]}")
        return int(total.group(1)), int(commits.group(1))

    @contextlib.contextmanager
    def counting(self):
        """Count statements while inside."""
        self.control.execute("alter system set pg_stat_statements.track = 'all'")
        self.control.execute("select pg_reload_conf()")
        try:
            yield
        finally:
            self.control.execute("alter system reset pg_stat_statements.track")
            self.control.execute("select pg_reload_conf()")

    def reset_statements(self) -> None:
        self.control.execute("select pg_stat_statements_reset()")

    def role(self, name: str) -> str:
        """A user of its own, to tell one process's statements from another's."""
        user = sql.Identifier(name)
        if not self.control.execute("select from pg_roles where rolname = %s", [name]).fetchall():
            self.control.execute(sql.SQL("create role {} superuser login").format(user))
        return name

    def ask(self, database: str, query: LiteralString) -> tuple[Any, ...]:
        with psycopg.connect(self.url(database)) as connection:
            row = connection.execute(query).fetchone()
        assert row is not None
        return row

    def statements(self, database: str, user: str | None = None) -> list[tuple[int, str]]:
        return self.control.execute(
            """select s.calls, s.query from pg_stat_statements s
               join pg_database d on d.oid = s.dbid join pg_roles r on r.oid = s.userid
               where d.datname = %s and (%s::text is null or r.rolname = %s) order by s.calls desc""",
            [database, user, user],
        ).fetchall()

    def close(self) -> None:
        self.control.close()
        self.server.send_signal(signal.SIGINT)
        try:
            self.server.wait(30)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()
        shutil.rmtree(self.dir, ignore_errors=True)
