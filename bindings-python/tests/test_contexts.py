"""Threads and contexts that runs get: one at a time, nothing inherited from another run or from whoever used the engine first."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from datetime import timedelta
from typing import Any

import pytest
from conftest import Database

import everstep
from everstep import AsyncEverstep, Everstep
from everstep._thread_client import _Workers

SOON = timedelta(seconds=20)
TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


def test_a_thread_carries_nothing_from_one_piece_of_work_to_the_next() -> None:
    workers, threads = _Workers(), list[int]()
    seen: set[str] = set()

    def work(done: threading.Event) -> None:
        threads.append(threading.get_ident())
        seen.add(TENANT.get())
        TENANT.set("a run's own")
        done.set()

    while len(set(threads)) == len(threads):
        done = threading.Event()
        workers.run(work, done)
        assert done.wait(20) and len(threads) < 1000
    workers.end()
    assert seen == {"nobody"}


def test_branches_and_steps_see_what_their_run_has_set(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.step
    def tenant() -> str:
        return TENANT.get()

    @app.workflow
    def work() -> list[str]:
        TENANT.set("one")
        return [tenant(), *app.all(tenant, TENANT.get)]

    with app:
        assert work.start().result(SOON) == ["one"] * 3


def test_a_thread_that_cannot_be_started_leaves_no_work_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller was told that it failed, and a thread that became free did it all the same."""
    workers = _Workers()
    done: list[str] = []
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError):
        workers.run(done.append, "refused")
    monkeypatch.setattr(threading.Thread, "start", start)
    over = threading.Event()
    workers.run(lambda: (done.append("accepted"), over.set()))
    assert over.wait(20)
    workers.end()
    assert done == ["accepted"]


def test_a_run_no_thread_can_be_started_for_is_given_back(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Everstep(**database.settings)
    refused = threading.Event()
    start = threading.Thread.start

    def refuse_once(thread: threading.Thread) -> None:
        if thread.name.startswith("everstep-run") and not refused.is_set():
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_once)

    @app.workflow
    def work() -> str:
        return "done"

    with app:
        assert work.start().result(SOON) == "done"
    assert refused.is_set()


def test_an_async_run_inherits_nothing_from_who_launched(database: Database) -> None:
    async def main() -> None:
        app = AsyncEverstep(**database.settings)

        @app.step
        async def tenant() -> str:
            return TENANT.get()

        @app.workflow
        async def work() -> list[str]:
            seen = TENANT.get()
            TENANT.set("one")
            return [seen, await tenant()]

        TENANT.set("whoever launched")
        async with app:
            for _ in range(2):
                assert await (await work.start()).result(SOON) == ["nobody", "one"]

    asyncio.run(main())


def test_a_call_on_another_loop_is_refused(database: Database) -> None:
    """It took its place in the run from there, at whatever moment."""
    app = Everstep(**database.settings)

    @app.step
    async def step() -> int:
        return 1

    async def elsewhere() -> Any:
        return await step()

    @app.workflow
    async def work() -> str:
        with pytest.raises(everstep.WrongLoop) as caught:
            await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
        await step()
        return caught.value.code

    with app:
        assert work.start().result(SOON) == "wrong_loop"


def test_a_function_that_is_refused_is_refused_by_each_launch(database: Database) -> None:
    """The second launch went well, without this function and those declared after it."""
    app = Everstep(**database.settings)
    app.workflow(name="n" * 300)(lambda: None)
    for _ in range(2):
        with pytest.raises(everstep.IdInvalid):
            app.launch()
    opened = Everstep(**database.settings)
    opened.key_of("opens the engine")
    with pytest.raises(everstep.IdInvalid):
        opened.workflow(name="n" * 300)(lambda: None)

    @opened.workflow
    def work() -> str:
        return "done"

    with opened:
        assert work.start().result(SOON) == "done"


def test_a_list_and_an_object_for_a_variadic_job(database: Database) -> None:
    """They were read as the arguments and the keywords."""
    app = Everstep(**database.settings)

    @app.step
    def job(*args: Any, **more: Any) -> list[Any]:
        return [list(args), more]

    with app:
        for args, more in [(([1], {"a": 1}), {}), (([1],), {"a": 1}), (([1], {"a": 1}, 2), {}), ((), {"a": 1})]:
            assert job.start(*args, **more).result(SOON) == [list(args), more]
