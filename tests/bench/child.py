"""The programs under measurement: each is a process of its own that answers in lines of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


class Child:
    """One system doing one load. It says when it is ready, begins at the next line of its stdin, ends with its result."""

    def __init__(self, command: list[str], load: str, url: str, prefix: list[str] | None = None, **options: Any) -> None:
        self.what = f"{command[-1]} {load}"
        self.process = subprocess.Popen(
            [*(prefix or []), *command, load, json.dumps({"url": url, **options})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sys.stderr,
            text=True,
        )
        self.ready = self.read("ready")

    @property
    def pid(self) -> int:
        return self.process.pid

    def read(self, kind: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            # Libraries under test may print; ours are the lines of JSON with the word we wait for.
            if line.startswith("{"):
                said = json.loads(line)
                if kind in said:
                    return said
        raise SystemExit(f"{self.what} ended without saying {kind!r} (exit code {self.process.wait()})")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        return self.read("result")["result"]

    def end(self) -> None:
        """Let it leave in its own way: what it does at the end belongs to its cost."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def say(**words: Any) -> None:
    """In the child: one line to whoever measures."""
    print(json.dumps(words), flush=True)


def wait_for_go() -> bool:
    """In the child: False when there will be no more."""
    return bool(sys.stdin.readline())


def resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
