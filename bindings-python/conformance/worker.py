"""The conformance worker: an interpreter of `tests/README.md`'s programs on the public API, driven by JSON lines on stdin."""

import asyncio
import contextvars
import hashlib
import json
import os
import random
import signal
import sys
import time
from datetime import timedelta

import everstep
from everstep import AsyncEverstep, Dedup, EverstepError, Retry

CONFIG = json.loads(sys.argv[1])
BUILD = os.environ.get("EVERSTEP_SUITE_BUILD", "v1")
LOG = os.open(CONFIG["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
HERE: contextvars.ContextVar = contextvars.ContextVar("here")  # (run, place, options) of the instruction being called
app = AsyncEverstep(CONFIG["engine"].pop("database"), **CONFIG["engine"])


def ms(value):
    return None if value is None else timedelta(milliseconds=value)


def note(kind, run, place, detail="-", attempt=0):
    record = f"{kind} {run} {place} {attempt} {os.getpid()} {time.monotonic_ns()} {detail}\n"
    os.write(LOG, record.encode())


def gate(name):
    return os.path.join(CONFIG["gates"], name)


async def passing(name):
    while not os.path.exists(gate(name)):
        await asyncio.sleep(0.02)


@app.error("flaky")
class Flaky(Exception):
    pass


async def effect(value):
    run, place, o = HERE.get()
    attempt = app.attempt()
    note("begin", run, place, "limit {} {}".format(*o["limited"]) if "limited" in o else "-", attempt)
    if o.get("show_key"):
        note("value", run, place, app.idempotency_key(), attempt)
    if crash := o.get("crash"):
        first = not os.path.exists(gate(f"crashed-{run}"))
        open(gate(f"crashed-{run}"), "w").close()
        if crash == "always" or first:
            os.kill(os.getpid(), signal.SIGKILL)
    if "busy" in o:
        time.sleep(o["busy"] / 1000)
    if wait := o.get("ms", 0) + random.random() * o.get("jitter_ms", 0):
        await asyncio.sleep(wait / 1000)
    if "hold" in o:
        await passing(o["hold"])
    if attempt <= o.get("fail", 0) or ("fail_until" in o and not os.path.exists(gate(o["fail_until"]))):
        raise Flaky(f"flaky attempt {attempt}")
    note("end", run, place, attempt=attempt)
    return value


def declared(name, **policy):
    async def step(value):
        return await effect(value)

    return app.step(name=name, **policy)(step)


STEPS = {name: declared(name) for name in ("work", "charge", "ship")}
STEPS["thrice"] = declared("thrice", retry=Retry(max_attempts=3, initial=ms(1)))
STEPS["five"] = declared("five", retry=Retry(max_attempts=5, initial=ms(1)))
STEPS["backoff"] = declared("backoff", retry=Retry(max_attempts=3, initial=ms(2500), jitter=False))
STEPS["brief"] = declared("brief", timeout=ms(200))
STEPS["once"] = declared("once", at_most_once=True)


async def move(execute, account, amount):
    run, place, o = HERE.get()
    note("begin", run, place, attempt=app.attempt())
    await execute("insert into moved (run, step, account, amount) values ($1, $2, $3, $4)", run, place, account, amount)
    await execute("update accounts set balance = balance + $2 where id = $1", account, amount)
    if "hold" in o:
        await passing(o["hold"])
    if o.get("fail"):
        raise Flaky("the transaction fails")
    note("end", run, place, attempt=app.attempt())
    return amount


@app.transaction(name="pay")
async def pay(tx, account: int, amount: int) -> int:
    return await move(tx.execute, account, amount)


DRIVER = None
if CONFIG["store"] == "postgres":
    from psycopg_pool import AsyncConnectionPool

    DRIVER = AsyncConnectionPool(CONFIG["user_database"], min_size=0, open=False, check=AsyncConnectionPool.check_connection)

    @app.transaction(DRIVER, name="pay_driver", retry=Retry(max_attempts=5, initial=ms(10)))
    async def pay_driver(tx, account: int, amount: int) -> int:
        async def execute(sql, *values):
            await tx.execute("".join(c if not c.isdigit() else "" for c in sql.replace("$", "%s")), values)

        return await move(execute, account, amount)


class Interpreter:
    def __init__(self, run):
        self.run = run

    async def program(self, program, place=""):
        return [await self.one(instruction, f"{place}{i}") for i, instruction in enumerate(program)]

    def branch(self, place, i, program):
        return lambda: self.program(program, f"{place}/{i}.")

    async def recorded(self, call, place, detail="-"):
        try:
            value = await call
        except Exception:
            note("nack", self.run, place)
            raise
        note("ack", self.run, place, detail)
        return value

    def step(self, place, value, o):
        HERE.set((self.run, place, o))
        return self.recorded(STEPS[o.get("as", "work")](value), place)

    async def one(self, instruction, place):
        op, *a = instruction
        o = a[-1] if a and isinstance(a[-1], dict) and op not in ("build",) else {}
        return await getattr(self, f"do_{op}")(place, o, *a)

    async def do_step(self, place, o, value, *_):
        return await self.step(place, value, o if len(_) else {})

    async def do_tx(self, place, o, account, amount, *_):
        HERE.set((self.run, place, o))
        return await self.recorded((pay_driver if o.get("driver") else pay)(account, amount), place, "tx")

    async def do_sleep(self, place, o, duration):
        note("sleep", self.run, place)
        await app.sleep(ms(duration))
        note("woke", self.run, place, duration)
        return duration

    async def do_all(self, place, o, *programs):
        return await app.all(*(self.branch(place, i, p) for i, p in enumerate(programs)))

    async def do_race(self, place, o, *programs):
        return await app.race(*(self.branch(place, i, p) for i, p in enumerate(programs)))

    async def do_any(self, place, o, *programs):
        return await app.any(*(self.branch(place, i, p) for i, p in enumerate(programs)))

    async def do_map(self, place, o, items, *_):
        numbered = list(enumerate(items))
        return await app.map(lambda item: self.step(f"{place}/{item[0]}", item[1], o), numbered)

    async def do_gather(self, place, o, *instructions):
        return list(await asyncio.gather(*(self.one(x, f"{place}.{i}") for i, x in enumerate(instructions))))

    async def do_first(self, place, o, instructions):
        order = []
        for coming in asyncio.as_completed([self.one(x, f"{place}.{i}") for i, x in enumerate(instructions)]):
            order.append(await coming)
        return order

    async def do_child(self, place, o, program, *_):
        id = o.get("id", f"{self.run}/{place}")
        run = await interpret.options(id=id, parent_close=o.get("policy", "cancel")).start(id, program)
        return await run.result() if o.get("wait", True) else run.key

    async def do_send(self, place, o, run, topic, value, *_):
        while True:
            try:
                await app.run(id=run).send(topic, value)
                return True
            except EverstepError as error:
                if error.code != "run_not_found" or not (o.get("wait") or o.get("optional")):
                    raise
                if o.get("optional"):
                    return False
                await app.sleep(ms(20))

    async def do_receive(self, place, o, topic, limit):
        value = await app.receive(topic, timeout=ms(limit))
        if value is not None:
            note("received", self.run, place, value)
        return "timeout" if value is None else value

    async def do_set(self, place, o, key, value):
        await app.set_event(key, value)
        return True

    async def do_event(self, place, o, run, key, limit):
        value = await app.run(id=run).get_event(key, timeout=ms(limit))
        return "timeout" if value is None else value

    async def do_value(self, place, o, which):
        note("value", self.run, place, str(await getattr(app, which)()).replace(" ", "T"))
        return which

    async def do_patch(self, place, o, name, after, before):
        return await self.program(after if app.patch(name) else before, f"{place}.")

    async def do_build(self, place, o, programs):
        return await self.program(programs[BUILD], f"{place}.")

    async def do_try(self, place, o, program):
        try:
            return await self.program(program, f"{place}.")
        except EverstepError as error:
            return {"error": error.code}
        except Flaky:
            return {"error": "flaky"}

    async def do_finally(self, place, o, program, clean_up):
        try:
            return await self.program(program, f"{place}.")
        finally:
            with app.shielded():
                await self.program(clean_up, f"{place}.f")

    async def do_repeat(self, place, o, n, program):
        return [await self.program(program, f"{place}.{i}.") for i in range(n)]

    async def do_log(self, place, o, text):
        app.logger.info(text)
        return text


@app.workflow(name="interpret")
async def interpret(id: str, program: list) -> list:
    return await Interpreter(id).program(program)


if os.environ.get("EVERSTEP_SUITE_WITHOUT") != "other":

    @app.workflow(name="other")
    async def other(id: str, program: list) -> list:
        return await Interpreter(id).program(program)
