"""Both stores for every test that asks for `database`. PostgreSQL: EVERSTEP_TEST_PG, or a private cluster for this session."""

from __future__ import annotations

import itertools
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

_BINARIES = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin")
_numbers = itertools.count(1)


def _binaries() -> pathlib.Path | None:
    found = [path for pattern in _BINARIES for path in pathlib.Path("/").glob(pattern.lstrip("/"))]
    return max(found, default=None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _as_user() -> list[str]:
    """PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return []
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return ["setpriv", f"--reuid={name}", "--regid=" + str(pwd.getpwnam(name).pw_gid), "--clear-groups"]
    pytest.skip("no user to run PostgreSQL as")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    given = os.environ.get("EVERSTEP_TEST_PG")
    if given:
        yield given
        return
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL here: set EVERSTEP_TEST_PG")
    data = pathlib.Path(tempfile.mkdtemp(prefix="everstep-py-pg-"))
    prefix = _as_user()
    if prefix:
        shutil.chown(data, prefix[1].partition("=")[2])
    port = _free_port()

    def run(*command: object) -> None:
        subprocess.run([*prefix, *map(str, command)], check=True, capture_output=True, cwd=data)

    run(binaries / "initdb", "-D", data / "db", "-U", "everstep", "--auth=trust", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data} -c max_connections=200"
    run(binaries / "pg_ctl", "-D", data / "db", "-w", "-l", data / "log", "-o", options, "start")
    try:
        yield f"postgresql://everstep@127.0.0.1:{port}/postgres"
    finally:
        run(binaries / "pg_ctl", "-D", data / "db", "-m", "immediate", "stop")
        shutil.rmtree(data, ignore_errors=True)


class Database:
    def __init__(self, kind: str, url: str, schema: str, **more: Any) -> None:
        self.kind = kind
        self.url = url
        self.schema = schema
        self.more = more

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments of an engine on this database."""
        return {"database": self.url, "schema": self.schema, "auto_migrate": True, **self.more}

    @property
    def environment(self) -> dict[str, str]:
        """For child processes, which read it with `settings_of_environment`."""
        return {**os.environ, "TEST_DATABASE": self.url, "TEST_SCHEMA": self.schema}


@pytest.fixture(params=["sqlite", "postgres", "replayed"])
def database(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Database:
    """`replayed`: runs are released at every wait and replayed before every step, so each test is a test of replay too."""
    schema = f"t{os.getpid()}_{next(_numbers)}_{uuid.uuid4().hex[:6]}"
    if request.param != "postgres":
        more = {"replay": "always"} if request.param == "replayed" else {}
        return Database("sqlite", f"sqlite:{tmp_path / 'everstep.db'}", "everstep", **more)
    return Database("postgres", request.getfixturevalue("postgres_url"), schema)
