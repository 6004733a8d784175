"""Steps of functions that are defined where they are called."""

from __future__ import annotations

import gc
import weakref
from datetime import timedelta

from conftest import Database

from everstep import Everstep, _app_base

SOON = timedelta(seconds=20)


class Captured:
    """What a function of one run holds."""


def test_what_a_run_defines_ends_with_it(database: Database) -> None:
    """Each was kept for ever with all it had captured."""
    app = Everstep(**database.settings)
    captured: weakref.WeakSet[Captured] = weakref.WeakSet()

    @app.workflow
    def work(n: int) -> int:
        held = Captured()
        captured.add(held)

        def charge() -> int:
            return n if held is not None else 0

        return app.run_step(charge)

    with app:
        before = len(_app_base._inline)
        assert [run.result(SOON) for run in [work.start(n) for n in range(20)]] == list(range(20))
        assert len(_app_base._inline) == before
    gc.collect()
    assert len(captured) == 0
