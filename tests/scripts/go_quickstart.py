"""The Go README's program from the packed modules alone: an empty module, `go get` from a proxy directory, the kill, the second process.

`go_quickstart.py DIRECTORY`: exits 0 when the output is what the README says, but for the process numbers.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import quickstart
from quickstart import shape

README = Path(__file__).resolve().parents[2] / "bindings-go" / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.M | re.S)


def main() -> int:
    proxy = Path(sys.argv[1]).resolve()
    wanted = shape(blocks("console")[1].rpartition("$ ")[2].partition("\n")[2])
    with tempfile.TemporaryDirectory(prefix="everstep-quickstart-") as directory:
        # A module cache of its own: nothing of this repository can be found by accident. What a program needs is in the directory, so
        # nothing else is asked.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EVERSTEP_")} | {
            "GOPROXY": "off",
            "GOWORK": "off",
            "GOMODCACHE": f"{directory}/modules",
        }

        def sh(command: str, **more: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(["sh", "-c", command], cwd=directory, env=environment | more, capture_output=True, text=True, timeout=240)

        Path(directory, "main.go").write_text(blocks("go")[0])
        for command in ("go mod init example.org/ship", quickstart.install("go get ", proxy.parents[1]), "go build -o ship ."):
            done = sh(command)
            if done.returncode != 0:
                print(f"{command}: {done.stdout} {done.stderr}")
                return 1
        ship = f"{directory}/ship"
        first = subprocess.run([ship, "order-7", "paper"], cwd=directory, env=environment, capture_output=True, text=True, timeout=60)
        if first.returncode != -9:
            print(f"the first process was not killed: {first.returncode} {first.stdout} {first.stderr}")
            return 1
        second = subprocess.run([ship, "order-7"], cwd=directory, env=environment, capture_output=True, text=True, timeout=60)
        print(second.stdout, second.stderr)
        if second.returncode != 0 or shape(second.stdout) != wanted:
            print(f"wanted {wanted}, got {shape(second.stdout)} (exit code {second.returncode})")
            return 1
        # With cgo off it compiles all the same, and says so when it runs.
        built = sh("go build -o without .", CGO_ENABLED="0")
        without = subprocess.run([f"{directory}/without", "order-8"], cwd=directory, capture_output=True, text=True, timeout=60)
        if built.returncode != 0 or without.returncode == 0 or "cgo off" not in without.stderr:
            print(f"with cgo off: {built.stderr} {without.returncode} {without.stderr}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
