"""DBOS Python under measurement, used as its documentation recommends: async workflows, registered queues, default settings."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from child import percentile, resident_mb, say, wait_for_go

BASE_MB = resident_mb()

from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions  # noqa: E402  (the line above is the interpreter's own share)

OUTPUT = "x" * 98
LOAD = sys.argv[1]
OPTIONS: dict[str, Any] = json.loads(sys.argv[2])

step_ms: list[float] = []
start_ms: list[float] = []
recorded = 0
all_recorded = asyncio.Event()
HELD = int(OPTIONS.get("hold", 0))


@DBOS.step()
async def work(number: int) -> str:
    return OUTPUT


@DBOS.workflow()
async def ten(number: int) -> int:
    for step in range(10):
        await work(step)
    return number


@DBOS.workflow()
async def sequential(steps: int) -> int:
    for step in range(steps):
        began = time.perf_counter()
        await work(step)
        step_ms.append((time.perf_counter() - began) * 1000)
    return steps


@DBOS.workflow()
async def nothing(number: int) -> int:
    return number


@DBOS.workflow()
async def stamp(sent_ns: int) -> int:
    start_ms.append((time.monotonic_ns() - sent_ns) / 1e6)
    return 0


@DBOS.workflow()
async def ten_then_hold(number: int) -> int:
    global recorded
    for step in range(10):
        await work(step)
    recorded += 1
    if HELD:
        if recorded == HELD:
            all_recorded.set()
        await asyncio.Event().wait()
    return number


def launch() -> None:
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": OPTIONS["url"],
        "application_version": "bench",
        "log_level": "ERROR",
    }
    DBOS(config=config)
    DBOS.launch()


async def steps() -> dict[str, Any]:
    # A tenth of them first: pools, threads and caches are warm in every system before the clock runs.
    warm = [await DBOS.start_workflow_async(ten, -number) for number in range(OPTIONS["runs"] // 10)]
    for handle in warm:
        await handle.get_result()
    say(ready=True)
    wait_for_go()
    began = time.perf_counter()
    handles = await asyncio.gather(*(DBOS.start_workflow_async(ten, number) for number in range(OPTIONS["runs"])))
    in_flight = resident_mb()
    await asyncio.gather(*(handle.get_result() for handle in handles))
    seconds = time.perf_counter() - began
    return {
        "runs": OPTIONS["runs"],
        "seconds": seconds,
        "steps_per_s": OPTIONS["runs"] * 10 / seconds,
        "rss_mb": in_flight - BASE_MB,
    }


async def one_by_one() -> dict[str, Any]:
    await (await DBOS.start_workflow_async(sequential, 20)).get_result()
    step_ms.clear()
    say(ready=True)
    wait_for_go()
    await (await DBOS.start_workflow_async(sequential, OPTIONS["steps"])).get_result()
    return {"step_p50_ms": percentile(step_ms, 0.5), "step_p99_ms": percentile(step_ms, 0.99)}


async def queue() -> dict[str, Any]:
    await DBOS.register_queue_async("bench")
    await (await DBOS.enqueue_workflow_async("bench", nothing, -1)).get_result()
    say(ready=True)
    wait_for_go()
    began = time.perf_counter()
    handles = await asyncio.gather(*(DBOS.enqueue_workflow_async("bench", nothing, number) for number in range(OPTIONS["tasks"])))
    await asyncio.gather(*(handle.get_result() for handle in handles))
    return {"queue_tasks_per_s": OPTIONS["tasks"] / (time.perf_counter() - began)}


async def starts() -> dict[str, Any]:
    await DBOS.register_queue_async("bench")
    say(ready=True)
    await asyncio.to_thread(wait_for_go)
    return {"start_p50_ms": percentile(start_ms, 0.5), "start_p99_ms": percentile(start_ms, 0.99), "n": len(start_ms)}


async def idle() -> dict[str, Any]:
    for number in range(OPTIONS["queues"]):
        await DBOS.register_queue_async(f"bench-{number}")
    say(ready=True)
    await asyncio.to_thread(wait_for_go)
    return {}


async def hold() -> dict[str, Any]:
    for number in range(HELD):
        await DBOS.start_workflow_async(ten_then_hold, number)
    await all_recorded.wait()
    say(ready=True)
    await asyncio.to_thread(wait_for_go)
    return {}


def recover() -> dict[str, Any]:
    say(ready=True)
    wait_for_go()
    say(launched=time.time())
    launch()
    wait_for_go()
    return {}


def enqueue() -> dict[str, Any]:
    """The other process: a client without workflows."""
    client = DBOSClient(system_database_url=OPTIONS["url"])
    options: EnqueueOptions = {"workflow_name": "stamp", "queue_name": "bench", "app_version": "bench"}
    say(ready=True)
    wait_for_go()
    for number in range(OPTIONS["tasks"]):
        # Spread over the poll interval of whoever polls.
        time.sleep(OPTIONS["pause_s"] * (0.5 + (number * 0.618) % 1))
        client.enqueue(options, time.monotonic_ns())
    time.sleep(OPTIONS["settle_s"])
    return {}


ASYNC = {"steps": steps, "sequential": one_by_one, "queue": queue, "starts": starts, "idle": idle, "hold": hold}


async def main() -> dict[str, Any]:
    launch()
    return await ASYNC[LOAD]()


if __name__ == "__main__":
    if LOAD in ASYNC:
        say(result=asyncio.run(main()))
    else:
        say(result={"recover": recover, "enqueue": enqueue}[LOAD]())
    while wait_for_go():
        pass
    DBOS.destroy()
