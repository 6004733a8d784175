"""What the reader sees: a bar on a terminal, plain lines elsewhere, the table at the end."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

console = Console(highlight=False, soft_wrap=True)


class Progress:
    def __init__(self, title: str, total: int) -> None:
        self.title, self.total = title, total
        self.said = 0
        self.began = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Bar(*columns, console=console) if sys.stdout.isatty() else None
        self.task = self.bar.add_task(title, total=total) if self.bar else None

    def __enter__(self) -> Progress:
        if self.bar:
            self.bar.start()
        else:
            print(f"{self.title}: {self.total} files", flush=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def at(self, done: int) -> None:
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=done)
        elif (tenth := done * 10 // self.total) > self.said:
            self.said = tenth
            print(f"  {done} of {self.total} after {time.monotonic() - self.began:.0f} s", flush=True)

    def line(self, text: str) -> None:
        if self.bar:
            console.print(f"  {text}", style="dim")
        else:
            print(f"  {text}", flush=True)


def table(rows: list[tuple[str, str, str]]) -> None:
    width = [max(len(row[column]) for row in rows) for column in range(3)]
    for number, row in enumerate(rows):
        print(f"{row[0]:<{width[0]}}   {row[1]:>{width[1]}}   {row[2]:>{width[2]}}")
        if number == 0:
            print("-" * (sum(width) + 6))
