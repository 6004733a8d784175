"""What a person must put right: typed errors with a stable code that say what to do, and never show a password."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import pathlib
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from conftest import Database, _as_user, _binaries, _free_port
from psycopg import sql

import everstep
from everstep import Everstep

SOON = timedelta(seconds=20)
SECRET = "hunter2-correct-horse"


@pytest.fixture(scope="module")
def guarded() -> Iterator[int]:
    """The port of a PostgreSQL that asks for passwords: superuser `everstep` with the secret, and `reader`, whose sessions are read-only."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL here")
    data = pathlib.Path(tempfile.mkdtemp(prefix="everstep-py-pw-"))
    prefix = _as_user()
    (data / "password").write_text(SECRET)
    if prefix:
        for path in (data, data / "password"):
            shutil.chown(path, prefix[1].partition("=")[2])
    port = _free_port()

    def run(*command: object) -> None:
        subprocess.run([*prefix, *map(str, command)], check=True, capture_output=True, cwd=data)

    run(binaries / "initdb", "-D", data / "db", "-U", "everstep", "--auth=scram-sha-256", f"--pwfile={data / 'password'}", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data}"
    run(binaries / "pg_ctl", "-D", data / "db", "-w", "-l", data / "log", "-o", options, "start")
    try:
        with psycopg.connect(f"host=127.0.0.1 port={port} user=everstep password={SECRET} dbname=postgres", autocommit=True) as admin:
            admin.execute(f"create role reader superuser login password '{SECRET}'")
            admin.execute("alter role reader set default_transaction_read_only = on")
        yield port
    finally:
        run(binaries / "pg_ctl", "-D", data / "db", "-m", "immediate", "stop")
        shutil.rmtree(data, ignore_errors=True)


def refused(app: Everstep, caplog: pytest.LogCaptureFixture) -> everstep.EverstepError:
    """The error of launching; neither it, nor what caused it, nor the log holds the secret."""
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(everstep.EverstepError) as caught:
            app.launch()
        # The other view of the same engine, which a failed launch has left as it was.
        with pytest.raises(type(caught.value)) as caught_async:
            asyncio.run(app.aio.launch())
    assert caught_async.value.message == caught.value.message
    app.close()
    texts = [caplog.text, repr(app)]
    for found in (caught.value, caught_async.value):
        error: BaseException | None = found
        while error is not None:
            texts += [str(error), repr(error), repr(error.args)]
            error = error.__cause__ or error.__context__
    assert not any(SECRET in text or "wrong-" + SECRET in text for text in texts), texts
    return caught.value


def test_a_wrong_password_is_refused_and_never_printed(guarded: int, caplog: pytest.LogCaptureFixture) -> None:
    error = refused(Everstep(f"postgresql://everstep:wrong-{SECRET}@127.0.0.1:{guarded}/postgres"), caplog)
    assert error.code == "database_auth"
    assert "password" in error.message.lower() or "credentials" in error.message.lower()
    assert refused(Everstep(f"postgresql://nobody:{SECRET}@127.0.0.1:{guarded}/postgres"), caplog).code == "database_auth"


def test_a_database_that_is_not_there(guarded: int, caplog: pytest.LogCaptureFixture) -> None:
    error = refused(Everstep(f"postgresql://everstep:{SECRET}@127.0.0.1:{guarded}/nowhere"), caplog)
    assert isinstance(error, everstep.SetupError) and "nowhere" in error.message


def test_a_read_only_server(guarded: int, caplog: pytest.LogCaptureFixture) -> None:
    error = refused(Everstep(f"postgresql://reader:{SECRET}@127.0.0.1:{guarded}/postgres", auto_migrate=True), caplog)
    assert error.code == "database_read_only" and "primary" in error.message


@pytest.fixture
def place(guarded: int, request: pytest.FixtureRequest) -> str:
    """An empty database of this test's own, as its owner sees it."""
    name = request.node.originalname
    with admin_of(guarded) as admin:
        admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    return f"postgresql://everstep:{SECRET}@127.0.0.1:{guarded}/{name}"


