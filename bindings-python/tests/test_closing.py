"""Ends of an engine at odd moments: by two at once, cut short, from inside itself. Whatever happens, it is closed afterwards and its threads are gone."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import socket
import threading
import time
from collections.abc import Callable
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


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("when", ["opened", "connecting"])
def test_a_close_beside_a_launch_that_does_not_succeed(when: str) -> None:
    """The failed launch made the engine a new one, which the next call opened and nobody closed."""
    with socket.create_server(("127.0.0.1", 0)) as silent, concurrent.futures.ThreadPoolExecutor(1) as pool:
        app = Everstep(f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/x", outage_budget=timedelta(seconds=30))
        app.workflow(name="work")(lambda: None)
        launching = pool.submit(app.launch)
        until(lambda: app._engine.launched and app._engine._threads is not None)
        if when == "connecting":
            silent.settimeout(20)
            silent.accept()
        app.close()
        assert isinstance(launching.exception(20), everstep.EverstepError)
        with pytest.raises(everstep.Closed):
            app.runs()
        app.close()
    assert own_threads() == []


def test_a_close_in_the_middle_of_giving_up_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for that, and the engine stays closed: what was closed is not launched again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = Everstep(f"postgresql://nobody@127.0.0.1:{port}/x", outage_budget=timedelta(milliseconds=50))
    ending, go_on = threading.Event(), threading.Event()
    inner = app._engine._end_handle
    monkeypatch.setattr(app._engine, "_end_handle", lambda handle: (ending.set(), go_on.wait(20), inner(handle)))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        launching = pool.submit(app.launch)
        assert ending.wait(20)
        closing = pool.submit(app.close)
        assert not concurrent.futures.wait((closing,), timeout=0.2).done
        go_on.set()
        closing.result(20)
        assert isinstance(launching.exception(20), everstep.EverstepError)
    with pytest.raises(everstep.Closed):
        app.launch()
    assert own_threads() == []


def test_a_close_beside_a_given_up_launch_that_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ctrl-C, say: whoever waits for its end hears of it all the same."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = Everstep(f"postgresql://nobody@127.0.0.1:{port}/x", outage_budget=timedelta(milliseconds=50))
    ending, go_on = threading.Event(), threading.Event()
    inner = app._engine._end_handle

    def end(handle: int) -> None:
        inner(handle)
        ending.set()
        go_on.wait(20)
        raise KeyboardInterrupt

    monkeypatch.setattr(app._engine, "_end_handle", end)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        launching = pool.submit(app.launch)
        assert ending.wait(20)
        closing = pool.submit(app.close)
        assert not concurrent.futures.wait((closing,), timeout=0.2).done
        go_on.set()
        closing.result(20)
        assert isinstance(launching.exception(20), KeyboardInterrupt)
    assert own_threads() == []
