"""What a program says about its engine holds, whichever role it has."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest
from conftest import Database

import everstep
from everstep import AsyncEverstep, Everstep

SOON = timedelta(seconds=20)


def one() -> int:
    return 1


class NotReadable:
    def __init__(self, *parts: int) -> None: ...


@pytest.mark.parametrize("slots", [1, 2])
def test_slots_hold_for_functions_of_threads(database: Database, slots: int) -> None:
    app = Everstep(**database.settings, slots=slots)
    running = most = 0
    lock, full = threading.Lock(), threading.Event()

    @app.step
    def busy(n: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == slots:
                full.set()
        # All that may run do so at once; one more would have come while they wait.
        full.wait(10)
        threading.Event().wait(0.1)
        with lock:
            running -= 1
        return n

    @app.workflow
    def work(n: int) -> int:
        return busy(n)

    with app:
        assert [run.result(SOON) for run in work.start_many(range(6))] == list(range(6))
    assert most == slots


def settings_of(app: Everstep, declare: Any) -> tuple[int, int]:
    app.workflow(name="work")(declare)
    info = app.info()
    app.close()
    return info["max_parked"], info["release_after_ms"]


def test_fewer_runs_are_parked_where_each_holds_a_thread(database: Database) -> None:
    async def coroutine() -> int:
        return 1

    assert settings_of(Everstep(**database.settings), one) == (100, 1_000)
    assert settings_of(Everstep(**database.settings), coroutine) == (1_000, 300_000)
    # An async step parks nobody; a sync one does not hold a thread where an async workflow waits.
    for app, of_step, of_workflow, limits in (
        (Everstep(**database.settings), coroutine, one, (100, 1_000)),
        (Everstep(**database.settings), one, coroutine, (1_000, 300_000)),
    ):
        app.step(name="step")(of_step)
        assert settings_of(app, of_workflow) == limits
    assert settings_of(Everstep(**database.settings, max_parked=7), one) == (7, 1_000)


def test_a_named_option_wins_over_settings_and_hides_none(database: Database) -> None:
    for app, lease in (
        (Everstep(**database.settings, lease_ms=4_000), 4_000),
        (Everstep(**database.settings, lease=timedelta(seconds=5), lease_ms=4_000), 5_000),
    ):
        assert app.info()["lease_ms"] == lease
        app.close()


def test_a_client_launches_once_and_checks_what_it_declares(database: Database) -> None:
    Everstep(**database.settings).migrate()
    client = Everstep(**database.settings, role="client")
    work = client.workflow(name="work")(one)
    client.queue("early")
    client.launch()
    with pytest.raises(everstep.AlreadyLaunched):
        client.launch()
    with pytest.raises(everstep.RegisteredLate):
        client.queue("late")
    with pytest.raises(everstep.RegisteredLate):
        client.workflow(name="late")(one)
    assert [queue.name for queue in client.queues()] == ["early"]
    assert work.options(queue="early").start().status().state == "ready"
    client.close()

    async def main() -> None:
        client = AsyncEverstep(**database.settings, role="client")
        client.queue("async")
        async with client:
            with pytest.raises(everstep.AlreadyLaunched):
                await client.launch()
            assert "async" in [queue.name for queue in await client.queues()]

    asyncio.run(main())
    broken = Everstep(**database.settings, role="client")

    @broken.workflow
    def unreadable(value: NotReadable) -> None: ...

    with pytest.raises(everstep.PayloadInvalid, match="NotReadable"):
        broken.launch()


def test_declared_after_close(database: Database) -> None:
    app = Everstep(**database.settings)
    app.launch()
    app.close()
    for declare in (lambda: app.workflow(name="late")(one), lambda: app.step(name="late")(one), lambda: app.queue("late")):
        with pytest.raises(everstep.Closed):
            declare()


def test_a_name_taken_twice_names_both_places() -> None:
    app = Everstep()
    app.workflow(one)
    second = one.__code__.co_firstlineno
    with pytest.raises(everstep.AlreadyRegistered) as caught:
        app.step(name="one")(settings_of)
    here = settings_of.__code__.co_firstlineno
    assert f"test_settings.py:{second};" in caught.value.message and f"test_settings.py:{here}." in caught.value.message
    assert "workflow" in caught.value.message