def admin_of(port: int, database: str = "postgres") -> psycopg.Connection[Any]:
    return psycopg.connect(f"host=127.0.0.1 port={port} user=everstep password={SECRET} dbname={database}", autocommit=True)


def test_a_password_that_changes_while_runs_execute(
    guarded: int, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    passfile = tmp_path / "passfile"
    passfile.touch(0o600)
    passfile.write_text(f"127.0.0.1:{guarded}:*:rotated:{SECRET}\n")
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    monkeypatch.delenv("PGPASSWORD", raising=False)
    with admin_of(guarded) as admin:
        admin.execute(f"create role rotated superuser login password '{SECRET}'")
    app = Everstep(place.replace(f"//everstep:{SECRET}@", "//rotated@"))
    begun, go_on = threading.Event(), threading.Event()

    @app.step
    def charge() -> int:
        begun.set()
        go_on.wait(20)
        return 7

    @app.workflow
    def pay() -> int:
        return charge()

    with app, caplog.at_level(logging.WARNING):
        run = pay.start()
        assert begun.wait(20)
        with admin_of(guarded) as admin:
            admin.execute(f"alter role rotated password 'new-{SECRET}'")
            admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'rotated'")
        go_on.set()
        # Its record has nowhere to go, and that is said: it is no error of anybody's call.
        until = time.monotonic() + 20
        while "was good before is refused now" not in caplog.text and time.monotonic() < until:
            time.sleep(0.02)
        assert "was good before is refused now" in caplog.text and SECRET not in caplog.text
        passfile.write_text(f"127.0.0.1:{guarded}:*:rotated:new-{SECRET}\n")
        assert run.result(SOON) == 7
        with admin_of(guarded, "test_a_password_that_changes_while_runs_execute") as admin:
            recorded = admin.execute("select convert_from(output, 'UTF8') from everstep.steps where kind = 'step' and name like '%charge'").fetchall()
            assert recorded == [("7",)]


def test_a_role_that_may_not_migrate(guarded: int, place: str, caplog: pytest.LogCaptureFixture) -> None:
    with admin_of(guarded) as admin:
        admin.execute(f"create role limited login password '{SECRET}'")
    limited = place.replace("//everstep:", "//limited:")
    error = refused(Everstep(limited), caplog)
    assert error.code == "no_ddl_right" and "migration_sql" in error.message
    # The owner has run the migration: the same role works.
    with Everstep(place), admin_of(guarded, "test_a_role_that_may_not_migrate") as owner:
        owner.execute("grant usage on schema everstep to limited")
        owner.execute("grant select, insert, update, delete on all tables in schema everstep to limited")
    app = Everstep(limited)
    work = app.workflow(name="work")(one)
    with app:
        assert work.start().result(SOON) == 1


def test_a_database_with_other_data_is_migrated_only_when_asked(guarded: int, place: str, caplog: pytest.LogCaptureFixture) -> None:
    with admin_of(guarded, "test_a_database_with_other_data_is_migrated_only_when_asked") as admin:
        admin.execute("create table theirs (n int)")
    assert refused(Everstep(place), caplog).code == "migration_needed"
    with Everstep(place, auto_migrate=True):
        pass
    with Everstep(place):
        pass


def test_asynchronous_commit_is_refused(guarded: int, place: str, caplog: pytest.LogCaptureFixture) -> None:
    with admin_of(guarded) as admin:
        admin.execute("alter database test_asynchronous_commit_is_refused set synchronous_commit = off")
    error = refused(Everstep(place), caplog)
    assert error.code == "database_not_durable" and "synchronous_commit" in error.message


def test_several_migrate_an_empty_database_at_once(place: str) -> None:
    apps = [Everstep(place) for _ in range(5)]
    with concurrent.futures.ThreadPoolExecutor(len(apps)) as pool:
        list(pool.map(Everstep.launch, apps))
    for app in apps:
        app.close()


def test_a_copied_database_is_held_until_it_is_adopted(guarded: int, place: str) -> None:
    with Everstep(place):
        pass
    with admin_of(guarded) as admin:
        admin.execute("create database the_copy template test_a_copied_database_is_held_until_it_is_adopted")
    app = Everstep(place.rpartition("/")[0] + "/the_copy")
    work = app.workflow(name="work")(one)
    with app:
        run = work.start()
        with pytest.raises(everstep.ResultTimeout, match="copy"):
            run.result(timedelta(milliseconds=300))
        app.adopt()
        assert run.result(SOON) == 1


def one() -> int:
    return 1


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{SECRET}@127.0.0.1:notaport/db",
        f"postgresql://user:{SECRET}@[::bad/db",
        f"postgresql://user:12345/{SECRET}@127.0.0.1:1/db",
        f"postgresql://user:{SECRET}#12345@127.0.0.1:1/db",
        f"mysql://root:{SECRET}@localhost/x",
        f"postgres://user:{SECRET}@/",
    ],
)
def test_a_url_that_cannot_be_read(url: str, caplog: pytest.LogCaptureFixture) -> None:
    try:
        app = Everstep(url, outage_budget=timedelta(milliseconds=300))
    except everstep.SetupError as error:
        assert SECRET not in str(error)
        return
    assert isinstance(refused(app, caplog), everstep.SetupError)


