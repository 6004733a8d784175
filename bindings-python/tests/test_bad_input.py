"""Bad input: each a typed error with a stable code that says what to do; nothing lost, nothing half-written."""

from __future__ import annotations

import asyncio
import math
import pathlib
import socket
from datetime import timedelta
from typing import Any

import pytest
from conftest import Database

import everstep
from everstep import AsyncEverstep, Everstep

SOON = timedelta(seconds=20)


def small(database: Database, **settings: Any) -> tuple[Everstep, Any]:
    app = Everstep(**{**database.settings, **settings})

    @app.workflow
    def echo(value: Any) -> Any:
        return value

    return app, echo


@pytest.mark.parametrize("id", ["", "x" * 256, "a\x00b", "a\nb", "\x7f", "é" * 128, "\udcff"])
def test_ids(database: Database, id: str) -> None:
    app, echo = small(database)
    with app:
        with pytest.raises(everstep.IdInvalid):
            echo.options(id=id).start(1)
        with pytest.raises(everstep.IdInvalid):
            app.run(id)
        assert app.runs().items == []


def test_the_longest_id_works(database: Database) -> None:
    app, echo = small(database)
    with app:
        assert echo.options(id="é" * 127 + "x").start(1).result(SOON) == 1


@pytest.mark.parametrize("name", ["", "a\x00b", "x" * 256, "tab\there"])
def test_names(database: Database, name: str) -> None:
    app, _ = small(database)

    @app.workflow(name=name)
    def work() -> None: ...

    with pytest.raises(everstep.IdInvalid):
        app.launch()
    app.close()


def test_no_name_of_its_own(database: Database) -> None:
    app = Everstep(**database.settings)
    with pytest.raises(everstep.ConfigInvalid, match="name="):
        app.step(lambda: 1)
    with pytest.raises(everstep.IdInvalid, match="surrogate"):
        app.step(name="\ud800")(lambda: 1)


