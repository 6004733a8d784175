"""The package as a type checker sees it."""

from __future__ import annotations

import inspect
import pathlib
import subprocess
import sys

import pytest

import everstep

HERE = pathlib.Path(__file__).parent


def run(*command: str, cwd: pathlib.Path) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pyright_from_the_users_side() -> None:
    pytest.importorskip("pyright")
    run("pyright", "--pythonpath", sys.executable, "tests/typing", cwd=HERE.parent)


def test_mypy_from_the_users_side(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("mypy")
    # Another folder, so that mypy reads the installed package as a user's would.
    names = [path.name for path in sorted((HERE / "typing").glob("*.py"))]
    assert len(names) >= 2
    for name in names:
        (tmp_path / name).write_text((HERE / "typing" / name).read_text("utf-8"), "utf-8")
    run("mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), *names, cwd=tmp_path)


def test_pyright_of_the_package() -> None:
    pytest.importorskip("pyright")
    run("pyright", "--pythonpath", sys.executable, "python", cwd=HERE.parent)


def test_whatever_a_user_can_call_says_what_it_does() -> None:
    silent: list[str] = []
    for name in everstep.__all__:
        kind = getattr(everstep, name)
        if not inspect.isclass(kind):
            continue
        silent += [] if kind.__doc__ else [name]
        for member, value in vars(kind).items():
            function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            if not member.startswith("_") and inspect.isfunction(function) and not function.__doc__:
                silent.append(f"{name}.{member}")
    assert silent == []


def test_ruff() -> None:
    pytest.importorskip("ruff")
    run("ruff", "check", "python", "tests", cwd=HERE.parent)
    run("ruff", "format", "--check", "python", "tests", cwd=HERE.parent)
