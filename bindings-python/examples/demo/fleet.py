"""Who works: one place a language whose package is built, and three at the least."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from supervisor import Member

LEAST = 3
ROOT = Path(__file__).resolve().parents[3]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))

NODE = TARGET / "node" / "installed" / "demo_worker.cjs"
JAVA = TARGET / "java" / "everstep-examples"
GO = TARGET / "go" / "demo"


def languages() -> list[Member]:
    found = [Member("python", [sys.executable, "worker.py"])]
    if NODE.exists():
        found.append(Member("node", ["node", str(NODE)]))
    if (JAVA / "lib").exists():
        # Started hundreds of times for a few seconds each: the compiler that is quick to begin with is the right one.
        java = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", f"{JAVA / 'classes'}:{JAVA / 'lib'}/*"]
        found.append(Member("java", [*java, "examples.demo.DemoWorker"]))
    if GO.exists():
        found.append(Member("go", [str(GO)]))
    return found


def members() -> list[Member]:
    found = languages()
    return [found[place % len(found)] for place in range(max(LEAST, len(found)))]


def by_hand(count: int, *arguments: str) -> list[Member]:
    """As many workers of the control."""
    return [Member("by hand", [sys.executable, "control.py", *arguments])] * count
