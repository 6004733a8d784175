"""What a checker sees from the user's side; run by `pyright --strict` and `mypy --strict` in test_typing.py, never executed."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from typing_extensions import assert_type

from everstep import AsyncEverstep, AsyncRun, AsyncTransaction, Dedup, Everstep, Retry, Run, Transaction

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker


@dataclasses.dataclass
class Order:
    id: int


@dataclasses.dataclass
class Payment:
    cents: int


app = Everstep("sqlite:typing.db", role="worker", strict=True)


@app.step
def charge(order: Order, retries: int = 0) -> Payment:
    return Payment(order.id)


@app.step(retry=Retry(max_attempts=3), timeout=timedelta(seconds=1))
def ship(order: Order) -> str:
    return app.idempotency_key()


@app.transaction
def reserve(tx: Transaction, order: Order) -> int:
    return tx.execute("select 1").affected


def with_session(maker: sessionmaker[Session]) -> Callable[[Order], int]:
    @app.transaction(maker)
    def book(tx: Session, order: Order) -> int:
        return order.id

    return book


@app.error("card_declined")
class CardDeclined(Exception):
    def __init__(self, reason: str) -> None:
        self.reason = reason


@app.workflow
def checkout(order: Order, gift: bool = False) -> Payment:
    assert_type(charge(order), Payment)
    assert_type(ship(order), str)
    assert_type(reserve(order), int)
    assert_type(app.run_step(len, [1, 2]), int)
    assert_type(app.run_step(lambda: 1, returns=int), int)
    assert_type(app.all(lambda: charge(order), lambda: ship(order)), tuple[Payment, str])
    assert_type(app.map(charge, [order], key=lambda o: str(o.id)), list[Payment])
    assert_type(app.race(lambda: ship(order), lambda: ship(order)), str)
    assert_type(app.receive("topic", returns=Order), Order)
    assert_type(app.receive("topic", timeout=timedelta(1), returns=Order), Order | None)
    assert_type(app.now(), dt.datetime)
    child = checkout.options(queue="gifts").start(order)
    assert_type(child, Run[Payment])
    return child.result()


@app.workflow(deadline=timedelta(hours=1), on_finish="report")
def nightly(day: dt.date) -> None: ...


def outside() -> None:
    run = checkout.options(id="order-1", dedup=Dedup("k"), attributes={"tenant": "a"}, delay=timedelta(1)).start(Order(1), gift=True)
    assert_type(run, Run[Payment])
    assert_type(run.result(timedelta(minutes=5)), Payment)
    assert_type(app.run("order-1", returns=Payment).result(), Payment)
    assert_type(nightly.start(dt.date(2026, 1, 1)).result(), None)
    assert_type(charge.start(Order(1)), Run[Payment])
    assert_type(app.reference("elsewhere", returns=Order).start({"id": 1}).result(), Order)
    checkout.start("no order")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    checkout.options(qeue="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    charge(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


aio = AsyncEverstep()


@aio.step
async def fetch(url: str) -> bytes:
    return url.encode()


@aio.step(retry=Retry())
async def parse(body: bytes) -> list[str]:
    return body.decode().split()


@aio.step
def heavy(body: bytes) -> int:
    return len(body)


@aio.transaction
async def store(tx: AsyncTransaction, words: list[str]) -> int:
    return (await tx.execute("insert into words select $1", words[0])).affected


@aio.workflow
async def crawl(url: str) -> list[str]:
    body = await fetch(url)
    assert_type(body, bytes)
    assert_type(await parse(body), list[str])
    assert_type(await heavy.aio(body), int)
    assert_type(await store(["a"]), int)
    assert_type(await aio.run_step(parse, body), list[str])
    pair = await aio.all(lambda: fetch("a"), lambda: parse(b""))
    assert_type(pair, tuple[bytes, list[str]])
    assert_type(await aio.map(fetch, [url]), list[bytes])
    assert_type(await aio.receive("go", returns=int), int)
    assert_type(await aio.random(), float)
    await aio.sleep(timedelta(seconds=1))
    return await parse(body)


@aio.workflow
async def crawl_twice(url: str) -> list[str]:
    return await (await crawl.start(url)).result()


async def async_outside() -> None:
    run = await crawl.options(id="x").start("http://localhost")
    assert_type(run, AsyncRun[list[str]])
    assert_type(await run.result(), list[str])
    assert_type(await (await fetch.start("u")).result(), bytes)
    assert_type(run.sync, Run[list[str]])
    assert_type(await checkout.aio.start(Order(1)), AsyncRun[Payment])
