"""Everything of the surface in one program, as its user writes it; checked like users_side.py, never executed."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Generic, TypeVar

import psycopg
import psycopg_pool
from sqlalchemy import create_engine
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from typing_extensions import assert_type

import everstep
from everstep import AsyncEverstep, AsyncRun, Dedup, Everstep, Finished, Retry, Run

T = TypeVar("T")
app = Everstep(queues=["a"], lease=timedelta(seconds=5), environment="x")
aio = AsyncEverstep()


@dataclasses.dataclass
class Box(Generic[T]):
    x: T


@app.step
def boxed(b: Box[int]) -> Box[str]:
    return Box(str(b.x))


class Service:
    def __init__(self) -> None:
        self.step = app.step(self.work)

    def work(self, n: int, *, flag: bool = False) -> str:
        return str(n)


@app.step(name="named", at_most_once=True)
def once() -> None: ...


@app.error("declined")
@dataclasses.dataclass
class Declined(Exception):
    code: str


pool = psycopg_pool.ConnectionPool("x", open=False)


@app.transaction(pool)
def t1(tx: psycopg.Connection[Any], n: int) -> int:
    return n


@app.transaction(create_engine("x"), retry=Retry())
def t2(tx: Connection, n: int) -> int:
    return n


@app.transaction(sessionmaker(create_engine("x")))
def t3(tx: Session, n: int) -> int:
    return n


apool = psycopg_pool.AsyncConnectionPool("x", open=False)


@app.transaction(pool, isolation="serializable")
def t4(tx: psycopg.Connection[Any], n: int) -> int:
    return n


@app.workflow
def report(of: Finished) -> str:
    assert_type(app.run_key(), str)
    assert_type(app.run_id(), "str | None")
    assert_type(app.run_attempt(), int)
    assert_type(app.attributes(), Mapping[str, str | int | float | bool])
    assert_type(app.trace_parent(), "str | None")
    return of["run"] if of["state"] == "succeeded" else of["workflow"]


@app.workflow(on_finish=report)
def reported() -> None: ...


def work_until_asked_to_stop() -> None:
    app.serve(grace=timedelta(seconds=5))


@aio.transaction(apool)
async def a1(tx: psycopg.AsyncConnection[Any], n: int) -> int:
    return n


@aio.transaction(async_sessionmaker(create_async_engine("x")), name="z", timeout=timedelta(1))
async def a2(tx: AsyncSession, n: int) -> int:
    return n


@app.workflow(retry=Retry(max_attempts=2), version="1", label="gpu")
def wf(n: int, name: str = "x") -> list[str]:
    assert_type(boxed(Box(1)), Box[str])
    s = Service()
    assert_type(s.step(1, flag=True), str)
    assert_type(boxed.options(key="k", retry=Retry(), timeout=timedelta(1))(Box(1)), Box[str])
    assert_type(t1(1), int)
    assert_type(t2(1), int)
    assert_type(t3(n=1), int)
    assert_type(app.uuid(), uuid.UUID)
    assert_type(app.random(), float)
    app.sleep(timedelta(1))
    app.sleep_until(dt.datetime.now(dt.timezone.utc))
    assert_type(app.any(lambda: 1, lambda: 2), int)
    assert_type(app.all(lambda: 1, lambda: "a", lambda: 1.0), tuple[int, str, float])
    app.send("r", "t", 1, idempotency_key="k")
    app.send(app.run("x"), "t", {"a": 1})
    app.set_event("k", 1)
    assert_type(app.get_event("r", "k", timeout=timedelta(1), returns=int), "int | None")
    if app.patch("p"):
        app.logger.info("x")
    try:
        once()
    except everstep.StepInterrupted as e:
        e.code.upper()
    except Declined as d:
        d.code.upper()
    finally:
        with app.shielded():
            once()
    child = wf.options(parent_close="abandon", id="c").start(1, name="y")
    assert_type(child, Run[list[str]])
    assert_type(app.reference("go-service").start(1).result(), Any)
    return child.result()


def use() -> None:
    with app:
        runs = wf.start_many([{"n": 1}], id=lambda item: str(item))
        assert_type(runs, list[Run[list[str]]])
        r = wf.options(
            dedup=Dedup("k", scope=timedelta(1), policy="replace"),
            priority=1,
            expires=timedelta(1),
            start_at=dt.datetime.now(),
            attributes={"a": 1},
            on_finish=wf,
            fairness_key="f",
        ).start(1)
        st = r.status()
        st.state.upper()
        st.created_at.strftime("%Y")
        for step in r.steps():
            assert_type(step.name, str)
        r.cancel(by="me", why="x")
        r.resume()
        r.retry()
        r.rewind(3)
        r.send("t", 1)
        assert_type(r.get_event("k", returns=str), "str | None")
        page = app.runs(states=["failed", "blocked"], workflow="wf", attribute=("a", 1), limit=10)
        for info in page.items:
            assert_type(info.workflow, str)
        app.runs(states="failed", after=page.next)
        app.put_queue("q", limit=3)
        app.pause_queue("q")
        app.resume_queue("q")
        for known in app.queues():
            known.name.upper()
        app.info()
        app.migration_sql()
        app.migrate()
        app.adopt()
        try:
            r.result(timedelta(1))
        except everstep.RunFailed as e:
            raise ValueError(e.details, e.run) from e.__cause__
        except (everstep.RunCancelled, everstep.RunBlocked, everstep.ResultTimeout) as e:
            e.message.upper()
    q = app.queue("name", limit=1, key_limit=2, hold=True)
    assert_type(q, str)


@aio.step
async def af(n: int) -> str:
    return str(n)


@aio.workflow
async def awf(n: int) -> str:
    assert_type(await aio.any(lambda: af(1), lambda: af(2)), str)
    assert_type(await aio.race(lambda: af(1), lambda: af(2)), str)
    assert_type(await aio.map(af, range(3), key=str, limit=2), list[str])
    assert_type(await aio.run_step(af, 1), str)
    assert_type(await asyncio.gather(af(1), af(2)), "tuple[str, str]")
    assert_type(await asyncio.create_task(af(1)), str)
    assert_type(await a1(1), int)
    assert_type(await a2(1), int)
    assert_type(await t1.aio(1), int)
    assert_type(await aio.uuid(), uuid.UUID)
    await aio.sleep(timedelta(1))
    await aio.set_event("k", 1)
    assert_type(await aio.get_event("r", "k", returns=int), "int | None")
    assert_type(await boxed.aio(Box(1)), Box[str])
    assert_type(await af.options(key="1")(1), str)
    run = await awf.options(id="x").start(1)
    assert_type(run, AsyncRun[str])
    return await run.result(timedelta(1))


async def ause() -> None:
    async with aio:
        assert_type(await awf.start_many([1, 2]), list[AsyncRun[str]])
        assert_type((await aio.runs()).items[0].workflow, str)
        assert_type(awf.sync.start(1), Run[str])
        assert_type(aio.sync, Everstep)
        assert_type(app.aio, AsyncEverstep)
        await awf.start("no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        aio.run("x", returns=int)
