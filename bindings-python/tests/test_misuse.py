"""What a program gets wrong when it declares, configures and starts: each a typed error that says which name and what to write instead."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import functools
import gc
import logging
import math
import time
import typing
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from conftest import Database

import everstep
from everstep import AsyncEverstep, Dedup, Everstep, Retry

SOON = timedelta(seconds=20)
MOMENT = timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"nope": 1}, "nope"),
        ({"idd": "x"}, "Did you mean id"),
        ({"key": "x"}, "no such option: key"),
        ({"at_most_once": True}, "no such option: at_most_once"),
        ({"id": 5}, "option id: str is wanted, not 'int'"),
        ({"delay": 5}, "option delay: timedelta"),
        ({"start_at": 5}, "option start_at: datetime"),
        ({"start_at": datetime(2030, 1, 1)}, "time zone"),
        ({"priority": "high"}, "option priority: int"),
        ({"priority": True}, "option priority: int"),
        ({"attributes": 5}, "option attributes: Mapping"),
        ({"dedup": "key"}, "option dedup: Dedup"),
        ({"retry": 5}, "option retry: Retry"),
        ({"on_finish": 5}, "option on_finish"),
        ({"on_finish": len}, "declared function"),
        ({"priority": 2**70}, "option priority is a whole number of 64 bits"),
        ({"cost": 2**70}, "option cost"),
        ({"parent_close": "kill"}, "'cancel' or 'abandon'"),
        ({"reuse_purged": "yes"}, "option reuse_purged: bool"),
    ],
)
def test_options_are_checked_by_name_and_type(database: Database, options: dict[str, Any], says: str) -> None:
    app = Everstep(**database.settings)

    @app.workflow
    def work() -> int:
        return 1

    with app:
        with pytest.raises(everstep.ConfigInvalid, match=says):
            work.options(**options).start()
        assert app.runs().items == []


def test_options_of_a_call(database: Database) -> None:
    """`key`, `retry` and `timeout` hold for the one call; what only a start can mean is refused, not ignored."""
    app = Everstep(**database.settings)
    attempts: list[int] = []

    @app.step
    def flaky(n: int) -> int:
        attempts.append(app.attempt())
        if app.attempt() < 3:
            raise ValueError("not yet")
        return n

    @app.workflow
    def work() -> int:
        return flaky.options(key="a", retry=Retry(max_attempts=3, initial=MOMENT))(7)

    @app.workflow
    def wrong() -> int:
        return flaky.options(queue="orders", id="x")(7)

    with app:
        assert work.start().result(SOON) == 7
        assert attempts == [1, 2, 3]
        with pytest.raises(everstep.RunFailed, match=r"id, queue is for start\(\)"):
            wrong.start().result(SOON)


def lambda_free() -> None: ...


def test_declarations(database: Database) -> None:
    app = Everstep(**database.settings)

    class Service:
        def call(self, n: int) -> int:
            return n + 1

    def generator() -> typing.Iterator[int]:
        yield 1

    async def async_generator() -> typing.AsyncIterator[int]:
        yield 1

    wrong: list[tuple[Any, str]] = [
        (lambda: app.step(Service.call), "bound"),
        (lambda: app.step(generator), "generator"),
        (lambda: app.workflow(typing.cast(Any, async_generator)), "generator"),
        (lambda: app.workflow(Service), "class 'Service'"),
        (lambda: app.step(name="five")(typing.cast(Any, 5)), "decorate a function"),
        (lambda: app.step(typing.cast(Any, int)), "does not say what it takes"),
        (lambda: app.step(functools.partial(len, "x")), "name="),
        (lambda: app.step(name="a", retry=typing.cast(Any, 5))(generator), "Retry"),
        (lambda: app.workflow(name="b", retry=typing.cast(Any, 5))(Service), "Retry"),
        (lambda: app.transaction(retry=typing.cast(Any, 5)), "Retry"),
        (lambda: app.step(timeout=typing.cast(Any, 5))(generator), "timedelta"),
        (lambda: Retry(max_attempts=0), "max_attempts"),
        (lambda: Retry(max_attempts=typing.cast(Any, "many")), "max_attempts"),
        (lambda: Retry(initial=typing.cast(Any, 5)), "timedelta"),
        (lambda: Retry(factor=0.5), "factor"),
        (lambda: Retry(factor=math.inf), "factor"),
        (lambda: Retry(factor=10**400), "factor"),
        (lambda: Retry(factor=True), "factor"),
        (lambda: Retry(max_attempts=True), "max_attempts"),
        (lambda: Retry(max_attempts=2**70), "max_attempts"),
        (lambda: Retry(jitter=typing.cast(Any, "no")), "jitter"),
        (lambda: Retry(retry_if=typing.cast(Any, 5)), "retry_if"),
        (lambda: Retry(non_retryable=typing.cast(Any, 5)), "exception types"),
        (lambda: Dedup("key", scope=typing.cast(Any, "ever")), "ever"),
        (lambda: Dedup("key", scope=typing.cast(Any, 3600)), r"timedelta\(seconds=3600\)"),
        (lambda: Dedup("key", policy=typing.cast(Any, 1)), "policy"),
        (lambda: app.workflow(name="c", on_finish=typing.cast(Any, generator))(lambda_free), "on_finish"),
        (lambda: app.queue("q", paused=typing.cast(Any, 1)), "'q': paused is a bool"),
        (lambda: app.queue("q", hold=typing.cast(Any, 1)), "'q': hold is a bool"),
        (lambda: app.queue("q", limit=2**70), "'q': limit"),
        (lambda: app.migration_sql(typing.cast(Any, 5)), "store"),
        (lambda: app.migration_sql(schema=typing.cast(Any, 5)), "schema"),
        (lambda: Everstep(queues=typing.cast(Any, 5)), "queues is a list"),
        (lambda: Retry(non_retryable=typing.cast(Any, ["ValueError"])), "exception types"),
        (lambda: app.error(typing.cast(Any, ValueError)), "app.error takes the code"),
        (lambda: app.error("five")(typing.cast(Any, 5)), "exception type"),
        (lambda: Everstep(queues="orders"), r"queues=\['orders'\]"),
        (lambda: Everstep(lease=typing.cast(Any, 10)), "timedelta"),
    ]
    for declare, says in wrong:
        with pytest.raises(everstep.ConfigInvalid, match=says):
            declare()
    five: Any = 5
    for named in (lambda: Dedup(five), lambda: app.workflow(version=five)(lambda_free), lambda: app.workflow(label=five)(lambda_free)):
        with pytest.raises(everstep.IdInvalid, match="is a str, not 'int'"):
            named()
    for code in ("", "a\0b", "x" * 256):
        with pytest.raises(everstep.IdInvalid):
            app.error(code)(ValueError)
    assert Retry(non_retryable=typing.cast(Any, ValueError)).non_retryable == (ValueError,)
    assert app.step(Service().call).name == "call"


def test_a_type_that_cannot_be_read_back_names_the_function(database: Database) -> None:
    def bad(n: complex) -> int:
        return 1

    def worse(n: int) -> collections.defaultdict[str, int]:
        return collections.defaultdict(int)

    for function, says in ((bad, "parameter 'n' of .*bad"), (worse, "the result of .*worse.*defaultdict")):
        app = Everstep(**database.settings)
        app.step(function)
        with pytest.raises(everstep.PayloadInvalid, match=says):
            app.launch()


def test_calls_with_wrong_values(database: Database) -> None:
    app = Everstep(**database.settings)

    @dataclasses.dataclass
    class Item:
        n: int

    @app.step
    def one(n: int) -> int:
        return n

    @app.step
    def lies(n: int) -> int:
        return typing.cast(int, str(n))

    @app.workflow
    def pair(a: int, b: int) -> int:
        return a + b

    @app.workflow
    def work(which: str) -> str:
        wrong: dict[str, Any] = {
            "limit": lambda: app.map(one, [1, 2], limit=0),
            "negative": lambda: app.map(one, [1, 2], limit=-1),
            "coroutine": lambda: app.run_step(typing.cast(Any, one(1))),
            "topic": lambda: app.receive(typing.cast(Any, 5)),
            "event": lambda: app.set_event(typing.cast(Any, 5), 1),
            "patch": lambda: app.patch(typing.cast(Any, 5)),
            "result": lambda: lies(5),
            "close": lambda: app.close(),
        }
        try:
            wrong[which]()
        except everstep.EverstepError as error:
            return f"{error.code}: {error.message}"
        return "no error"

    expected = {
        "limit": "config_invalid: map: a limit of 0",
        "negative": "config_invalid: map: a limit of -1",
        "coroutine": "config_invalid: run_step takes a function, not int",
        "topic": "id_invalid: the topic is a str",
        "event": "id_invalid: the key of an event is a str",
        "patch": "id_invalid: the name of a patch is a str",
        "result": "payload_invalid: result of ",
        "close": "config_invalid: close() inside a run",
    }
    with app:
        for which, says in expected.items():
            assert work.start(which).result(SOON).startswith(says)
        with pytest.raises(everstep.PayloadInvalid, match="mapping by parameter name"):
            pair.start_many([1])
        with pytest.raises(everstep.PayloadInvalid, match="attribute"):
            pair.options(attributes={"item": typing.cast(Any, Item(1))}).start(1, 2)
        with pytest.raises(everstep.ConfigInvalid, match="timedelta"):
            pair.start(1, 2).result(typing.cast(Any, 5))
        with pytest.raises(everstep.IdInvalid, match="id of a run"):
            app.run(typing.cast(Any, 5))
        with pytest.raises(everstep.RunNotFound, match="no run nobody"):
            app.run("nobody").cancel()
        with pytest.raises(everstep.RunNotFound, match="no run nobody"):
            app.run("nobody").result(SOON)


def test_all_runs_every_branch_at_once(database: Database) -> None:
    """Also more of them than a `map` without a limit gives threads: the first may wait for the last."""
    import threading

    app = Everstep(**database.settings)
    count = 100
    barrier = threading.Barrier(count)

    @app.workflow
    def work() -> int:
        return len(app.all(*[lambda: barrier.wait(15)] * count))

    with app:
        assert work.start().result(SOON) == count


def test_a_wait_nobody_here_will_end_is_said(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    app = Everstep(**database.settings)

    @app.workflow
    def work() -> int:
        return 1

    run = work.start()
    with caplog.at_level(logging.WARNING, "everstep"), pytest.raises(everstep.ResultTimeout, match="not launched"):
        run.result(timedelta(milliseconds=200))
    assert "not launched" in caplog.text
    with app:
        assert run.result(SOON) == 1


def test_a_database_nobody_named_is_named_at_launch(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("EVERSTEP_DATABASE_URL", "EVERSTEP_ENV", "NODE_ENV", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.WARNING, "everstep"), Everstep():
        pass
    assert "everstep.db" in caplog.text, "shown without any configuration of logging"


def test_a_far_sleep_is_no_overflow(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.workflow
    def work() -> None:
        app.sleep(timedelta.max)

    with app:
        run = work.start()
        end = time.monotonic() + 15
        while "sleeps" not in " ".join(run.status().waits_for):
            assert time.monotonic() < end, run.status()
        assert run.cancel() in ("requested", "cancelled")
        with pytest.raises(everstep.RunCancelled):
            run.result(SOON)
        later = work.options(delay=timedelta.max).start().status()
        assert later.state == "ready" and later.start_at is not None
        assert run.status().created_at < datetime.now(timezone.utc) + timedelta(minutes=5)


def test_a_loop_that_ended_without_close_is_told(database: Database) -> None:
    """As `asyncio.run` twice with one engine does, or a test runner with a loop a test: the second would wait for ever."""
    app = AsyncEverstep(**database.settings)

    @app.workflow
    async def work() -> int:
        return 1

    async def first() -> None:
        await app.launch()
        assert await (await work.start()).result(SOON) == 1

    async def second() -> None:
        with pytest.raises(everstep.WrongLoop, match="ended without close"):
            await work.start()
        await app.close()

    asyncio.run(first())
    asyncio.run(second())


def test_an_object_with_an_async_call_is_async(database: Database) -> None:
    class Doubles:
        async def __call__(self, n: int) -> int:
            return 2 * n

    app = Everstep(**database.settings)
    app.workflow(name="doubles")(Doubles())
    with app:
        assert app.reference("doubles", returns=int).start(4).result(SOON) == 8


def test_the_error_of_a_loser_is_nobodys(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        app = AsyncEverstep(**database.settings)
        failed = asyncio.Event()

        @app.step
        async def quick() -> str:
            return "quick"

        async def loses() -> str:
            try:
                await asyncio.Event().wait()
            finally:
                failed.set()
                raise ValueError("in its clean-up")

        @app.workflow
        async def work() -> str:
            winner = await app.race(quick, loses)
            await failed.wait()
            return winner

        async with app:
            assert await (await work.start()).result(SOON) == "quick"

    asyncio.run(main())
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_many_starts_belong_in_a_step(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.workflow
    def one(n: int) -> int:
        return n

    @app.step
    def inside() -> int:
        return sum(run.result(SOON) for run in one.start_many([1, 2]))

    @app.workflow
    def many() -> list[Any]:
        try:
            one.start_many([1, 2])
        except everstep.OutsideRun as error:
            return [error.message, inside()]
        return []

    with app:
        message, total = many.start().result(SOON)
        assert "not recorded" in message and total == 3
