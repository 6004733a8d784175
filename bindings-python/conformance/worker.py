"""The conformance worker: an interpreter of the programs of tests/README.md on the public API, driven by JSON lines on stdin."""
# ruff: noqa: ASYNC110, ASYNC230, ASYNC240, ASYNC251

import asyncio
import contextvars
import hashlib
import json
import logging
import os
import random
import signal
import sys
import time
import uuid
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

from everstep import AsyncEverstep, Dedup, EverstepError, Finished, Retry

CONFIG = json.loads(sys.argv[1])
BUILD, WITHOUT = os.environ.get("EVERSTEP_SUITE_BUILD", "v1"), os.environ.get("EVERSTEP_SUITE_WITHOUT")
LOG = os.open(CONFIG["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
HERE: contextvars.ContextVar = contextvars.ContextVar("here", default=("job", "0", {}))  # (run, place, options) of the step being called
app = AsyncEverstep(**CONFIG["engine"])


def ms(value):
    return None if value is None else timedelta(milliseconds=value)


def note(kind, run, place, detail="-", attempt=0):
    os.write(LOG, f"{kind} {run} {place} {attempt} {os.getpid()} {time.monotonic_ns()} {detail}\n".encode())


def gate(name):
    return os.path.join(CONFIG["gates"], name)


async def passing(name):
    while not os.path.exists(gate(name)):
        await asyncio.sleep(0.02)


@app.error("flaky")
class Flaky(Exception):
    def __init__(self, attempt: int):
        super().__init__(f"flaky attempt {attempt}")
        self.attempt = attempt


async def effect(value):
    (run, place, o), attempt = HERE.get(), app.attempt()
    if run == "job" and isinstance(value, dict):
        o = value
    note("begin", run, place, "limit {} {}".format(*o["limited"]) if "limited" in o else "-", attempt)
    if o.get("show_key"):
        note("value", run, place, app.idempotency_key(), attempt)
    time.sleep(o.get("busy", 0) / 1000)
    if wait := o.get("ms", 0) + random.random() * o.get("jitter_ms", 0):
        await asyncio.sleep(wait / 1000)
    if o.get("crash") == "always" or (o.get("crash") and not os.path.exists(gate(f"crashed-{run}"))):
        open(gate(f"crashed-{run}"), "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if "hold" in o:
        await passing(o["hold"])
    if attempt <= o.get("fail", 0) or ("fail_until" in o and not os.path.exists(gate(o["fail_until"]))):
        raise Flaky(attempt)
    note("end", run, place, attempt=attempt)
    return value


def declared(name, **policy):
    async def step(value):
        return await effect(value)

    return app.step(name=name, **policy)(step)


SAMPLE = {
    "int": 2**60 + 1,
    "dec": Decimal("12.50"),
    "bytes": b"\x00\xff",
    "time": datetime(2026, 1, 2, 3, 4, 5, 250_000, tzinfo=timezone.utc),
    "date": date(2026, 1, 2),
    "uuid": uuid.UUID("0192f0c1-2345-7abc-8def-0123456789ab"),
    "none": None,
    "text": "a\0ü",
}


@app.step(name="sample")
async def sample() -> dict:
    return SAMPLE


POLICIES = {
    "thrice": {"retry": Retry(max_attempts=3, initial=ms(1))},
    "five": {"retry": Retry(max_attempts=5, initial=ms(1))},
    "backoff": {"retry": Retry(max_attempts=3, initial=ms(2500), jitter=False)},
    "brief": {"timeout": ms(200)},
    "once": {"at_most_once": True},
}
STEPS = {name: declared(name, **POLICIES.get(name, {})) for name in ("work", "charge", "ship", *POLICIES)}


async def move(execute, mark, account, amount):
    run, place, o = HERE.get()
    note("begin", run, place, "tx", app.attempt())
    await execute(f"insert into moved (run, step, account, amount) values ({mark(1)}, {mark(2)}, {mark(3)}, {mark(4)})", run, place, account, amount)
    await execute(f"update accounts set balance = balance + {mark(1)} where id = {mark(2)}", amount, account)
    if "hold" in o:
        await passing(o["hold"])
    if o.get("fail"):
        raise Flaky(app.attempt())
    note("end", run, place, attempt=app.attempt())
    return amount


@app.transaction(name="pay")
async def pay(tx, account: int, amount: int) -> int:
    return await move(tx.execute, lambda n: f"${n}", account, amount)


if CONFIG["store"] == "postgres":
    from psycopg_pool import AsyncConnectionPool

    DRIVER = AsyncConnectionPool(CONFIG["user_database"], min_size=0, max_size=4, open=False, check=AsyncConnectionPool.check_connection)

    @app.transaction(DRIVER, name="pay_driver", retry=Retry(max_attempts=5, initial=ms(10)))
    async def pay_driver(tx, account: int, amount: int) -> int:
        return await move(lambda sql, *values: tx.execute(sql, values), lambda n: "%s", account, amount)


async def play(run, instructions, place=""):
    return [await one(run, x, f"{place}{i}") for i, x in enumerate(instructions)]


async def recorded(run, place, options, call, *values, detail="-"):
    HERE.set((run, place, options))
    try:
        value = await call(*values)
    except Exception:
        note("nack", run, place)
        raise
    note("ack", run, place, detail)
    return value


async def one(run, instruction, place):
    o = instruction[-1] if isinstance(instruction[-1], dict) and instruction[0] != "build" and len(instruction) > 2 else {}
    match instruction:
        case ["step", value, *_]:
            return await recorded(run, place, o, STEPS[o.get("as", "work")], value)
        case ["tx", account, amount, *_]:
            return await recorded(run, place, o, pay_driver if o.get("driver") else pay, account, amount, detail="tx")
        case ["sample"]:
            return await recorded(run, place, o, sample) == SAMPLE
        case ["sleep" | "until" as verb, duration]:
            note("sleep", run, place)
            await (app.sleep(ms(duration)) if verb == "sleep" else app.sleep_until(await app.now() + ms(duration)))
            note("woke", run, place, duration)
            return duration
        case ["all" | "race" | "any" as verb, *programs]:
            out = await getattr(app, verb)(*(lambda i=i, p=p: play(run, p, f"{place}/{i}.") for i, p in enumerate(programs)))
            return list(out)
        case ["map", items, *_]:
            return await app.map(lambda item: recorded(run, f"{place}/{item[0]}", o, STEPS["work"], item[1]), list(enumerate(items)))
        case ["gather", *instructions]:
            return list(await asyncio.gather(*(one(run, x, f"{place}.{i}") for i, x in enumerate(instructions))))
        case ["first", instructions]:
            tasks = [asyncio.ensure_future(one(run, x, f"{place}.{i}")) for i, x in enumerate(instructions)]
            return [await x for x in asyncio.as_completed(tasks)]  # given coroutines, it starts them in the order of a set
        case ["child", instructions, *_]:
            options = {"id": o.get("id", f"{run}/{place}"), "parent_close": o.get("policy", "cancel")}
            child = await interpret.options(**options).start(options["id"], instructions)
            return await child.result() if o.get("wait", True) else child.key
        case ["send", to, topic, value, *_]:
            while True:
                try:
                    await app.send(to, topic, value)
                    return True
                except EverstepError as error:
                    if error.code != "run_not_found" or not (o.get("wait") or o.get("optional")):
                        raise
                    if o.get("optional"):
                        return False
                    await app.sleep(ms(20))
        case ["receive", topic, limit]:
            value = await app.receive(topic, timeout=ms(limit))
            note("received", run, place, value)
            return "timeout" if value is None else value
        case ["set", key, value]:
            await app.set_event(key, value)
            return True
        case ["event", source, key, limit]:
            value = await app.get_event(source, key, timeout=ms(limit))
            return "timeout" if value is None else value
        case ["value", which]:
            value = await getattr(app, which)()
            note("value", run, place, f"{value:%Y-%m-%dT%H:%M:%S.%f}".rstrip("0") + "Z" if which == "now" else value)
            return which
        case ["patch", name, after, before]:
            return await play(run, after if app.patch(name) else before, f"{place}.")
        case ["build", programs]:
            return await play(run, programs[BUILD], f"{place}.")
        case ["try", instructions]:
            try:
                return await play(run, instructions, f"{place}.")
            except Flaky as error:
                return {"error": "flaky", "message": str(error), "attempt": error.attempt}
            except EverstepError as error:
                return {"error": error.code}
        case ["finally", instructions, clean_up]:
            try:
                return await play(run, instructions, f"{place}.")
            finally:
                with app.shielded():
                    await play(run, clean_up, f"{place}.f")
        case ["repeat", n, instructions]:
            return [await play(run, instructions, f"{place}.{i}.") for i in range(n)]
        case ["log", text]:
            app.logger.info(text)
            return text
    raise ValueError(f"unknown instruction {instruction}")


@app.workflow(name="interpret")
async def interpret(id: str, program: list) -> list:
    return await play(id, program)


if WITHOUT != "other":

    @app.workflow(name="other")
    async def other(id: str, program: list) -> list:
        return await play(id, program)


@app.workflow(name="report")
async def report(finished: Finished) -> None:
    note("finished", finished["run"], "-", finished["state"])


def options(given):
    o = {k.removesuffix("_ms"): ms(v) if k.endswith("_ms") else v for k, v in (given or {}).items()}
    dedup = {k.removeprefix("dedup_").replace("ttl", "scope"): o.pop(k) for k in [*o] if k.startswith("dedup_")}
    return {**o, "dedup": Dedup(**dedup)} if dedup else o


async def execute(op, id=None, timeout_ms=None, **c):
    match op:
        case "launch":
            if CONFIG["store"] == "postgres":
                await DRIVER.open()
            await app.launch()
            return "\n".join(SAID)
        case "start":
            target = interpret if (c.get("workflow") or "interpret") == "interpret" else app.reference(c["workflow"])
            run = await target.options(id=id, **options(c.get("options"))).start(id=id, program=c["program"])
            note("accepted", run.key.replace("-", ""), "-")
            return {"run": run.key, "attached": run.attached}
        case "start_step":
            return (await STEPS[c.get("as", "work")].options(id=id).start(c["value"])).key
        case "start_many":
            inputs = [{"id": f"{id}-{i}", "program": c["program"]} for i in range(c["count"])]
            runs = await interpret.options(**options(c.get("options"))).start_many(inputs, id=lambda given: given["id"])
            for run in runs:
                note("accepted", run.key.replace("-", ""), "-")
            return len(runs)
        case "result":
            value = await app.run(id).result(timeout=ms(timeout_ms))
            note("result", id, "-", hashlib.sha256(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()[:16])
            return value
        case "status" | "steps":
            found = await getattr(app.run(id), op)()
            return json.loads(json.dumps([vars(x) for x in found] if op == "steps" else vars(found), default=str))
        case "cancel" | "resume" | "retry" | "rewind":
            return await getattr(app.run(id), op)(by="suite", **c)
        case "send":
            return await app.send(id, **c)
        case "event":
            value = await app.get_event(id, c["key"], timeout=ms(timeout_ms))
            return "timeout" if value is None else value
        case "queue":
            return (await app.put_queue(**c)).name
        case "list":
            page = await app.runs(**{**c, "attribute": tuple(c["attribute"]) if "attribute" in c else None})
            return {"runs": [r.key for r in page.items], "next": page.next}
        case "adopt":
            return await app.adopt()
        case "close":
            return await app.close(ms(c["deadline_ms"]))


async def answer(n, op, **command):
    try:
        out = {"ok": await execute(op, **command)}
    except EverstepError as error:
        out = {"error": {"code": error.code, "message": str(error)}}
    except Exception as error:
        logging.exception("command %s", op)
        out = {"error": {"code": type(error).__name__, "message": str(error)}}
    os.write(1, (json.dumps({"n": n, **out}) + "\n").encode())


async def main():
    reader = asyncio.StreamReader(limit=2**26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks = []
    while line := await reader.readline():
        command = json.loads(line)
        tasks.append(asyncio.create_task(answer(**command)))
        if command["op"] == "close":
            return await tasks[-1]


class Lines(logging.Handler):
    def emit(self, record):
        note("line", record.run, "-", record.getMessage())


SAID = []
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
logging.getLogger("everstep").addFilter(lambda record: SAID.append(record.getMessage()) or True)
app.logger.addHandler(Lines())
asyncio.run(main())
