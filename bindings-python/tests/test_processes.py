"""Crashes, forks and exits: each in a process of its own."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from conftest import Database

from everstep import Everstep

PROGRAMS = pathlib.Path(__file__).with_name("programs.py")


def play(database: Database, name: str, *, expect: int = 0, seconds: float = 60, **environment: str) -> list[str]:
    """Standard output of the program; a hang is a failure."""
    command = [sys.executable, "-X", "faulthandler", str(PROGRAMS), name]
    done = subprocess.run(command, env={**database.environment, **environment}, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Fatal Python error" not in done.stderr and "panicked" not in done.stderr, done.stderr
    return done.stdout.splitlines()


def test_killed_in_a_step_and_resumed(database: Database) -> None:
    first = play(database, "die_in_step", expect=-signal.SIGKILL, DIE="1")
    assert [line.split()[1] for line in first] == ["1", "2", "3"]
    begun = time.monotonic()
    second = play(database, "die_in_step")
    assert [line.split()[1] for line in second[:-1]] == ["3", "4", "5"]
    assert second[-1] == "result [1, 2, 3, 4, 5]"
    assert time.monotonic() - begun < 8, "the same host takes over at once, not after the lease"


def test_a_point_in_time_that_is_waited_for_outlives_the_process(database: Database) -> None:
    play(database, "sleeps_until", expect=-signal.SIGKILL, DIE="1")
    assert play(database, "sleeps_until") == ["not before"]


def test_raw_gather_replays_as_it_ran(database: Database) -> None:
    play(database, "die_in_gather", expect=-signal.SIGKILL, DIE="1")
    (line,) = play(database, "die_in_gather")
    assert line == f"result {[[n * 10 for n in range(10)], list(range(10))]}"


def test_the_interpreter_ends(database: Database) -> None:
    begun = time.monotonic()
    assert play(database, "exit_with_work_in_flight") == ["leaving"]
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("how", ["returned", "interrupted", "twice"])
def test_a_run_outlives_the_loop_it_was_on(database: Database, how: str) -> None:
    """`asyncio.run` cancels whatever is left on its loop, and each such run was recorded as failed, for good."""
    assert play(database, "loop_ends_without_close", ENDS=how) == ["done done True"]


def test_a_forked_child_opens_its_own(postgres_url: str) -> None:
    database = Database("postgres", postgres_url, f"t{os.getpid()}_forked")
    assert play(database, "fork_after_launch") == ["child fine", "parent fine 0"]


@pytest.mark.parametrize("url", ["sqlite:{}/everstep.db", "sqlite://{}/everstep.db", "sqlite:everstep.db", "sqlite://everstep.db", "everstep.db"])
def test_a_forked_child_is_refused_the_file_its_parent_has_open(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    database = Database("sqlite", url.format(tmp_path), "everstep")
    refused = ["forked True"] * 3
    assert play(database, "fork_beside_sqlite") == ["early 2", *refused, "another file 1", "after the close 1"]


def test_a_fork_inside_a_step(database: Database) -> None:
    assert play(database, "fork_inside_a_step") == ["forked"]


@pytest.mark.parametrize(("name", "view"), [("serving", "threads"), ("serving_async", "asyncio")])
def test_a_worker_drains_on_sigterm(database: Database, name: str, view: str) -> None:
    """The step that runs goes on to its end, which is recorded; afterwards signals are what they were."""
    (line,) = play(database, name)
    assert line == f"{view} succeeded 1 True"


def test_serve_belongs_to_the_main_thread() -> None:
    app = Everstep()
    caught: list[BaseException] = []

    def serve(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            caught.append(error)

    for call in (app.serve, lambda: asyncio.run(app.aio.serve())):
        thread = threading.Thread(target=serve, args=(call,))
        thread.start()
        thread.join()
    assert [getattr(error, "code", None) for error in caught] == ["config_invalid"] * 2


def test_control_c_during_result(database: Database) -> None:
    assert play(database, "interrupted") == ["interrupted True", "closed"]


def test_control_c_during_close(database: Database) -> None:
    assert play(database, "interrupted_in_close") == ["interrupted []", "done"]


def test_replayed_lines_are_dropped(database: Database) -> None:
    lines = play(database, "replayed_logging")
    assert [line for line in lines if "first" in line] == ["INFO first None 1"]
    assert [line for line in lines if "in step" in line] == ["INFO in step 1 inside 1"]
    assert [line for line in lines if "second" in line] == ["INFO second None 1"]
    assert lines[-1] == "closed"


def test_gunicorn_with_preload(database: Database, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("gunicorn")
    (tmp_path / "web.py").write_text(
        "import os, sys\n"
        "from datetime import timedelta\n"
        "from everstep import Everstep\n"
        "app = Everstep(os.environ['TEST_DATABASE'], schema=os.environ['TEST_SCHEMA'], auto_migrate=True)\n"
        "@app.workflow\n"
        "def work(n: int) -> int:\n"
        "    return n * 2\n"
        "launched = False\n"
        "def application(environ, start_response):\n"
        "    global launched\n"
        "    if not launched:\n"
        "        app.launch()\n"
        "        launched = True\n"
        "    body = str(work.start(21).result(timedelta(seconds=20))).encode()\n"
        "    start_response('200 OK', [('Content-Length', str(len(body)))])\n"
        "    return [body]\n"
    )
    from conftest import _free_port

    port = _free_port()
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--bind", f"127.0.0.1:{port}", "web:application"]
    server = subprocess.Popen(command, cwd=tmp_path, env=database.environment, stderr=subprocess.PIPE, text=True)
    try:
        assert {_get(port) for _ in range(6)} == {"42"}
    finally:
        server.terminate()
        _, errors = server.communicate(timeout=40)
    assert server.returncode == 0, errors
    assert "SIGKILL" not in errors and "Traceback" not in errors, errors


def _get(port: int) -> str:
    import urllib.error
    import urllib.request

    end = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                return answer.read().decode()
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() > end:
                raise
