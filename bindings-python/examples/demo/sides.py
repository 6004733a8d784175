"""The two sides of the comparison, each over the same files under the same schedule of kills."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import control
from fleet import by_hand, members
from show import Progress
from supervisor import Supervisor
from work import Counted

HERE = Path(__file__).resolve().parent


@dataclass
class Outcome:
    """What is left when the workers are gone, read from the tables and from the provider's log."""

    kills: int
    seconds: float
    files: int
    total: tuple[int, int, int]
    seen: dict[str, int]
    keys: int
    requests: int
    lost: int

    @property
    def doubles(self) -> int:
        """Effects that happened again: additions to the total, and calls the provider could not tell from new ones."""
        return sum(times - 1 for times in self.seen.values()) + max(0, self.keys - self.files)

    def total_is_right(self, straight: list[Counted]) -> bool:
        return self.total == (len(straight), sum(one.lines for one in straight), sum(one.tokens for one in straight))

    def clean(self, straight: list[Counted]) -> bool:
        return self.doubles == 0 and self.lost == 0 and self.total_is_right(straight) and self.keys == self.files


class Provider:
    """The outside service as a process, and its log."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen([sys.executable, str(HERE / "provider.py"), str(log)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def requests(self) -> list[list[str]]:
        return [line.split("\t") for line in self.log.read_text().splitlines()]

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def run_everstep(directory: Path, files: list[str], seed: int, progress: Progress) -> Outcome:
    database = directory / "everstep.db"
    provider = Provider(directory / "everstep-provider.log")
    os.environ |= {"DEMO_DATABASE": str(database), "DEMO_PROVIDER_PORT": str(provider.port), "DEMO_ROLE": "client"}
    import app  # its engine is built from the environment set above

    # Our own tables, before any engine has the file open: SQLite allows one copy of its library a process on one file.
    with sqlite3.connect(database) as connection:
        for statement in app.TABLES:
            connection.execute(statement)
    connection.close()

    results: dict[str, str] = {}
    with app.app:
        began = time.monotonic()
        runs = app.start_all(files)

        def collect() -> None:
            for path, run in zip(files, runs, strict=True):
                results[path] = run.result()

        collector = threading.Thread(target=collect, name="collect", daemon=True)
        collector.start()
        os.environ["DEMO_ROLE"] = "worker"
        supervisor = Supervisor(members(), seed, directory / "everstep-workers.log", progress.line)
        watch(supervisor, lambda: not collector.is_alive(), lambda: len(results), progress)
        seconds = time.monotonic() - began
        supervisor.end()
    provider.end()
    return outcome(database, files, supervisor.kills, seconds, provider, lambda path: path in results)


def run_control(directory: Path, files: list[str], seed: int, progress: Progress) -> Outcome:
    database = directory / "control.db"
    provider = Provider(directory / "control-provider.log")
    control.create(database, files)
    began = time.monotonic()
    supervisor = Supervisor(by_hand(len(members()), str(database), str(provider.port)), seed, directory / "control-workers.log", progress.line)
    watch(supervisor, lambda: control.left(database) == 0, lambda: len(files) - control.left(database), progress)
    seconds = time.monotonic() - began
    supervisor.end()
    provider.end()
    return outcome(database, files, supervisor.kills, seconds, provider, lambda path: True)


def watch(supervisor: Supervisor, over: Callable[[], bool], done: Callable[[], int], progress: Progress) -> None:
    while not over():
        supervisor.look()
        progress.at(done())
        time.sleep(0.05)
    progress.at(done())


def outcome(database: Path, files: list[str], kills: int, seconds: float, provider: Provider, finished: Callable[[str], bool]) -> Outcome:
    connection = sqlite3.connect(database)
    total = connection.execute("select files, lines, tokens from total").fetchone()
    seen = dict(connection.execute("select path, times from seen").fetchall())
    connection.close()
    requests = provider.requests()
    told = {path for _, path in requests}
    lost = sum(1 for path in files if path not in seen or path not in told or not finished(path))
    return Outcome(kills, seconds, len(files), total, seen, len({key for key, _ in requests}), len(requests), lost)
