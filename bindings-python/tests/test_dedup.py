"""How long a dedup key is held, and what becomes of another start with it. "attach" and "reject" until the end of a run are in test_surface."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from conftest import Database

import everstep
from everstep import Dedup, Everstep

SOON = timedelta(seconds=20)


class Parts:
    def __init__(self, database: Database) -> None:
        self.app = Everstep(**database.settings)
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.app.queue("q", paused=True)

        @self.app.step
        def job(name: str) -> str:
            if name == "holds":
                self.begun.set()
                self.go_on.wait(20)
            return name

        self.job = job

    def start(self, name: str, dedup: Dedup) -> Any:
        return self.job.options(queue="q", dedup=dedup).start(name)


def test_while_it_is_queued_a_later_start_takes_its_place(database: Database) -> None:
    parts = Parts(database)
    replaces = Dedup("k", scope="queued", policy="replace")
    with parts.app as app:
        one = parts.start("one", replaces)
        two = parts.start("holds", replaces)
        assert not two.attached and two.key != one.key
        with pytest.raises(everstep.RunCancelled):
            one.result(SOON)
        with pytest.raises(everstep.RunDeduplicated):
            parts.start("refused", Dedup("k", scope="queued", policy="reject"))
        app.resume_queue("q")
        assert parts.begun.wait(20)
        # A worker has it, and the key is free.
        three = parts.start("three", Dedup("k", scope="queued", policy="reject"))
        assert not three.attached
        parts.go_on.set()
        assert [two.result(SOON), three.result(SOON)] == ["holds", "three"]


def test_until_it_has_ended_none_takes_the_place_of_one_that_runs(database: Database) -> None:
    parts = Parts(database)
    replaces = Dedup("k", policy="replace")
    with parts.app as app:
        app.resume_queue("q")
        one = parts.start("holds", replaces)
        assert parts.begun.wait(20)
        with pytest.raises(everstep.RunDeduplicated):
            parts.start("two", replaces)
        parts.go_on.set()
        assert one.result(SOON) == "holds"
        assert parts.start("three", replaces).result(SOON) == "three"


def test_so_long_after_its_start(database: Database) -> None:
    parts = Parts(database)
    with parts.app as app:
        app.resume_queue("q")
        one = parts.start("one", Dedup("long", scope=timedelta(minutes=5)))
        assert one.result(SOON) == "one"
        # It has ended, and holds the key all the same.
        same = parts.start("two", Dedup("long", scope=timedelta(minutes=5)))
        assert same.attached and same.key == one.key
        with pytest.raises(everstep.RunDeduplicated):
            parts.start("refused", Dedup("long", scope=timedelta(minutes=5), policy="reject"))
        brief = Dedup("brief", scope=timedelta(milliseconds=100), policy="reject")
        first = parts.start("first", brief)
        threading.Event().wait(0.15)
        later = parts.start("later", brief)
        assert not later.attached and [first.result(SOON), later.result(SOON)] == ["first", "later"]
