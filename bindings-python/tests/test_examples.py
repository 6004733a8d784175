"""Every example runs and prints what its last comment says."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import sqlite3
import subprocess
import sys

import pytest

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text("utf-8")
EXAMPLES = sorted((pathlib.Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_example(example: pathlib.Path, tmp_path: pathlib.Path) -> None:
    wanted = [line[2:] for line in example.read_text("utf-8").partition("# Output:\n")[2].splitlines()]
    assert wanted, "an example ends with its output"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EVERSTEP_")}
    done = subprocess.run([sys.executable, str(example)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == wanted


def test_the_readmes_blocks_are_programs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        compile(block, "README.md", "exec")


def test_the_readmes_own_test_passes(tmp_path: pathlib.Path) -> None:
    (block,) = re.findall(r"## Testing\n+```python\n(.*?)```", README, re.DOTALL)
    imports = "from datetime import timedelta\nfrom typing import Any\nimport pytest\nfrom everstep import Everstep\n"
    (tmp_path / "test_readme.py").write_text(imports + block, "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_readme.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def test_demo(tmp_path: pathlib.Path) -> None:
    done = subprocess.run([sys.executable, "-m", "everstep", "demo"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "steps one to three ran once" in done.stdout


def test_command_line(tmp_path: pathlib.Path) -> None:
    example = EXAMPLES[[path.stem for path in EXAMPLES].index("quickstart")]
    subprocess.run([sys.executable, str(example)], cwd=tmp_path, check=True, capture_output=True, timeout=60)

    def everstep(*words: str) -> str:
        command = [sys.executable, "-m", "everstep", *words, "--database", "sqlite:quickstart.db"]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60).stdout

    assert "order-1" in everstep("runs", "--state", "succeeded")
    assert "reserve" in everstep("run", "order-1")
    assert everstep("cancel", "order-1").strip() == "already_finished"


@pytest.mark.parametrize("typo", ["sqlite:typo.db", "typo.db", "sqlite://typo.db"])
def test_looking_makes_no_database(tmp_path: pathlib.Path, typo: str) -> None:
    for words in (["runs"], ["run", "order-1"], ["cancel", "order-1"]):
        command = [sys.executable, "-m", "everstep", *words, "--database", typo]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and "no database file 'typo.db'" in done.stderr and "Traceback" not in done.stderr
    # One that is there, and no engine's: nothing is added to it.
    (tmp_path / "other.db").touch()
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("create table theirs (n integer)")
    command = [sys.executable, "-m", "everstep", "runs", "--database", "other.db"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "migration_needed" in done.stderr
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as other:
        assert other.execute("select name from sqlite_master").fetchall() == [("theirs",)]
    assert sorted(path.name.split("-")[0] for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["other.db"]
