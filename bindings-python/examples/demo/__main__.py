"""`make demo`: a killed checkout, then every file of the standard library under random kills, beside a worker written by hand."""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fleet import members
from show import Progress, table
from sides import Outcome, run_control, run_everstep
from work import Counted, count, source_files


def straight_through(files: list[str]) -> list[Counted]:
    """The same work without kills, queue or database: what the totals have to be."""
    counted: list[Counted] = []
    with Progress("computed straight", len(files)) as progress, multiprocessing.get_context("spawn").Pool() as pool:
        for one in pool.imap(count, files, chunksize=16):
            counted.append(one)
            progress.at(len(counted))
    return counted


def report(ours: Outcome, control: Outcome, straight: list[Counted]) -> None:
    def row(name: str, of: str) -> tuple[str, str, str]:
        return name, f"{getattr(ours, of):,}", f"{getattr(control, of):,}"

    def total(one: Outcome) -> str:
        return "right" if one.total_is_right(straight) else "WRONG"

    print()
    table(
        [
            ("", "Everstep", "control"),
            row("kills", "kills"),
            row("files", "files"),
            row("double effects", "doubles"),
            row("lost", "lost"),
            ("running total", total(ours), total(control)),
            row("provider keys", "keys"),
            row("provider requests", "requests"),
            ("runs/s", f"{ours.files / ours.seconds:.0f}", f"{control.files / control.seconds:.0f}"),
        ]
    )


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=1, help="of the schedule of kills")
    arguments.add_argument("--files", type=int, help="only so many files")
    arguments.add_argument("--keep", action="store_true", help="keep databases and logs")
    chosen = arguments.parse_args()

    print("A checkout, killed in step four\n", flush=True)
    if subprocess.run([sys.executable, "-m", "everstep", "demo"]).returncode != 0:
        print("the checkout did not come out right")
        return 1

    files = source_files()[: chosen.files]
    fleet = ", ".join(member.language for member in members())
    print(f"\nEvery source file of Python's standard library: {len(files)} runs, workers in {fleet}, random kills (seed {chosen.seed})\n")
    straight = straight_through(files)
    directory = Path(tempfile.mkdtemp(prefix="everstep-demo-"))
    try:
        with Progress("Everstep", len(files)) as progress:
            ours = run_everstep(directory, files, chosen.seed, progress)
        with Progress("control: queue table, lease, retry", len(files)) as progress:
            control = run_control(directory, files, chosen.seed, progress)
    finally:
        if chosen.keep:
            print(f"databases and logs: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    report(ours, control, straight)
    if not ours.clean(straight):
        print("\nEverstep's line is not clean")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
