"""Worker processes of one or several languages, killed at random and replaced."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass
class Member:
    """A place in the fleet: what is started there, again and again."""

    language: str
    command: list[str]


class Supervisor:
    """Kills one worker every 0.4 to 1.6 seconds until the work is done. One seed is one schedule of moments and victims.

    A worker that dies by another hand is replaced too, and counted.
    """

    def __init__(self, fleet: list[Member], seed: int, log: Path, tell: Callable[[str], None]) -> None:
        self.fleet = fleet
        self.random = random.Random(seed)
        self.tell = tell
        self.kills = 0
        self.log = log.open("ab")
        self.workers = [self.spawn(number) for number in range(len(fleet))]
        self.next_kill = time.monotonic() + self.pause()
        tell("workers " + ", ".join(self.called(number) for number in range(len(fleet))) + ": kill any of them yourself")

    def spawn(self, number: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.fleet[number].command, cwd=HERE, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def called(self, number: int) -> str:
        return f"{self.workers[number].pid} ({self.fleet[number].language})"

    def pause(self) -> float:
        return self.random.uniform(0.4, 1.6)

    def look(self) -> None:
        """To be called often: kills when it is time, replaces what is dead."""
        if time.monotonic() >= self.next_kill:
            self.next_kill += self.pause()
            victim = self.workers[self.random.randrange(len(self.workers))]
            victim.send_signal(signal.SIGKILL)
            victim.wait()
        for number, worker in enumerate(self.workers):
            code = worker.poll()
            if code is None:
                continue
            if code != -signal.SIGKILL:
                raise SystemExit(f"worker {self.called(number)} ended by itself with code {code}; see {self.log.name}")
            self.kills += 1
            self.workers[number] = self.spawn(number)
            self.tell(f"kill -9 {worker.pid}, now {self.called(number)}")

    def end(self) -> None:
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            try:
                worker.wait(30)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self.log.close()
