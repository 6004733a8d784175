"""Errors through records: what was raised is what is caught, on the first run and on replay, and nothing a program raises leaves a run without an end."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import sys
import threading
from datetime import timedelta
from typing import Any

import pytest
from conftest import Database

import everstep
from everstep import AsyncEverstep, Everstep, Retry, StepError, _async_runner, _sync_runner

SOON = timedelta(seconds=20)


def test_causes_and_details_survive(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.error("shipment_late")
    @dataclasses.dataclass
    class Late(Exception):
        days: int
        due: dt.date

    @app.step
    def ship() -> int:
        try:
            raise KeyError("no lorry")
        except KeyError as error:
            raise Late(3, dt.date(2026, 1, 2)) from error

    @app.workflow
    def seen() -> list[Any]:
        try:
            ship()
        except Late as error:
            app.sleep(timedelta(milliseconds=1))  # replayed from here when released
            cause = error.__cause__
            assert isinstance(cause, StepError)
            return [error.days, error.due, cause.error_type, cause.message]
        return []

    @app.workflow
    def unseen() -> int:
        return ship()

    with app:
        assert seen.start().result(SOON) == [3, dt.date(2026, 1, 2), "KeyError", "'no lorry'"]
        with pytest.raises(everstep.RunFailed) as caught:
            unseen.start().result(SOON)
        late = caught.value.__cause__
        assert isinstance(late, Late) and late.days == 3
        assert isinstance(late.__cause__, StepError) and late.__cause__.error_type == "KeyError"


def test_a_declared_error_that_cannot_be_rebuilt_still_ends_the_run(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.error("hidden")
    class Hidden(Exception):
        def __init__(self, code: int) -> None:
            super().__init__(f"code {code}")

    @app.error("picky")
    class Picky(Exception):
        def __init__(self, n: int) -> None:
            if n > 1:
                raise ValueError("too big to be built twice")
            self.n = n

    @app.step
    def fails(which: str) -> int:
        if which == "hidden":
            raise Hidden(5)
        error = Picky(1)
        error.n = 2
        raise error

    @app.workflow
    def work(which: str) -> int:
        return fails(which)

    with app:
        for which, says in (("hidden", "code 5 .*declares code"), ("picky", "could not be rebuilt")):
            run = work.start(which)
            with pytest.raises(everstep.RunFailed) as caught:
                run.result(SOON)
            assert isinstance(caught.value.__cause__, StepError)
            with pytest.raises(StepError, match=says):
                raise caught.value.__cause__
            assert run.status().state == "failed"


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, KeyboardInterrupt])
def test_what_ends_a_program_only_fails_a_step_on_a_thread(database: Database, kind: type[BaseException]) -> None:
    app = Everstep(**database.settings)
    calls: list[int] = []

    @app.step
    def leaves() -> int:
        calls.append(1)
        raise kind(3)

    @app.workflow
    def work() -> str:
        try:
            leaves()
        except StepError as error:
            return error.error_type or ""
        return ""

    @app.workflow
    def body() -> int:
        raise kind(3)

    with app:
        assert work.start().result(SOON) == kind.__name__
        assert calls == [1], "run again, it would be an endless loop"
        with pytest.raises(everstep.RunFailed, match=kind.__name__):
            body.start().result(SOON)


def test_sys_exit_in_async_code(database: Database) -> None:
    """On the engine's own loop and on the program's: one run fails, the others go on."""
    app = Everstep(**database.settings)

    @app.step
    async def leaves() -> int:
        sys.exit(3)

    async def child() -> None:
        sys.exit(4)

    @app.workflow
    async def work() -> str:
        try:
            await leaves()
        except StepError as error:
            return error.error_type or ""
        return ""

    @app.workflow
    async def body() -> int:
        sys.exit(3)

    @app.workflow
    async def in_a_task() -> int:
        await asyncio.create_task(child())
        return 1

    with app:
        assert work.start().result(SOON) == "SystemExit"
        with pytest.raises(everstep.RunFailed, match="SystemExit"):
            body.start().result(SOON)
        with pytest.raises(everstep.RunFailed, match="SystemExit"):
            in_a_task.start().result(SOON)
        assert work.start().result(SOON) == "SystemExit", "the loop still runs"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup and notes are of Python 3.11")
def test_groups_and_notes(database: Database) -> None:
    async def main() -> None:
        app = AsyncEverstep(**database.settings)

        @app.step
        async def fails(n: int) -> int:
            error = ValueError(f"number {n}")
            error.add_note("seen at night")  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
            raise error

        @app.workflow
        async def work() -> None:
            async with asyncio.TaskGroup() as group:  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
                group.create_task(fails(1))  # pyright: ignore[reportUnknownMemberType]

        async with app:
            with pytest.raises(everstep.RunFailed) as caught:
                await (await work.start()).result(SOON)
            inner = caught.value.__cause__
            assert isinstance(inner, StepError) and inner.error_type == "ExceptionGroup"
            assert isinstance(inner.__cause__, StepError) and inner.__cause__.message == "number 1\nseen at night"

    asyncio.run(main())


def test_a_predicate_that_fails_is_final(database: Database) -> None:
    app = Everstep(**database.settings)

    def broken(error: BaseException) -> bool:
        raise RuntimeError("no opinion")

    @app.step(retry=Retry(max_attempts=3, initial=timedelta(milliseconds=1), retry_if=broken))
    def fails() -> int:
        raise ValueError(app.attempt())

    @app.workflow
    def work() -> str:
        try:
            fails()
        except StepError as error:
            return error.message
        return ""

    with app:
        assert work.start().result(SOON) == "1"


_BEYOND = {
    "group": lambda: BaseExceptionGroup("several", [GeneratorExit()]) if sys.version_info >= (3, 11) else GeneratorExit(),  # noqa: F821
    "generator": GeneratorExit,
    "stopped": lambda: everstep.Stopped("mine"),
}


@pytest.mark.parametrize("which", _BEYOND)
def test_what_is_no_exception_ends_the_run_once(database: Database, which: str) -> None:
    """Given back instead of ended, such a run was taken again at once by the same process, without end."""
    app = Everstep(**database.settings)
    executions: list[str] = []

    @app.step
    def sync_step() -> None:
        raise _BEYOND[which]()

    @app.step
    async def step() -> None:
        raise _BEYOND[which]()

    @app.workflow
    def sync_workflow() -> None:
        executions.append("sync")
        raise _BEYOND[which]()

    @app.workflow
    async def workflow() -> None:
        executions.append("async")
        raise _BEYOND[which]()

    @app.workflow
    def sync_caller() -> str:
        with pytest.raises(StepError):
            sync_step()
        return "went on"

    @app.workflow
    async def caller() -> str:
        with pytest.raises(StepError):
            await step()
        return "went on"

    with app:
        for ends in (sync_workflow, workflow):
            with pytest.raises(everstep.RunFailed):
                ends.start().result(SOON)
        assert [caller.start().result(SOON), sync_caller.start().result(SOON)] == ["went on", "went on"]
    assert executions == ["sync", "async"]


def test_a_keyboard_interrupt_of_a_thread_is_no_ctrl_c(database: Database) -> None:
    async def main() -> None:
        app = AsyncEverstep(**database.settings)

        @app.step
        def interrupts() -> None:
            raise KeyboardInterrupt

        @app.workflow
        async def caller() -> str:
            with pytest.raises(StepError, match="KeyboardInterrupt"):
                await interrupts.aio()
            return "went on"

        async with app:
            assert await (await caller.start()).result(SOON) == "went on"

    asyncio.run(main())


class Unread(everstep.EverstepError):
    """It never calls its base."""

    def __init__(self, n: int) -> None:
        self.n = n


class Refuses(Exception):
    @property
    def exceptions(self) -> Any:
        raise LookupError("not now")


@pytest.mark.parametrize("error", [Unread(1), Refuses("no")], ids=["unread", "refuses"])
def test_an_error_that_cannot_be_read_ends_the_run(database: Database, error: Exception) -> None:
    """Reading it raised, and the run was running until this process ended."""
    app = Everstep(**database.settings)

    @app.step
    def breaks() -> None:
        raise error

    @app.workflow
    def threads() -> None:
        raise error

    @app.workflow
    async def coroutines() -> None:
        raise error

    @app.workflow
    def steps() -> str | None:
        try:
            breaks()
        except StepError as caught:
            return caught.error_type
        return None

    with app:
        for run in (threads.start(), coroutines.start()):
            with pytest.raises(everstep.RunFailed, match=f"{type(error).__name__}: <reading it raised"):
                run.result(SOON)
        assert steps.start().result(SOON) == type(error).__name__


@pytest.mark.parametrize("view", ["threads", "coroutines"])
def test_a_run_whose_end_cannot_be_said_is_given_back(database: Database, monkeypatch: pytest.MonkeyPatch, view: str) -> None:
    app = Everstep(**database.settings)
    raised = threading.Event()
    broken = _async_runner.broken

    def once(*arguments: Any, **more: Any) -> Any:
        if raised.is_set():
            return broken(*arguments, **more)
        raised.set()
        raise LookupError("a fault of ours")

    for module in (_async_runner, _sync_runner):
        monkeypatch.setattr(module, "broken", once)

    def body() -> str:
        if raised.is_set():
            return "done"
        raise ValueError

    @app.workflow
    def threads() -> str:
        return body()

    @app.workflow
    async def coroutines() -> str:
        return body()

    with app:
        run = threads.start() if view == "threads" else coroutines.start()
        assert run.result(SOON) == "done"
