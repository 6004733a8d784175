"""The README's program from the wheel alone: an empty virtual environment, the kill, the second process.

`quickstart.py WHEEL`: exits 0 when the output is what the README says, but for the process numbers.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.M | re.S)


def install(tool: str, target: Path) -> str:
    """The README's command for what is in this folder of built packages."""
    command = next(line for line in blocks("sh")[0].splitlines() if tool in line)
    return command.replace("$EVERSTEP/target", str(target))


def shape(text: str) -> list[str]:
    """Lines with process numbers replaced by the order of their first appearance."""
    seen: dict[str, str] = {}
    return [
        re.sub(r"(?<=process )\d+", lambda found: seen.setdefault(found.group(), chr(ord("A") + len(seen))), line)
        for line in text.strip().splitlines()
    ]


def main() -> int:
    wheel = Path(sys.argv[1]).resolve()
    program, shown = blocks("python")[0], blocks("console")[0]
    wanted = shape(shown.rpartition("$ ")[2].partition("\n")[2])
    with tempfile.TemporaryDirectory(prefix="everstep-quickstart-") as directory:
        venv.create(f"{directory}/venv", with_pip=True)
        python = f"{directory}/venv/bin/python"
        # The wheel needs nothing, so no index is asked for anything.
        environment = os.environ | {"PATH": f"{directory}/venv/bin:{os.environ['PATH']}", "PIP_NO_INDEX": "1", "PIP_QUIET": "1"}
        subprocess.run(["sh", "-c", install("pip ", wheel.parents[1])], env=environment, check=True)
        Path(directory, "ship.py").write_text(program)
        first = subprocess.run([python, "ship.py", "order-7", "paper"], cwd=directory, capture_output=True, text=True, timeout=60)
        if first.returncode != -9:
            print(f"the first process was not killed: {first.returncode} {first.stdout} {first.stderr}")
            return 1
        second = subprocess.run([python, "ship.py", "order-7"], cwd=directory, capture_output=True, text=True, timeout=60)
        print(second.stdout, second.stderr)
        if second.returncode != 0 or shape(second.stdout) != wanted:
            print(f"wanted {wanted}, got {shape(second.stdout)} (exit code {second.returncode})")
            return 1
        demo = subprocess.run([python, "-m", "everstep", "demo"], cwd=directory, capture_output=True, text=True, timeout=120)
        print(demo.stdout, demo.stderr)
        return demo.returncode


if __name__ == "__main__":
    sys.exit(main())
