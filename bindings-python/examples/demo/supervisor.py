"""Three worker processes, killed at random and replaced."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

WORKERS = 3
HERE = Path(__file__).resolve().parent


class Supervisor:
    """Kills one worker every 0.4 to 1.6 seconds until the work is done. One seed is one schedule of moments and victims.

    A worker that dies by another hand is replaced too, and counted.
    """

    def __init__(self, command: list[str], seed: int, log: Path, tell: Callable[[str], None]) -> None:
        self.command = command
        self.random = random.Random(seed)
        self.tell = tell
        self.kills = 0
        self.log = log.open("ab")
        self.workers = [self.spawn() for _ in range(WORKERS)]
        self.next_kill = time.monotonic() + self.pause()
        tell("workers " + " ".join(str(worker.pid) for worker in self.workers) + ": kill any of them yourself")

    def spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, *self.command], cwd=HERE, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def pause(self) -> float:
        return self.random.uniform(0.4, 1.6)

    def look(self) -> None:
        """To be called often: kills when it is time, replaces what is dead."""
        if time.monotonic() >= self.next_kill:
            self.next_kill += self.pause()
            victim = self.workers[self.random.randrange(WORKERS)]
            victim.send_signal(signal.SIGKILL)
            victim.wait()
        for number, worker in enumerate(self.workers):
            code = worker.poll()
            if code is None:
                continue
            if code != -signal.SIGKILL:
                raise SystemExit(f"worker {worker.pid} ended by itself with code {code}; see {self.log.name}")
            self.kills += 1
            self.workers[number] = self.spawn()
            self.tell(f"kill -9 {worker.pid}, now {self.workers[number].pid}")

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
