"""The systems under measurement: Everstep in each language, the peer in the same language, and what bounds both."""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[1] / "target" / "bench"


def newest_java() -> tuple[str, int]:
    """The newest JDK of this machine, or what BENCH_JAVA names, and its major version: from 21 on there are virtual threads to run on."""
    named = os.environ.get("BENCH_JAVA") or shutil.which("java") or ""
    homes = [Path(named).resolve().parents[1]] if named else []
    if "BENCH_JAVA" not in os.environ:
        homes += sorted(Path("/usr/lib/jvm").glob("*"))
    versions: dict[str, int] = {}
    for home in homes:
        release = home / "release"
        if (home / "bin" / "java").exists() and release.exists():
            version = re.search(r'JAVA_VERSION="(\d+)', release.read_text())
            versions.setdefault(str(home / "bin" / "java"), int(version[1]) if version else 0)
    return max(versions.items(), key=lambda found: found[1]) if versions else ("java", 0)


JAVA_PROGRAM, JAVA_VERSION = newest_java()
# From 22 on a library of native code that nobody has allowed is warned about, on stderr.
ALLOWED = ["--enable-native-access=ALL-UNNAMED"] if JAVA_VERSION >= 22 else []
JAVA = [JAVA_PROGRAM, *ALLOWED, "-cp", f"{TARGET / 'java' / 'classes'}:{TARGET / 'java' / 'lib'}/*"]

CORE, POSTGRES = "everstep-core", "postgres"


@dataclass(frozen=True)
class Language:
    """One language: how its two programs are started, and what the project promises of the first. Ratios are against the second."""

    name: str
    everstep: list[str]
    dbos: list[str]
    steps_ratio: float
    steps_per_s: float
    step_p50_ratio: float
    queue_ratio: float
    rss_mb: float | None = None
    #: What 10,000 waiting runs do to this language's process: (load, its result, the measure, the most it may be).
    waiting: tuple[str, str, str, float] | None = None

    @property
    def ours(self) -> str:
        return f"everstep-{self.name}"

    @property
    def peer(self) -> str:
        return f"dbos-{self.name}"


LANGUAGES = [
    Language(
        "python",
        [sys.executable, str(HERE / "everstep_child.py")],
        [sys.executable, str(HERE / "dbos_child.py")],
        steps_ratio=100,
        steps_per_s=20_000,
        step_p50_ratio=1.5,
        queue_ratio=25,
        rss_mb=25,
    ),
    Language(
        "node",
        ["node", str(TARGET / "node" / "everstep_child.mjs")],
        ["node", str(TARGET / "node" / "dbos_child.mjs")],
        steps_ratio=45,
        steps_per_s=25_000,
        step_p50_ratio=1.5,
        queue_ratio=20,
        rss_mb=30,
        waiting=("waiting", "event_loop_p99_ms", "event_loop_p99_ms", 10),
    ),
    Language(
        "java",
        [*JAVA, "EverstepChild"],
        [*JAVA, "DbosChild"],
        steps_ratio=30,
        steps_per_s=30_000,
        step_p50_ratio=1.5,
        queue_ratio=20,
    ),
    Language(
        "go",
        [str(TARGET / "go" / "everstep")],
        [str(TARGET / "go" / "dbos")],
        steps_ratio=20,
        steps_per_s=35_000,
        step_p50_ratio=1.4,
        queue_ratio=20,
        waiting=("threads", "threads", "os_threads", 50),
    ),
]

SYSTEMS = [CORE, *(language.ours for language in LANGUAGES), *(language.peer for language in LANGUAGES), POSTGRES]


def chosen(only: str) -> list[Language]:
    """ONLY=python: that language; ONLY=core: none; nothing: all."""
    if only == "core":
        return []
    found = [language for language in LANGUAGES if only in ("", language.name)]
    if not found:
        raise SystemExit(f"ONLY={only}: core or one of {', '.join(language.name for language in LANGUAGES)}")
    return found
