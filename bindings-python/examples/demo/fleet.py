"""Who works: one place a language whose package is built, and three at the least."""

from __future__ import annotations

import sys

from supervisor import Member

LEAST = 3


def members() -> list[Member]:
    languages = [Member("python", [sys.executable, "worker.py"])]
    return [languages[place % len(languages)] for place in range(max(LEAST, len(languages)))]


def by_hand(count: int, *arguments: str) -> list[Member]:
    """As many workers of the control."""
    return [Member("by hand", [sys.executable, "control.py", *arguments])] * count