def test_an_unreachable_host_is_said_soon(caplog: pytest.LogCaptureFixture) -> None:
    port = _free_port()
    error = refused(Everstep(f"postgresql://user:{SECRET}@127.0.0.1:{port}/db"), caplog)
    assert error.code == "database_unreachable" and "127.0.0.1" in error.message and str(port) in error.message


def test_a_schema_too_new(database: Database) -> None:
    with Everstep(**database.settings):
        pass
    if database.kind == "postgres":
        with psycopg.connect(database.url, autocommit=True) as admin:
            admin.execute(f"update {database.schema}.meta set value = '999' where key = 'min_compatible'")
    else:
        file = sqlite3.connect(database.url.partition(":")[2])
        with file:
            file.execute("update meta set value = '999' where key = 'min_compatible'")
        file.close()
    app = Everstep(**database.settings)
    with pytest.raises(everstep.SchemaTooNew, match="999"):
        app.launch()
    with pytest.raises(everstep.SchemaTooNew, match="999"):
        asyncio.run(app.aio.launch())
    app.close()


def test_a_file_that_is_no_database(tmp_path: pathlib.Path) -> None:
    (tmp_path / "notes.db").write_text("this is no database at all, whatever its name says\n" * 200)
    for path in (tmp_path / "notes.db", tmp_path, tmp_path / "no" / "such" / "folder.db"):
        app = Everstep(f"sqlite:{path}")
        with pytest.raises(everstep.SetupError) as caught:
            app.launch()
        app.close()
        assert str(path) in str(caught.value)
    assert (tmp_path / "notes.db").read_text().startswith("this is no database")