def test_a_mistyped_workflow_names_the_nearest(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.workflow
    def checkout(n: int) -> int:
        return n

    @app.workflow
    def parent() -> str:
        try:
            app.reference("chekout").start(1)
        except everstep.UnknownWorkflow as error:
            return error.message
        return "no error"

    with app:
        with pytest.raises(everstep.UnknownWorkflow, match='"checkout"') as caught:
            app.reference("chekout").start(1)
        assert caught.value.code == "unknown_workflow"
        with pytest.raises(everstep.UnknownWorkflow, match='"checkout"'):
            app.reference("checkotu").start_many([1, 2])
        assert app.runs().items == []
        assert '"checkout"' in parent.start().result(SOON)
        # Another client of this database: the name was announced, so it is known there too.
        with Everstep(**database.settings, role="client") as client:
            with pytest.raises(everstep.UnknownWorkflow, match='"checkout"'):
                client.reference("chekout").start(1)
            assert client.reference("checkout", returns=int).start(3).result(SOON) == 3


def test_a_name_nobody_knows_yet_waits_and_says_so(database: Database) -> None:
    app, _ = small(database)
    with app:
        run = app.reference("elsewhere", returns=int).start(4)
        forced = app.reference("ehco").options(unchecked=True).start(5)
        with pytest.raises(everstep.ResultTimeout, match='"elsewhere"'):
            run.result(timedelta(milliseconds=200))
        assert run.status().state == "ready" and forced.status().state == "ready"
    later = Everstep(**database.settings)

    @later.workflow(name="elsewhere")
    def elsewhere(n: int) -> int:
        return n

    with later:
        assert later.run(key=run.key, returns=int).result(SOON) == 4


def test_an_unknown_queue_names_the_nearest(database: Database) -> None:
    app, echo = small(database)
    app.queue("orders")
    with app:
        with pytest.raises(everstep.UnknownQueue, match="orders"):
            echo.options(queue="order").start(1)
        with pytest.raises(everstep.UnknownQueue, match="orders"):
            app.pause_queue("ordrs")
        assert app.runs().items == []


def test_payload_over_the_limit(database: Database) -> None:
    app, echo = small(database, max_payload=1000)

    @app.step
    def big() -> str:
        return "x" * 2000

    @app.workflow
    def work() -> str:
        try:
            big()
        except everstep.PayloadTooLarge as error:
            return f"{error.code}: {'big' in error.message}"
        return "no error"

    with app:
        with pytest.raises(everstep.PayloadTooLarge, match="1000"):
            echo.start("x" * 1001)
        assert app.runs().items == []
        assert work.start().result(SOON) == "payload_too_large: True"


def test_not_encodable(database: Database) -> None:
    app, echo = small(database)

    @app.step
    def handle() -> Any:
        return object()

    @app.workflow
    def work() -> str:
        try:
            handle()
        except everstep.PayloadInvalid as error:
            return error.message
        return "no error"

    with app:
        with pytest.raises(everstep.PayloadInvalid, match=r"argument of .*echo.*at \['a'\]"):
            echo.start({"a": object()})
        with pytest.raises(everstep.PayloadInvalid, match="surrogate"):
            echo.start("\ud800")
        assert "handle" in work.start().result(SOON)


def test_numbers_survive(database: Database) -> None:
    app, echo = small(database)
    with app:
        assert echo.start(2**53 + 1).result(SOON) == 2**53 + 1
        assert echo.start(-(10**40)).result(SOON) == -(10**40)
        assert math.isnan(echo.start(math.nan).result(SOON))
        assert echo.start([math.inf, -0.0, 0.1]).result(SOON) == [math.inf, 0.0, 0.1]


def test_wrong_input_type_fails_the_run(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.workflow
    def add(a: int, b: int) -> int:
        return a + b

    with app:
        with pytest.raises(TypeError, match="missing"):
            add.start(1)  # type: ignore[call-arg]
        with pytest.raises(everstep.RunFailed, match="parameter 'b'"):
            app.reference("add").start(a=1, b="two").result(SOON)


def test_one_id_two_workflows(database: Database) -> None:
    app, echo = small(database)

    @app.workflow
    def other() -> None: ...

    with app:
        first = echo.options(id="same").start(1)
        assert first.result(SOON) == 1
        with pytest.raises(everstep.IdConflict, match="echo"):
            other.options(id="same").start()
        assert app.run("same").status().workflow == "echo"


def test_engine_verbs_outside_a_run(database: Database) -> None:
    app = Everstep(**database.settings, strict=True)

    @app.step
    def step() -> None: ...

    for call in (lambda: app.sleep(timedelta(1)), app.now, lambda: app.receive("x"), lambda: app.patch("x"), lambda: app.all(lambda: 1, lambda: 2), step):
        with pytest.raises(everstep.OutsideRun):
            call()
    with pytest.raises(everstep.OutsideStep):
        app.idempotency_key()
    relaxed = Everstep(**database.settings)
    assert relaxed.step(lambda_free)(3) == 4


def lambda_free(n: int) -> int:
    return n + 1


def test_engine_verbs_inside_a_step(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.step
    def step() -> str:
        try:
            app.sleep(timedelta(1))
        except everstep.OutsideRun as error:
            return error.message
        return ""

    @app.workflow
    def work() -> str:
        return step()

    with app:
        assert "inside its step 'step'" in work.start().result(SOON)


def test_two_same_named_steps_without_arguments(database: Database) -> None:
    async def main() -> None:
        app = AsyncEverstep(**database.settings)

        @app.step
        async def tick() -> int:
            await asyncio.sleep(0)
            return 1

        @app.workflow
        async def ambiguous() -> str:
            first = asyncio.ensure_future(tick())
            try:
                await tick()
            except everstep.AmbiguousStep as error:
                return error.code
            finally:
                await first
            return "no error"

        @app.workflow
        async def keyed() -> int:
            return sum(await asyncio.gather(tick.options(key="a")(), tick.options(key="b")()))

        async with app:
            assert await (await ambiguous.start()).result(SOON) == "ambiguous_step"
            assert await (await keyed.start()).result(SOON) == 2

    asyncio.run(main())


def test_a_coroutine_where_a_function_belongs(database: Database) -> None:
    async def main() -> None:
        app = AsyncEverstep(**database.settings)

        @app.step
        async def one() -> int:
            return 1

        @app.workflow
        async def work() -> str:
            started = one()
            try:
                await app.race(started)  # type: ignore[arg-type]
            except everstep.ConfigInvalid as error:
                return error.message
            finally:
                await started
            return ""

        async with app:
            assert "lambda: step(x)" in await (await work.start()).result(SOON)

    asyncio.run(main())


def test_a_sync_verb_in_a_loop_names_the_async_one(database: Database) -> None:
    app, echo = small(database)

    async def main() -> None:
        for call in (lambda: echo.start(1), app.launch, app.runs, app.run("x").result, app.close):
            with pytest.raises(everstep.WrongLoop, match="aio"):
                call()

    asyncio.run(main())


def test_life_cycle(database: Database) -> None:
    app, echo = small(database)
    app.launch()
    with pytest.raises(everstep.AlreadyLaunched):
        app.launch()
    with pytest.raises(everstep.RegisteredLate):
        app.workflow(name="late")(lambda_free)
    with pytest.raises(everstep.AlreadyRegistered, match="test_bad_input"):
        app.workflow(name="echo")(lambda_free)
    assert echo.start(1).result(SOON) == 1
    app.close()
    app.close()
    for call in (lambda: echo.start(1), app.runs, app.launch):
        with pytest.raises(everstep.Closed):
            call()


def test_no_configuration_under_production(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVERSTEP_DATABASE_URL", raising=False)
    monkeypatch.setenv("EVERSTEP_ENV", "production")
    with pytest.raises(everstep.NoDatabase, match="EVERSTEP_DATABASE_URL"):
        Everstep().launch()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["mysql://root@localhost/x", "", "postgres//nope"])
def test_wrong_url(url: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path / "nowhere" if (tmp_path / "nowhere").exists() else tmp_path)
    with pytest.raises(everstep.SetupError):
        Everstep(url).launch()


def test_unreachable_host() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = Everstep(f"postgresql://user:hunter2@127.0.0.1:{port}/db", outage_budget=timedelta(milliseconds=300))
    with pytest.raises(everstep.EverstepError) as caught:
        app.launch()
    assert caught.value.code in ("database_unreachable", "unavailable")
    assert "hunter2" not in str(caught.value)
    app.close()


def test_a_missing_run(database: Database) -> None:
    app, _ = small(database)
    with app:
        with pytest.raises(everstep.RunNotFound):
            app.run("nobody").status()
        with pytest.raises(everstep.RunNotFound):
            app.run("nobody").cancel()
        with pytest.raises(everstep.RunNotFound):
            app.send("nobody", "topic", 1)


def test_result_timeout_says_what_the_run_waits_for(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.workflow
    def waits() -> None:
        app.receive("approval")

    with app:
        with pytest.raises(everstep.ResultTimeout, match="approval"):
            waits.start().result(timedelta(milliseconds=300))


def test_durations_are_not_numbers(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.workflow
    def work() -> str:
        try:
            app.sleep(5)  # type: ignore[arg-type]
        except everstep.ConfigInvalid as error:
            return error.message
        return ""

    with app:
        assert "timedelta(seconds=5)" in work.start().result(SOON)


def test_a_changed_order_blocks_and_the_old_one_resumes(database: Database) -> None:
    def program(names: list[str]) -> tuple[Everstep, Any]:
        app = Everstep(**database.settings, version=",".join(names))
        steps = {name: app.step(name=name)(lambda_free) for name in ("a", "b")}

        @app.workflow
        def work() -> int:
            total = sum(steps[name](1) for name in names)
            app.receive("go")
            return total

        return app, work

    app, work = program(["a", "b"])
    with app:
        run = work.options(id="changed").start()
        with pytest.raises(everstep.ResultTimeout):
            run.result(timedelta(milliseconds=200))
    app, work = program(["b", "a"])
    with app:
        app.send("changed", "go", None)
        with pytest.raises(everstep.RunBlocked, match=r'"a"[\s\S]*"b"'):
            app.run("changed").result(SOON)
        assert "test_bad_input.py:" in (app.run("changed").status().blocked_why or "")
    app, work = program(["a", "b"])
    with app:
        assert app.run("changed", returns=int).result(SOON) == 4


def test_what_the_border_cannot_carry_is_told_by_name(database: Database) -> None:
    app, echo = small(database)
    with app:
        with pytest.raises(everstep.PayloadInvalid, match="attribute"):
            echo.options(attributes={"a": "\ud800"}).start(1)
        with pytest.raises(everstep.IdInvalid, match="id of a run"):
            echo.start_many([1, 2], id=lambda value: value)
        assert app.runs().items == []
    with pytest.raises(everstep.ConfigInvalid, match="not JSON serializable"):
        Everstep(**{**database.settings, "pooler": object()}).launch()


def test_a_path_names_the_sqlite_file(tmp_path: pathlib.Path) -> None:
    with Everstep(tmp_path / "named.db") as app:
        assert app.runs().items == []
    assert (tmp_path / "named.db").exists()
