"""Run the checks and add up what they found.

`check.py` runs everything, `check.py lint` only what needs no database, `check.py chaos --seconds N --seed S` one
chaos run. The closing line is `N passed, N failed, N skipped`; the exit code is 1 when anything failed. Each part's full
output is in `target/check/`; on a failure its end is shown.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
LOGS = ROOT / "target" / "check"
VENV = ROOT / ".venv" / "bin"


@dataclass
class Count:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def one(output: str) -> Count:
    """A tool that either is content or is not counts as one test."""
    return Count(passed=1)


def cargo(output: str) -> Count:
    found = re.findall(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", output, re.M)
    return sum((Count(int(p), int(f), int(i)) for p, f, i in found), Count())


def pytest(output: str) -> Count:
    summary = output.strip().splitlines()[-1] if output.strip() else ""
    found = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)", summary)}
    return Count(
        found.get("passed", 0) + found.get("xfailed", 0),
        found.get("failed", 0) + found.get("error", 0) + found.get("errors", 0) + found.get("xpassed", 0),
        found.get("skipped", 0),
    )


def surefire(output: str) -> Count:
    """A closing line a module; failures and errors are both failures here."""
    found = re.findall(r"Tests run: (\d+), Failures: (\d+), Errors: (\d+), Skipped: (\d+)\s*$", output, re.M)
    return sum((Count(int(n) - int(f) - int(e) - int(s), int(f) + int(e), int(s)) for n, f, e, s in found), Count())


def closing_line(output: str) -> Count:
    """Our own programs end as this one does."""
    found = re.findall(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", output, re.M)
    return Count(*map(int, found[-1])) if found else Count()


@dataclass
class Part:
    name: str
    command: list[str]
    count: Callable[[str], Count] = one
    # Failing here makes what follows meaningless: it is not run, and counts as failed.
    needed: bool = False
    limit_s: int = 1500
    # It looks at what that part has written, and is left out with it.
    follows: str = ""


def run(part: Part) -> tuple[Count, bool]:
    print(f"== {part.name}: {' '.join(part.command)}", flush=True)
    log = LOGS / (re.sub(r"\W+", "-", part.name) + ".log")
    began = time.monotonic()
    environment = os.environ | {"CARGO_TERM_COLOR": "never", "PATH": f"{VENV}{os.pathsep}{os.environ['PATH']}"}
    with log.open("wb") as out:
        # A group of its own: what hangs is ended with all it started, and counts as failed.
        process = subprocess.Popen(
            part.command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            code = process.wait(part.limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            print(f"{part.name} was not over after {part.limit_s} s")
    output = log.read_text(errors="replace")
    count = part.count(output)
    if code == 0 and count.passed == 0 and count.failed == 0:
        # A runner that found nothing to run has not shown anything.
        print(f"{part.name} ran no test")
        count.failed = 1
    elif code != 0 and count.failed == 0:
        # It did not build, or died before it could count.
        count = Count(count.passed if part.count is not one else 0, 1, count.skipped)
    if code != 0 or count.failed:
        print("\n".join(output.splitlines()[-80:]))
    print(f"   {count} in {time.monotonic() - began:.0f} s", flush=True)
    return count, code == 0


# One profile and one set of features: dependencies are built once for tests, programs and the bindings' suite variants alike (the
# packages are further builds: they must not carry the suite's features). Python's binding only links into an interpreter.
SUITE = ["--release", "--locked", "--workspace", "--exclude", "everstep-python", "--features", "everstep/tables"]


def program(name: str, *arguments: str) -> list[str]:
    return [str(TARGET / "release" / name), *arguments]


def build() -> Part:
    return Part("build", ["tests/scripts/native.sh", "suite"], needed=True)


def suite_wheel() -> Part:
    return Part("suite wheel", ["tests/scripts/wheel.sh", "suite"], needed=True)


def go_suite() -> Part:
    return Part("suite go", ["tests/scripts/go.sh", "suite"], needed=True)


def node_suite() -> Part:
    return Part("suite node", ["tests/scripts/node.sh", "suite"], needed=True)


def suites() -> list[Part]:
    """What the scenarios, faults, mutations and chaos run: a worker a language, with crash points."""
    return [suite_wheel(), node_suite(), go_suite(), java_suite()]


def java_suite() -> Part:
    return Part("suite java", ["tests/scripts/java.sh", "suite"], needed=True)


def java_parts() -> list[Part]:
    repository = str(TARGET / "java" / "repository")
    return [
        Part("java packages", ["tests/scripts/java.sh"], needed=True),
        Part("java quickstart", ["python", "tests/scripts/java_quickstart.py", repository]),
        Part("java lints", ["tests/scripts/java_tests.sh", "lint"]),
        Part("java test", ["tests/scripts/java_tests.sh", "test"], surefire),
    ]


def node_parts() -> list[Part]:
    return [
        Part("node packages", ["tests/scripts/node.sh"], needed=True),
        Part("node quickstart", ["sh", "-c", f"node tests/scripts/quickstart.mjs {TARGET}/node/*.tgz"]),
        Part("node types", ["npm", "--prefix", "bindings-node", "run", "--silent", "types"]),
        Part("node lints", ["npm", "--prefix", "bindings-node", "run", "--silent", "lint"]),
        Part("node test", ["node", "bindings-node/scripts/test.mjs"], closing_line),
    ]


def go_parts() -> list[Part]:
    proxy = str(ROOT / "target" / "go" / "proxy")
    return [
        Part("go modules", ["tests/scripts/go.sh", "dist"], needed=True),
        Part("go quickstart", ["python", "tests/scripts/go_quickstart.py", proxy]),
        Part("go lints", ["tests/scripts/go_tests.sh", "lint"]),
        Part("go test", ["tests/scripts/go_tests.sh", "test"], closing_line),
    ]


def lints() -> list[Part]:
    python = ["bindings-python", "tests"]
    clippy = ["--release", "--locked", "--workspace", "--features", "everstep/tables", "--all-targets"]
    return [
        build(),
        Part("rustfmt", ["cargo", "fmt", "--all", "--check"]),
        Part("clippy", ["cargo", "clippy", "--quiet", *clippy, "--", "-D", "warnings"]),
        Part("generated tables", program("everstep-tables", "--check")),
        Part("ruff", ["ruff", "check", *python]),
        # A README aligns its comments for the eye.
        Part("ruff format", ["ruff", "format", "--check", "--exclude", "*.md", *python]),
    ]


def parts() -> list[Part]:
    wheels = TARGET / "wheels"
    return [
        *lints(),
        Part("wheel", ["tests/scripts/wheel.sh"], needed=True),
        *suites(),
        *node_parts(),
        *go_parts(),
        *java_parts(),
        Part("quickstart", ["sh", "-c", f"python tests/scripts/quickstart.py {wheels}/everstep-*.whl"]),
        # The package and its user's side, by pyright and mypy, are pytest's; the examples are ours.
        Part("pyright", ["pyright", "--project", "bindings-python", "--pythonpath", str(VENV / "python")]),
        Part("pytest", ["python", "-m", "pytest", "bindings-python/tests"], pytest),
        Part("cargo test", ["cargo", "test", *SUITE, "--no-fail-fast"], cargo),
        # Scenarios mostly wait, for leases to end and servers to come back: six at a time keep two cores busy.
        Part("scenarios", program("scenarios", "--jobs", "6", "--results", str(LOGS / "scenarios.json")), closing_line),
        Part("scenarios in the README", ["python", "tests/scripts/feature_table.py", str(LOGS / "scenarios.json")], follows="scenarios"),
        # The statements are the engine's: one language shows what a pooler does to them.
        Part("scenarios behind a pooler", program("scenarios", "--pooled", "--language", "python", "--jobs", "6"), closing_line),
        Part("faults", program("faults", "--except", "poison"), closing_line),
        # One run among 1,000 that kills its process five times, with steps of a minute: it takes as long as it sounds.
        Part("poison", program("faults", "poison"), closing_line),
        Part("mutations", program("mutations"), closing_line),
        chaos(60, 1),
    ]


def chaos(seconds: int, seed: int) -> Part:
    command = program("chaos", "--seconds", str(seconds), "--seed", str(seed))
    return Part(f"chaos {seconds} s, seed {seed}", command, closing_line)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", nargs="?", choices=["all", "lint", "chaos"], default="all")
    arguments.add_argument("--only", default="", help="of the parts of `all`, those with this in their name, and what they need")
    arguments.add_argument("--skip", default="", help="parts of `all` to leave out, by name, with commas between")
    arguments.add_argument("--seconds", type=int, default=60)
    arguments.add_argument("--seed", type=int, default=1)
    chosen = arguments.parse_args()
    LOGS.mkdir(parents=True, exist_ok=True)

    wanted = {"all": parts, "lint": lints, "chaos": lambda: [build(), *suites(), chaos(chosen.seconds, chosen.seed)]}[chosen.what]()
    skipped = [name for name in chosen.skip.split(",") if name]
    wanted = [part for part in wanted if part.name not in skipped and part.follows not in skipped]
    if chosen.only:
        wanted = [part for part in wanted if part.needed or chosen.only in part.name]
        if all(chosen.only not in part.name for part in wanted):
            raise SystemExit(f"no part is named {chosen.only}")
    total, failed = Count(), []
    for part in wanted:
        count, ok = run(part)
        total += count
        if not ok or count.failed:
            failed.append(part.name)
            if part.needed:
                break
    if failed:
        print(f"failed: {', '.join(failed)} (full output in target/check/)")
    if skipped:
        print(f"left out: {', '.join(skipped)}")
    print(total, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
