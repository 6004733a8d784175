"""The Everstep side: one run a file. Three steps: count it, add it to the running total, tell the provider."""

from __future__ import annotations

import os

from work import Counted, call_provider, count

from everstep import Everstep, Run, Transaction

DATABASE = os.environ["DEMO_DATABASE"]
PROVIDER_PORT = int(os.environ.get("DEMO_PROVIDER_PORT", "0"))
QUEUE = "files"

TABLES = [
    "create table total (files integer not null, lines integer not null, tokens integer not null)",
    "create table seen (path text primary key, times integer not null)",
    "insert into total values (0, 0, 0)",
]

app = Everstep(DATABASE, role="client" if os.environ.get("DEMO_ROLE") == "client" else "worker")
app.queue(QUEUE)


@app.step
def count_file(path: str) -> Counted:
    return count(path)


@app.transaction
def add_to_total(tx: Transaction, path: str, lines: int, tokens: int) -> None:
    # It adds on purpose: done twice, the total is wrong.
    tx.execute("update total set files = files + 1, lines = lines + $1, tokens = tokens + $2", lines, tokens)
    tx.execute("insert into seen values ($1, 1) on conflict (path) do update set times = times + 1", path)


@app.step
def tell_provider(path: str) -> str:
    return call_provider(PROVIDER_PORT, app.idempotency_key(), path)


@app.workflow
def process(path: str) -> str:
    counted = count_file(path)
    add_to_total(path, counted.lines, counted.tokens)
    return tell_provider(path)


def start_all(paths: list[str]) -> list[Run[str]]:
    return process.options(queue=QUEUE).start_many(paths, id=str)
