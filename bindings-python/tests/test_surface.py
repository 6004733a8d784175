"""Policies, types and the finer points of the surface."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import logging
import threading
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypedDict, TypeVar
from uuid import UUID

import attrs
import pydantic
import pytest
from conftest import Database

import everstep
from everstep import AsyncEverstep, Dedup, Everstep, Retry
from everstep._codec import decode, encode
from everstep._decoding import decoder_of

SOON = timedelta(seconds=20)
T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    POINT = (1, 2)


class Level(enum.IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: float = 0.5


class Entry(TypedDict, total=False):
    name: str
    when: datetime


@dataclasses.dataclass
class Box(Generic[T]):
    item: T
    more: list[T] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Tree:
    value: int
    children: list[Tree]


@attrs.define
class Parcel:
    weight: Decimal
    _secret: str = "s"


class Model(pydantic.BaseModel):
    id: UUID
    at: datetime
    parts: set[str] = set()


@pydantic.dataclasses.dataclass
class Mixed:
    day: date
    colour: Colour


VALUES: list[tuple[Any, Any]] = [
    (Colour, Colour.RED),
    (Colour, Colour.POINT),
    (Level, Level.HIGH),
    (Point, Point(1)),
    (Entry, {"name": "a", "when": datetime(2026, 1, 2, tzinfo=timezone.utc)}),
    (Box[Decimal], Box(Decimal("1.0"), [Decimal("2.50")])),
    (Tree, Tree(1, [Tree(2, []), Tree(3, [Tree(4, [])])])),
    (Parcel, Parcel(Decimal("0.10"), "x")),
    (Model, Model(id=UUID(int=5), at=datetime(2026, 1, 2, tzinfo=timezone.utc), parts={"a", "b"})),
    (Mixed, Mixed(date(2026, 1, 1), Colour.RED)),
    (dict[int, list[Point]], {1: [Point(1, 2.0)]}),
    (dict[str, Model | None], {"a": None}),
    (tuple[int, str], (1, "a")),
    (tuple[Point, ...], (Point(1), Point(2))),
    (frozenset[tuple[int, int]], frozenset({(1, 2), (3, 4)})),
    (set[Colour], {Colour.RED}),
    (Literal["a", 3], 3),
    (int | str | None, "5"),
    (float | None, 3.0),
    (timedelta, timedelta(days=-1, microseconds=5)),
    (Path, Path("a/b")),
    (bytes, b"\x00\xff"),
    (list[Tree | Parcel], [Parcel(Decimal(1)), Tree(1, [])]),
]


@pytest.mark.parametrize(("annotation", "value"), VALUES, ids=[str(annotation) for annotation, _ in VALUES])
def test_types_by_annotation(annotation: Any, value: Any) -> None:
    back = decoder_of(annotation)(decode(encode(value)))
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, "1"),
        (str, 1),
        (bool, 1),
        (int, True),
        (Point, [1, 2, 3]),
        (Tree, {"value": 1}),
        (Literal["a"], "b"),
        (Model, {}),
        (Colour, "blue"),
        (list[int], ["a"]),
    ],
    ids=str,
)
def test_wrong_types_are_refused(annotation: Any, value: Any) -> None:
    with pytest.raises(everstep.PayloadInvalid):
        decoder_of(annotation)(decode(encode(value)))


def test_types_that_cannot_be_read_are_refused_at_launch(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.workflow
    def work(lock: threading.Event) -> None: ...

    with pytest.raises(everstep.PayloadInvalid, match="Event"):
        app.launch()


def test_replay_runs_the_body_again_and_the_steps_once(database: Database) -> None:
    app = Everstep(**{**database.settings, "replay": "always"})
    bodies: list[int] = []
    steps: list[int] = []

    @app.step
    def mark(n: int) -> int:
        steps.append(n)
        return n

    @app.workflow
    def work() -> int:
        bodies.append(1)
        mark(1)
        app.sleep(timedelta(milliseconds=600))
        mark(2)
        app.sleep(timedelta(milliseconds=600))
        return mark(3)

    with app:
        assert work.start().result(SOON) == 3
    assert steps == [1, 2, 3] and len(bodies) >= 3


def test_workflow_retry_and_on_finish(database: Database) -> None:
    app = Everstep(**database.settings)
    attempts: list[int] = []
    finished: list[Any] = []
    told = threading.Event()

    @app.workflow
    def report(outcome: everstep.Finished) -> None:
        finished.append(outcome)
        told.set()

    @app.workflow(retry=Retry(max_attempts=3, initial=timedelta(milliseconds=5)), on_finish=report)
    def shaky() -> int:
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError("again")
        return 5

    # By its fields, too, where they are what its parameters are called.
    by_fields: list[Any] = []
    told_by_fields = threading.Event()

    @app.workflow
    def report_fields(run: str, workflow: str, state: str, value: Any) -> None:
        by_fields.append((run, workflow, state, value["type"]))
        told_by_fields.set()

    @app.workflow(on_finish=app.reference("report_fields"))
    def fails() -> None:
        raise OSError("for good")

    with app:
        run = shaky.start()
        assert run.result(SOON) == 5
        assert len(attempts) == 3
        assert told.wait(20)
        failing = fails.start()
        assert told_by_fields.wait(20)
    # Under `replay="always"` the reports run once more; what they are started with stays.
    assert finished[0] == {"run": run.key, "workflow": "shaky", "state": "succeeded", "value": 5}
    assert by_fields[0] == (failing.key, "fails", "failed", "OSError")


def test_deadline_of_a_run(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.workflow(deadline=timedelta(milliseconds=200))
    def waits() -> None:
        app.sleep(timedelta(days=1))

    with app:
        with pytest.raises(everstep.RunCancelled):
            waits.start().result(SOON)


def test_priority_delay_expiry_dedup(database: Database) -> None:
    app = Everstep(**database.settings)
    order: list[str] = []

    @app.step
    def job(name: str) -> str:
        order.append(name)
        return name

    app.queue("one", limit=1, paused=True)
    with app:
        low = job.options(queue="one", priority=9).start("low")
        high = job.options(queue="one", priority=-9).start("high")
        twin = job.options(queue="one", dedup=Dedup("k")).start("twin")
        same = job.options(queue="one", dedup=Dedup("k")).start("other")
        assert same.key == twin.key and same.attached
        with pytest.raises(everstep.RunDeduplicated):
            job.options(queue="one", dedup=Dedup("k", policy="reject")).start("other")
        late = job.options(queue="one", expires=timedelta(milliseconds=50)).start("late")
        with pytest.raises(everstep.RunCancelled):
            late.result(SOON)
        app.resume_queue("one")
        assert [run.result(SOON) for run in (low, high, twin)] == ["low", "high", "twin"]
        assert order == ["high", "twin", "low"]
        delayed = job.options(delay=timedelta(milliseconds=60)).start("delayed")
        assert delayed.status().state in ("ready", "running", "succeeded")
        assert delayed.result(SOON) == "delayed"


def test_retry_from_the_failed_step_and_rewind(database: Database) -> None:
    app = Everstep(**database.settings)
    broken = threading.Event()
    broken.set()
    calls: list[str] = []

    @app.step
    def first() -> str:
        calls.append("first")
        return "first"

    @app.step
    def second() -> str:
        calls.append("second")
        if broken.is_set():
            raise OSError("down")
        return "second"

    @app.workflow
    def work() -> str:
        return first() + second()

    with app:
        run = work.start()
        with pytest.raises(everstep.RunFailed, match="down"):
            run.result(SOON)
        broken.clear()
        assert run.retry(by="test") == "resumed"
        assert run.result(SOON) == "firstsecond"
        assert calls == ["first", "second", "second"]
        assert run.rewind(0) == "resumed"
        assert run.result(SOON) == "firstsecond"
        assert calls == ["first", "second", "second", "first", "second"]


def test_a_value_after_a_stop_is_ignored_with_one_warning(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    app = Everstep(**{**database.settings, "replay": "always"})
    seen: list[str] = []

    @app.workflow
    def stubborn() -> str:
        try:
            app.sleep(timedelta(milliseconds=800))
        except BaseException as error:
            seen.append(type(error).__name__)
            return "a value nobody wants"
        return "slept"

    with caplog.at_level(logging.WARNING, "everstep"), app:
        assert stubborn.start().result(SOON) == "slept"
    # Once a release: a run woken a moment before its time is over is released once more.
    assert seen and set(seen) == {"Stopped"}
    warnings = [record.getMessage() for record in caplog.records if "is ignored" in record.getMessage()]
    assert len(warnings) == len(seen)
    assert all("test_surface.py" in warning and "stubborn" in warning for warning in warnings)


def test_a_step_from_a_foreign_thread(database: Database) -> None:
    import contextvars

    app = Everstep(**database.settings)

    @app.step
    def one() -> int:
        return 1

    @app.workflow
    def work() -> str:
        out: list[str] = []

        def foreign() -> None:
            try:
                one()
            except everstep.ForeignThread as error:
                out.append(error.code)

        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(foreign,))
        thread.start()
        thread.join()
        return out[0]

    with app:
        assert work.start().result(SOON) == "foreign_thread"


def test_a_sync_step_in_an_async_workflow_must_be_awaited(database: Database) -> None:
    async def main() -> None:
        app = AsyncEverstep(**database.settings)

        @app.step
        def blocks() -> int:
            return 1

        @app.workflow
        async def work() -> list[Any]:
            try:
                blocks()
            except everstep.WrongLoop as error:
                return [error.code, await blocks.aio()]
            return []

        async with app:
            assert await (await work.start()).result(SOON) == ["wrong_loop", 1]

    asyncio.run(main())


def test_a_wait_begun_early_and_awaited_late(database: Database) -> None:
    """Its answer comes while its coroutine has not run: it is kept."""

    async def main() -> None:
        app = AsyncEverstep(**database.settings)

        @app.step
        async def other(n: int) -> int:
            await asyncio.sleep(0.03)
            return n

        @app.workflow
        async def work() -> int:
            early = app.sleep(timedelta(milliseconds=1))
            value = await other(5)
            await early
            return value

        async with app:
            assert await (await work.start()).result(SOON) == 5

    asyncio.run(main())


def test_two_engines_in_one_process(database: Database) -> None:
    first, second = Everstep(**database.settings), Everstep(**database.settings)

    @first.workflow
    def ping(n: int) -> int:
        return n + 1

    @second.workflow
    def pong(n: int) -> int:
        return n * 2

    with first, second:
        assert ping.start(1).result(SOON) == 2
        assert pong.start(4).result(SOON) == 8
        assert second.reference("ping", returns=int).start(10).result(SOON) == 11


def test_an_async_cancel_from_user_code_is_not_recorded(database: Database) -> None:
    """A timeout of asyncio around a step cuts it short; it is no outcome of the step."""

    async def main() -> None:
        app = AsyncEverstep(**database.settings)

        @app.step
        async def endless(n: int) -> None:
            await asyncio.Event().wait()

        @app.step
        async def quick(n: int) -> int:
            return n

        @app.workflow
        async def work() -> str:
            try:
                await asyncio.wait_for(endless(1), 0.05)
            except asyncio.TimeoutError:
                return f"timed out, then {await quick(2)}"
            return ""

        async with app:
            assert await (await work.start()).result(SOON) == "timed out, then 2"

    asyncio.run(main())


def test_what_a_run_knows_about_itself(database: Database) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    app = Everstep(**database.settings)

    def facts() -> list[Any]:
        return [app.run_key(), app.run_id(), app.run_attempt(), dict(app.attributes()), app.trace_parent()]

    inside = app.step(name="inside")(facts)

    @app.workflow(retry=Retry(max_attempts=2, initial=timedelta(milliseconds=1)))
    def work() -> list[Any]:
        if app.run_attempt() == 1:
            raise ValueError("once more")
        return [facts(), inside()]

    @app.workflow
    def plain() -> list[Any]:
        return facts()

    with app:
        run = work.options(id="known", attributes={"region": "eu", "n": 1}, trace_parent=parent).start()
        expected = [run.key, "known", 2, {"region": "eu", "n": 1}, parent]
        assert run.result(SOON) == [expected, expected]
        run = plain.start()
        assert run.result(SOON) == [run.key, None, 1, {}, None]
        job = inside.options(id="job", attributes={"n": 2}).start()
        assert job.result(SOON) == [job.key, "job", 1, {"n": 2}, None]
    for outside in (app.run_key, app.run_id, app.run_attempt, app.attributes, app.trace_parent):
        with pytest.raises(everstep.OutsideRun):
            outside()