@pytest.mark.parametrize("variable", [("EVERSTEP_ENV", "production"), ("NODE_ENV", "production"), ("KUBERNETES_SERVICE_HOST", "10.0.0.1")])
def test_no_configuration_under_production(variable: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVERSTEP_DATABASE_URL", raising=False)
    monkeypatch.setenv(*variable)
    with pytest.raises(everstep.NoDatabase, match="EVERSTEP_DATABASE_URL") as caught:
        Everstep().launch()
    with pytest.raises(everstep.NoDatabase, match="EVERSTEP_DATABASE_URL"):
        asyncio.run(everstep.AsyncEverstep().launch())
    assert caught.value.code == "no_database" and list(tmp_path.iterdir()) == []


BAD = ["", "x" * 256, "a\x00b", "a\nb", "\x7f", "\u0085"]


@pytest.mark.parametrize("bad", BAD)
def test_every_name_at_every_entry(database: Database, bad: str) -> None:
    app = Everstep(**database.settings)

    @app.workflow
    def echo(value: Any) -> Any:
        return value

    @app.workflow
    def inside(what: str) -> str:
        calls: dict[str, Any] = {
            "step": lambda: app.run_step(lambda: 1, returns=int, name=bad),
            "topic": lambda: app.send("somebody", bad, 1),
            "event": lambda: app.set_event(bad, 1),
            "patch": lambda: app.patch(bad),
            "child": lambda: echo.options(id=bad).start(1),
        }
        try:
            calls[what]()
        except everstep.IdInvalid as error:
            return error.code
        return "no error"

    with app:
        outside: dict[str, Any] = {
            "workflow": lambda: app.reference(bad).start(1),
            "queue option": lambda: echo.options(queue=bad).start(1),
            "queue": lambda: app.put_queue(bad),
            "label": lambda: echo.options(label=bad).start(1),
            "fairness key": lambda: echo.options(fairness_key=bad).start(1),
            "created by": lambda: echo.options(created_by=bad).start(1),
            "dedup": lambda: echo.options(dedup=everstep.Dedup(bad)).start(1),
            "on_finish": lambda: echo.options(on_finish=bad).start(1),
            "run": lambda: app.run(bad),
            "send to": lambda: app.send(bad, "t", 1),
            "event of": lambda: app.get_event(bad, "k", timeout=timedelta(0)),
            "event key": lambda: app.get_event("somebody", bad, timeout=timedelta(0)),
            "cancel by": lambda: app.run("somebody").cancel(by=bad),
            "resume by": lambda: app.run("somebody").resume(by=bad),
            "retry by": lambda: app.run("somebody").retry(by=bad),
            "rewind by": lambda: app.run("somebody").rewind(0, by=bad),
            "message key": lambda: app.send("somebody", "t", 1, idempotency_key=bad),
        }
        for what, call in outside.items():
            with pytest.raises(everstep.IdInvalid) as caught:
                call()
                pytest.fail(f"{what} {bad!r} was accepted")
            assert caught.value.code == "id_invalid", what
        assert app.runs().items == [] and app.queues() == []
        for what in ("step", "topic", "event", "patch", "child"):
            if (what, bad) == ("topic", ""):
                continue  # the empty topic is the default one
            assert inside.start(what).result(SOON) == "id_invalid", what


def test_the_reason_of_a_cancel_is_any_text(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.workflow
    def waits() -> None:
        app.sleep(timedelta(days=1))

    with app:
        run = waits.start()
        assert run.cancel(by="ops", why="zero \x00 and more") in ("cancelled", "requested")
        with pytest.raises(everstep.RunCancelled, match="zero"):
            run.result(SOON)


@pytest.mark.parametrize("bad", [{"a": object()}, "\ud800", {1: {2, object()}}])
def test_what_cannot_be_encoded_leaves_nothing(database: Database, bad: Any) -> None:
    app = Everstep(**database.settings)

    @app.workflow
    def echo(value: Any) -> Any:
        return bad if value == "bad" else value

    @app.workflow
    def tells(value: Any) -> str:
        try:
            app.set_event("k", bad)
        except everstep.PayloadInvalid as error:
            return error.code
        return "no error"

    with app:
        for call in (lambda: echo.start(bad), lambda: echo.start_many([1, bad]), lambda: app.send("x", "t", bad)):
            with pytest.raises(everstep.PayloadInvalid):
                call()
        assert app.runs().items == []
        with pytest.raises(everstep.RunFailed, match="echo"):
            echo.start("bad").result(SOON)
        assert tells.start(1).result(SOON) == "payload_invalid"


def test_over_the_limit_everywhere(database: Database) -> None:
    app = Everstep(**database.settings, max_payload=1000)
    big = "x" * 2000

    @app.workflow
    def returns_it() -> str:
        return "x" * 2000

    @app.workflow
    def tells() -> list[str]:
        codes: list[str] = []
        for call in (lambda: app.set_event("k", big), lambda: app.send("me", "t", big), lambda: echo.start(big)):
            try:
                call()
            except everstep.PayloadTooLarge as error:
                codes.append(error.code)
        return codes

    @app.workflow
    def echo(value: str) -> str:
        return value

    with app:
        with pytest.raises(everstep.PayloadTooLarge):
            app.send("me", "t", big)
        with pytest.raises(everstep.RunFailed, match="1000"):
            returns_it.start().result(SOON)
        assert tells.options(id="me").start().result(SOON) == ["payload_too_large"] * 3
        assert len(app.runs().items) == 2
