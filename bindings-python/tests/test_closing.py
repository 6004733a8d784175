"""Ends of an engine at odd moments: by two at once, cut short, from inside itself. Whatever happens, it is closed afterwards and its threads are gone."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from datetime import timedelta

import pytest
from conftest import Database

import everstep
from everstep import AsyncEverstep, Everstep


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in ("everstep-dispatch", "everstep-loop", "everstep-drain")]


def test_the_second_of_two_closes_waits_for_the_first(database: Database) -> None:
    app = Everstep(**database.settings)
    inside, go_on, drained = threading.Event(), threading.Event(), threading.Event()

    @app.step
    def holds() -> None:
        inside.set()
        go_on.wait()
        drained.set()

    @app.workflow
    def work() -> None:
        holds()

    app.launch()
    work.start()
    assert inside.wait(20)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        closes = [pool.submit(app.close) for _ in range(3)]
        assert not concurrent.futures.wait(closes, timeout=0.5, return_when=concurrent.futures.FIRST_COMPLETED).done
        go_on.set()
        assert not concurrent.futures.wait(closes, timeout=20).not_done
    assert drained.is_set() and own_threads() == []


def test_a_close_from_a_signal_handler_of_the_thread_that_closes(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot wait for what it interrupts."""
    app = Everstep(**database.settings)
    app.workflow(name="work")(lambda: None)
    app.launch()
    inner = app._engine._end
    monkeypatch.setattr(app._engine, "_end", lambda handle: (app.close(), inner(handle)))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(app.close).result(20)
    assert own_threads() == []


def test_a_close_that_is_cancelled_closes_all_the_same(database: Database) -> None:
    async def main() -> None:
        app = AsyncEverstep(**database.settings)
        inside = asyncio.Event()

        @app.step
        async def holds() -> None:
            inside.set()
            await asyncio.Event().wait()

        @app.workflow
        async def work() -> None:
            await holds()

        await app.launch()
        await work.start()
        await inside.wait()
        closing = asyncio.create_task(app.close())
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(closing), 0.2)
        again = asyncio.create_task(app.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await again
        assert own_threads() == []
        with pytest.raises(everstep.Closed):
            await work.start()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_close_needs_no_thread_of_the_loops_executor(database: Database) -> None:
    async def main() -> None:
        app = AsyncEverstep(**database.settings)
        loop = asyncio.get_running_loop()
        loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1))
        busy = threading.Event()
        other = loop.run_in_executor(None, busy.wait)
        await app.launch()
        await asyncio.wait_for(app.close(timedelta(0)), 20)
        assert own_threads() == []
        busy.set()
        await other

    asyncio.run(main())


def test_a_loop_that_has_ended_leaves_no_descriptor(database: Database) -> None:
    """A program without a loop of its own that runs one for each request."""
    app = AsyncEverstep(**{**database.settings, "role": "client"})

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    asyncio.run(app.queues())
    before = descriptors()
    for _ in range(30):
        asyncio.run(app.queues())
    assert descriptors() - before < 10
    asyncio.run(app.close())
