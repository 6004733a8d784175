"""Programs that tests run in processes of their own."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
import time
from datetime import datetime, timedelta
from typing import Any

from everstep import AsyncEverstep, Everstep, EverstepError

SETTINGS: dict[str, Any] = {"database": os.environ["TEST_DATABASE"], "schema": os.environ["TEST_SCHEMA"], "auto_migrate": True}
SOON = timedelta(seconds=30)


def say(*words: object) -> None:
    print(*words, flush=True)


def die_in_step() -> None:
    """Dies of SIGKILL in the third step; started again it finishes."""
    app = Everstep(**SETTINGS)

    @app.step
    def mark(n: int) -> int:
        say("step", n, os.getpid())
        if n == 3 and os.environ.get("DIE"):
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    @app.workflow
    def work() -> list[int]:
        return [mark(n) for n in range(1, 6)]

    with app:
        say("result", work.options(id="one").start().result(SOON))


def sleeps_until() -> None:
    """Dies in its wait; the program that goes on with it asks for another point in time, and the recorded one counts."""
    app = Everstep(**SETTINGS)
    dies = bool(os.environ.get("DIE"))

    @app.workflow
    def work() -> list[datetime]:
        due = app.now() + timedelta(seconds=1)
        app.sleep_until(due if dies else due + timedelta(days=1))
        return [due, app.now()]

    with app:
        run = work.options(id="one").start()
        if dies:
            while not any("sleep" in words for words in run.status().waits_for):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        due, woke = run.result(SOON)
        say("not before" if woke >= due else f"{woke} before {due}")


def die_in_gather() -> None:
    """Raw concurrency, killed half way: the replay gives each item its own value, in the order first seen."""

    async def main() -> None:
        app = AsyncEverstep(**SETTINGS)
        slow = bool(os.environ.get("DIE"))

        @app.step
        async def first(n: int) -> int:
            # Other latencies in the second process: were completions not delivered as recorded, the order would be another.
            await asyncio.sleep((n if slow else 10 - n) * 0.005)
            return n

        @app.step
        async def second(n: int, order: list[int]) -> int:
            return n * 10

        @app.step
        async def last() -> None:
            if slow:
                os.kill(os.getpid(), signal.SIGKILL)

        @app.workflow
        async def work() -> list[Any]:
            order: list[int] = []

            async def item(n: int) -> int:
                value = await first(n)
                order.append(value)
                return await second(value, list(order))

            values = await asyncio.gather(*(item(n) for n in range(10)))
            await last()
            return [list(values), order]

        async with app:
            run = await work.options(id="gather").start()
            say("result", await run.result(SOON))

    asyncio.run(main())


def exit_with_work_in_flight() -> None:
    """The interpreter ends while a step sleeps and runs wait: no hang, no crash."""
    app = Everstep(**SETTINGS)
    started = threading.Event()

    @app.step
    def endless() -> None:
        started.set()
        time.sleep(3600)

    @app.step
    async def endless_async() -> None:
        await asyncio.sleep(3600)

    @app.workflow
    def work() -> None:
        endless()

    @app.workflow
    async def work_async() -> None:
        await endless_async()

    @app.workflow
    def waits() -> None:
        app.sleep(timedelta(days=1))

    app.launch()
    for _ in range(3):
        work.start()
        work_async.start()
        waits.start()
    assert started.wait(20)
    say("leaving")


def loop_ends_without_close() -> None:
    """Whatever ends the loop (main returns, Ctrl-C, another one during the close that the first began), its runs are the next process's."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    how = os.environ["ENDS"]
    app = AsyncEverstep(**SETTINGS)
    inside = asyncio.Event()

    def declare(app: AsyncEverstep) -> tuple[Any, Any, Any]:
        @app.step
        async def holds() -> str:
            if not inside.is_set():
                inside.set()
                await asyncio.Event().wait()
            return "done"

        @app.workflow
        async def work() -> str:
            return await holds()

        @app.workflow
        async def waits() -> None:
            await app.sleep(timedelta(days=1))

        return holds, work, waits

    holds, work, waits = declare(app)

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    async def main() -> None:
        await app.launch()
        await waits.options(id="waits").start()
        await work.options(id="held").start()
        await inside.wait()
        inside.clear()
        await holds.options(id="step").start()
        await inside.wait()
        if how == "interrupted":
            interrupt()
            await asyncio.Event().wait()
        if how == "twice":
            try:
                interrupt()
                await asyncio.Event().wait()
            finally:
                asyncio.get_running_loop().call_soon(interrupt)
                await app.close()

    try:
        asyncio.run(main())
    except (KeyboardInterrupt, asyncio.CancelledError):
        pass
    app.sync.close(timedelta(0))
    other = Everstep(**SETTINGS)
    declare(other.aio)
    with other:
        say(other.run("held").result(SOON), other.run("step").result(SOON), other.run("waits").status().state in ("running", "waiting"))


def fork_after_launch() -> None:
    """A child of a launched process: what it inherits is not launched, and its own engine works."""
    app = Everstep(**SETTINGS)

    @app.workflow
    def work(n: int) -> int:
        return n + 1

    app.launch()
    assert work.start(1).result(SOON) == 2
    child = os.fork()
    if child == 0:
        try:
            app.launch()
            assert work.start(2).result(SOON) == 3
            app.close()
            say("child fine")
            os._exit(0)
        except BaseException as error:
            say("child", repr(error))
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert work.start(3).result(SOON) == 4
    app.close()
    say("parent fine", os.waitstatus_to_exitcode(status))


