"""Everstep's Python package under measurement, through its public surface only."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import timedelta
from typing import Any

from child import percentile, resident_mb, say, wait_for_go

BASE_MB = resident_mb()

from everstep import AsyncEverstep  # noqa: E402  (the line above is the interpreter's own share)

OUTPUT = "x" * 98
LOAD = sys.argv[1]
OPTIONS: dict[str, Any] = json.loads(sys.argv[2])
SLOTS = {"steps": 1000, "queue": 1000, "hold": 1000, "recover": 1000, "sleepers": 1000}
QUEUE = "bench"
HELD = int(OPTIONS.get("hold", 0))
# The default number of parked runs.
PARKED = 1000

step_ms: list[float] = []
start_ms: list[float] = []
counted = 0
reached = asyncio.Event()

app = AsyncEverstep(
    OPTIONS["url"],
    role="client" if LOAD in ("enqueue", "fill") else "worker",
    # Where 1,000 runs are to be in flight; else the default.
    slots=SLOTS.get(LOAD),
    auto_migrate=True,
)
if LOAD != "enqueue":
    app.queue(QUEUE)
if LOAD in ("idle", "busy"):
    for number in range(OPTIONS["queues"]):
        app.queue(f"bench-{number}")


def count_to(wanted: int) -> None:
    global counted
    counted += 1
    if counted == wanted:
        reached.set()


@app.step
async def work(number: int) -> str:
    return OUTPUT


@app.workflow
async def ten(number: int) -> int:
    for step in range(10):
        await work(step)
    return number


@app.workflow
async def sequential(steps: int) -> int:
    for step in range(steps):
        began = time.perf_counter()
        await work(step)
        step_ms.append((time.perf_counter() - began) * 1000)
    return steps


@app.workflow
async def nothing(number: int) -> int:
    return number


@app.workflow
async def stamp(sent_ns: int) -> int:
    start_ms.append((time.monotonic_ns() - sent_ns) / 1e6)
    return 0


@app.workflow
async def ten_then_hold(number: int) -> int:
    for step in range(10):
        await work(step)
    if HELD:
        count_to(HELD)
        await asyncio.Event().wait()
    return number


@app.workflow
async def sleeper(number: int) -> int:
    count_to(OPTIONS["runs"])
    await app.sleep(timedelta(hours=1))
    return number


async def in_flight(count: int, until: float) -> int:
    """So many complete ten-step runs at all times; how many there were."""
    ended = 0

    async def one_after_another() -> None:
        nonlocal ended
        while time.perf_counter() < until:
            run = await ten.start(ended)
            await run.result()
            ended += 1

    await asyncio.gather(*(one_after_another() for _ in range(count)))
    return ended


async def steps() -> dict[str, Any]:
    await in_flight(OPTIONS["in_flight"] // 10, time.perf_counter() + 0.5)
    say(ready=True)
    wait_for_go()
    began = time.perf_counter()
    highest = 0.0

    async def look() -> None:
        nonlocal highest
        while True:
            await asyncio.sleep(0.5)
            highest = max(highest, resident_mb())

    looking = asyncio.create_task(look())
    runs = await in_flight(OPTIONS["in_flight"], began + OPTIONS["seconds"])
    seconds = time.perf_counter() - began
    looking.cancel()
    return {"runs": runs, "seconds": seconds, "steps_per_s": runs * 10 / seconds, "rss_mb": highest - BASE_MB}


async def one_by_one() -> dict[str, Any]:
    await (await sequential.start(20)).result()
    step_ms.clear()
    say(ready=True)
    wait_for_go()
    await (await sequential.start(OPTIONS["steps"])).result()
    return {"step_p50_ms": percentile(step_ms, 0.5), "step_p99_ms": percentile(step_ms, 0.99)}


async def queue() -> dict[str, Any]:
    await (await nothing.options(queue=QUEUE).start(-1)).result()
    say(ready=True)
    wait_for_go()
    began = time.perf_counter()
    runs = await nothing.options(queue=QUEUE).start_many(range(OPTIONS["tasks"]))
    await asyncio.gather(*(run.result() for run in runs))
    return {"queue_tasks_per_s": OPTIONS["tasks"] / (time.perf_counter() - began)}


async def starts() -> dict[str, Any]:
    say(ready=True)
    await asyncio.to_thread(wait_for_go)
    return {"start_p50_ms": percentile(start_ms, 0.5), "start_p99_ms": percentile(start_ms, 0.99), "n": len(start_ms)}


async def idle() -> dict[str, Any]:
    say(ready=True)
    await asyncio.to_thread(wait_for_go)
    return {}


async def busy() -> dict[str, Any]:
    """Work without end, in 50 runs at a time."""
    over = asyncio.create_task(asyncio.to_thread(wait_for_go))

    async def one_after_another() -> None:
        while not over.done():
            await (await ten.start(0)).result()

    say(ready=True)
    await asyncio.gather(*(one_after_another() for _ in range(50)))
    return {}


async def hold() -> dict[str, Any]:
    await ten_then_hold.start_many(range(HELD))
    await reached.wait()
    say(ready=True)
    await asyncio.to_thread(wait_for_go)
    return {}


async def sleepers() -> dict[str, Any]:
    """Memory once all runs sleep and all but the parked ones are released."""
    for run in await nothing.start_many(range(2000)):
        await run.result()
    before = resident_mb()
    say(ready=True)
    wait_for_go()
    for first in range(0, OPTIONS["runs"], 1000):
        await sleeper.start_many(range(first, first + 1000))
    await reached.wait()
    while app.info()["executing"] > PARKED:
        await asyncio.sleep(0.1)
    return {"rss_mb": resident_mb() - before}


async def enqueue() -> dict[str, Any]:
    """The other process: a client."""
    say(ready=True)
    wait_for_go()
    for number in range(OPTIONS["tasks"]):
        # Spread over the poll interval of whoever polls.
        await asyncio.sleep(OPTIONS["pause_s"] * (0.5 + (number * 0.618) % 1))
        await stamp.options(queue=QUEUE).start(time.monotonic_ns())
    await asyncio.sleep(OPTIONS["settle_s"])
    return {}


async def fill() -> dict[str, Any]:
    """A backlog nobody works on: of a queue, of a workflow no worker knows, or of work for later."""
    variant, runs = OPTIONS["variant"], OPTIONS["runs"]
    if variant == "queue":
        await app.put_queue("other")
    target = {
        "queue": app.reference("unserved").options(queue="other"),
        "workflow": app.reference("unserved").options(queue=QUEUE),
        "delayed": stamp.options(queue=QUEUE, delay=timedelta(days=1)),
    }[variant]
    say(ready=True)
    wait_for_go()
    for first in range(0, runs, 5000):
        await target.start_many(range(first, min(first + 5000, runs)))
    return {}


async def main() -> dict[str, Any]:
    async with app:
        return await {
            "steps": steps,
            "sequential": one_by_one,
            "queue": queue,
            "starts": starts,
            "idle": idle,
            "busy": busy,
            "hold": hold,
            "sleepers": sleepers,
            "enqueue": enqueue,
            "fill": fill,
        }[LOAD]()


async def recover() -> dict[str, Any]:
    say(ready=True)
    wait_for_go()
    say(launched=time.time())
    async with app:
        await asyncio.to_thread(wait_for_go)
    return {}


if __name__ == "__main__":
    say(result=asyncio.run(recover() if LOAD == "recover" else main()))
    while wait_for_go():
        pass
