"""Steps whose time is over while they wait for somebody who never answers, without looking at any signal: the run goes on without them."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from datetime import timedelta
from typing import Any

import pytest
from conftest import Database

import everstep
from everstep import AsyncEverstep, Everstep, Retry, _sync_runner

SOON = timedelta(seconds=20)
SHORT = timedelta(milliseconds=50)
TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


class Silent:
    """A peer that does not answer before the test is over."""

    def __init__(self) -> None:
        self.asked = 0
        self.seen: list[Any] = []
        self.over = threading.Event()
        self.left = threading.Event()

    def answer(self, *, silent: bool = True) -> str:
        self.asked += 1
        if silent:
            self.over.wait(60)
            self.left.set()
            return "too late"
        return "answered"


def test_a_sync_step_of_a_sync_workflow(database: Database) -> None:
    app, peer = Everstep(**database.settings), Silent()

    @app.step(timeout=SHORT)
    def once() -> str:
        return peer.answer()

    @app.step(timeout=SHORT, retry=Retry(max_attempts=2, initial=SHORT))
    def twice() -> str:
        peer.seen.append((TENANT.get(), threading.get_ident() == own))
        return peer.answer(silent=app.attempt() == 1)

    @app.step(timeout=SOON)
    def fails() -> None:
        raise LookupError("in time")

    own = 0

    @app.workflow
    def work() -> list[str]:
        nonlocal own
        own = threading.get_ident()
        TENANT.set("one")
        out: list[str] = []
        for step in (once, once.options(timeout=2 * SHORT), fails):
            try:
                step()
            except everstep.StepError as error:
                out.append(error.error_type or error.code)
        return [*out, twice()]

    with app:
        assert work.start().result(SOON) == ["step_timeout", "step_timeout", "LookupError", "answered"]
        peer.over.set()
        assert peer.left.wait(20)
    assert peer.asked == 4 and peer.seen == [("one", False)] * 2


def test_an_async_step_of_a_sync_workflow(database: Database) -> None:
    app, peer = Everstep(**database.settings), Silent()

    @app.step(timeout=SHORT)
    async def once() -> str:
        return peer.answer()

    @app.workflow
    def work() -> str:
        try:
            return once.sync()
        except everstep.StepTimeout as error:
            return error.code

    with app:
        assert work.start().result(SOON) == "step_timeout"
        peer.over.set()


def test_a_coroutine_of_a_sync_workflow_has_ended_before_the_next_attempt(database: Database) -> None:
    """It was left on a loop of its own: it charged beside the attempt that followed."""
    app, seen = Everstep(**database.settings), list[str]()

    @app.step(timeout=SHORT, retry=Retry(max_attempts=2, initial=timedelta(milliseconds=1)))
    async def pay() -> str:
        attempt = app.attempt()
        seen.append(f"begins {attempt}")
        try:
            if attempt == 1:
                await asyncio.sleep(10 * SHORT.total_seconds())
                seen.append("charged late")
        finally:
            await asyncio.sleep(4 * SHORT.total_seconds() if attempt == 1 else 0)
            seen.append(f"ends {attempt}")
        return "paid"

    @app.workflow
    def work() -> str:
        return pay.sync()

    with app:
        assert work.start().result(SOON) == "paid"
    assert seen == ["begins 1", "ends 1", "begins 2", "ends 2"]


def test_a_thread_that_a_cancelled_coroutine_leaves_is_not_waited_for(database: Database) -> None:
    app, peer = Everstep(**database.settings), Silent()

    @app.step(timeout=SHORT)
    async def once() -> str:
        return await asyncio.to_thread(peer.answer)

    @app.workflow
    def work() -> str:
        try:
            return once.sync()
        except everstep.StepTimeout as error:
            return error.code

    with app:
        assert work.start().result(SOON) == "step_timeout"
        peer.over.set()


def test_a_job(database: Database) -> None:
    app, peer = Everstep(**database.settings), Silent()

    @app.step(timeout=SHORT, retry=Retry(max_attempts=2, initial=SHORT))
    def job(recovers: bool) -> str:
        return peer.answer(silent=app.run_attempt() == 1 or not recovers)

    with app:
        with pytest.raises(everstep.RunFailed) as failed:
            job.start(False).result(SOON)
        assert isinstance(failed.value.__cause__, everstep.StepTimeout) and peer.asked == 2
        assert job.start(True).result(SOON) == "answered"
        peer.over.set()
        assert peer.left.wait(20)


def test_a_sync_step_of_an_async_workflow(database: Database) -> None:
    async def main() -> None:
        app, peer = AsyncEverstep(**database.settings), Silent()

        @app.step(timeout=SHORT)
        def once() -> str:
            return peer.answer()

        @app.workflow
        async def work() -> str:
            try:
                return await once.aio()
            except everstep.StepTimeout as error:
                return error.code

        async with app:
            assert await (await work.start()).result(SOON) == "step_timeout"
            peer.over.set()

    asyncio.run(main())


def test_a_job_whose_thread_is_not_there_yet(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Everstep(**database.settings)
    ran: list[int] = []

    @app.step(timeout=SHORT)
    def job() -> None:
        ran.append(1)

    with app:
        workers = app._engine.threads().workers
        inner, late = workers.run, list[Any]()

        def run(function: Any, *arguments: Any) -> None:
            if function is _sync_runner.run:
                late.append(arguments)
            else:
                inner(function, *arguments)

        monkeypatch.setattr(workers, "run", run)
        with pytest.raises(everstep.RunFailed) as failed:
            job.start().result(SOON)
        assert isinstance(failed.value.__cause__, everstep.StepTimeout)
        _sync_runner.run(*late[0])
        assert ran == [] and app._engine.executions == {}