def fork_beside_sqlite() -> None:
    """The parent has the file open: what such a child wrote was lost with the parent's close, or it waited for ever for a lock."""
    app = Everstep(**SETTINGS)

    @app.workflow
    def work(n: int) -> int:
        return n + 1

    app.key_of("opens the engine, not the file")
    early = os.fork()
    if early == 0:
        _child(lambda: say("early", _one_run(app, work)))
    os.waitpid(early, 0)
    app.launch()
    assert work.start(1).result(SOON) == 2
    for way in (app.launch, lambda: work.start(2), lambda: app.runs()):
        late = os.fork()
        if late == 0:
            _child(way)
        os.waitpid(late, 0)
    other = os.fork()
    if other == 0:
        another = Everstep(SETTINGS["database"] + ".other")
        _child(lambda: say("another file", _one_run(another, another.workflow(name="one")(lambda: 1))))
    os.waitpid(other, 0)
    assert work.start(3).result(SOON) == 4
    app.close()
    after = os.fork()
    if after == 0:
        anew = Everstep(**SETTINGS)
        _child(lambda: say("after the close", _one_run(anew, anew.workflow(name="one")(lambda: 1))))
    os.waitpid(after, 0)


def _one_run(app: Everstep, work: Any) -> Any:
    with app:
        return work.start(*([1] if work.name == "work" else [])).result(SOON)


def _child(way: Any) -> None:
    try:
        way()
    except EverstepError as error:
        say(error.code, "spawn" in error.message)
    finally:
        os._exit(0)


def fork_inside_a_step() -> None:
    app = Everstep(**SETTINGS)

    @app.step
    def forks() -> str:
        context = multiprocessing.get_context("fork")
        out: Any = context.SimpleQueue()
        process = context.Process(target=_in_child, args=(app, out))
        process.start()
        process.join(20)
        assert process.exitcode == 0
        return out.get()

    @app.workflow
    def work() -> str:
        return forks()

    with app:
        say(work.start().result(SOON))


def _in_child(app: Everstep, out: Any) -> None:
    try:
        app.sleep(timedelta(seconds=1))
    except EverstepError as error:
        out.put(error.code)


def interrupted() -> None:
    """Ctrl-C during a blocking result()."""
    # A shell starts what it puts in the background with this signal ignored, and whoever is started from there inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    app = Everstep(**SETTINGS)

    @app.workflow
    def waits() -> None:
        app.sleep(timedelta(days=1))

    with app:
        run = waits.start()
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        begun = time.monotonic()
        try:
            run.result()
        except KeyboardInterrupt:
            say("interrupted", time.monotonic() - begun < 5)
    say("closed")


def interrupted_in_close() -> None:
    """Ctrl-C ends the drain; the engine ends with it, and its runs are free for others."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    app = Everstep(**SETTINGS)
    inside = threading.Event()

    def declare(app: Everstep) -> Any:
        @app.step
        def holds() -> None:
            if not inside.is_set():
                inside.set()
                threading.Event().wait()

        @app.workflow
        def work() -> str:
            holds()
            return "done"

        return work

    work = declare(app)
    app.launch()
    work.options(id="held").start()
    assert inside.wait(20)
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        app.close()
    except KeyboardInterrupt:
        say("interrupted", [t.name for t in threading.enumerate() if t.name == "everstep-dispatch"])
    other = Everstep(**SETTINGS)
    declare(other)
    with other:
        say(other.run("held").result(SOON))


def replayed_logging() -> None:
    """Released at every wait: each line of the workflow is written once all the same."""
    import logging

    app = Everstep(**SETTINGS, replay="always")
    logging.basicConfig(format="%(levelname)s %(message)s %(step)s %(attempt)s", level=logging.INFO, stream=sys.stdout, force=True)
    for handler in logging.getLogger().handlers:
        from everstep import ReplayFilter

        handler.addFilter(ReplayFilter())

    @app.step
    def inside(n: int) -> int:
        app.logger.info("in step %d", n)
        return n

    @app.workflow
    def work() -> None:
        app.logger.info("first")
        inside(1)
        app.sleep(timedelta(milliseconds=10))
        app.logger.info("second")
        app.sleep(timedelta(milliseconds=10))
        app.logger.warning("third")

    with app:
        work.start().result(SOON)
    say("closed")


def _asks_to_stop(app: Any) -> None:
    """A workflow whose step has the process asked to stop, and goes on."""

    @app.step
    def stop(seconds: float) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(seconds)
        return "drained"

    @app.workflow
    def work(seconds: float) -> str:
        return stop(seconds)


def _after_serving(name: str) -> None:
    with Everstep(**SETTINGS, role="client") as client:
        status = client.run("asked").status()
        say(name, status.state, status.attempt, signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)


def serving() -> None:
    app = Everstep(**SETTINGS)
    _asks_to_stop(app)
    app.reference("work").options(id="asked").start(0.3)
    app.serve()
    _after_serving("threads")


def serving_async() -> None:
    app = AsyncEverstep(**SETTINGS)
    _asks_to_stop(app.sync)

    async def main() -> None:
        await app.reference("work").options(id="asked").start(0.3)
        await app.serve()

    asyncio.run(main())
    _after_serving("asyncio")


if __name__ == "__main__":
    globals()[sys.argv[1]]()
