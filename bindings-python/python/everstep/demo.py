"""`python -m everstep demo`: a checkout whose process is killed in step four; another process finishes it.

Everything happens in a temporary folder on SQLite. The processes are real, the kill is SIGKILL, and the timeline is read back from the database
and from a side file that each step appends to, so that a step that ran twice would show.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone

from . import Everstep

RUN_ID = "order-1042"
_STEPS = ("reserve_stock", "charge_card", "print_label", "send_mail", "close_order")


@dataclasses.dataclass
class Order:
    number: int
    item: str
    cents: int


@dataclasses.dataclass
class Receipt:
    order: Order
    payment: str
    label: str


def application(folder: pathlib.Path) -> Everstep:
    """The program both processes run."""
    app = Everstep(f"sqlite:{folder / 'demo.db'}")
    diary = folder / "diary.txt"

    def note(step: str) -> None:
        with diary.open("a", encoding="utf-8") as file:
            file.write(f"{step} {app.attempt()} {os.getpid()} {time.time()} {app.idempotency_key()}\n")

    @app.step
    def reserve_stock(order: Order) -> int:
        note("reserve_stock")
        return 1

    @app.step
    def charge_card(order: Order) -> str:
        note("charge_card")
        return f"payment for {order.cents} cents"

    @app.step
    def print_label(order: Order) -> str:
        note("print_label")
        return f"label {order.number}"

    @app.step
    def send_mail(order: Order, payment: str, label: str) -> None:
        note("send_mail")
        if os.environ.get("EVERSTEP_DEMO_STALL"):
            time.sleep(600)  # the process is killed here

    @app.step
    def close_order(order: Order) -> None:
        note("close_order")

    @app.workflow
    def checkout(order: Order) -> Receipt:
        reserve_stock(order)
        payment = charge_card(order)
        label = print_label(order)
        send_mail(order, payment, label)
        close_order(order)
        return Receipt(order, payment, label)

    del checkout
    return app


def worker(folder: pathlib.Path) -> None:
    """One process: starts the run, or attaches to it, and waits for its end."""
    app = application(folder)
    with app:
        checkout = app.reference("checkout", returns=Receipt)
        run = checkout.options(id=RUN_ID).start(Order(1042, "lamp", 4900))
        print(run.result(timeout=timedelta(minutes=2)).label, flush=True)


def _process(folder: pathlib.Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "everstep", "demo", "--worker", str(folder)]
    return subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)


def _entries(folder: pathlib.Path) -> list[list[str]]:
    diary = folder / "diary.txt"
    return [line.split() for line in diary.read_text("utf-8").splitlines()] if diary.exists() else []


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="everstep-demo-") as name:
        return _play(pathlib.Path(name))


def _play(folder: pathlib.Path) -> int:
    first = _process(folder, EVERSTEP_DEMO_STALL="1")
    print(f"process {first.pid} runs checkout {RUN_ID!r} on {folder / 'demo.db'}")
    deadline = time.monotonic() + 60
    while not any(entry[0] == "send_mail" for entry in _entries(folder)):
        if first.poll() is not None or time.monotonic() > deadline:
            print("the first process ended before step four", file=sys.stderr)
            return 1
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    killed = time.time()
    print(f"process {first.pid} killed with SIGKILL inside step four (send_mail)")
    second = _process(folder)
    print(f"process {second.pid} started on the same file")
    output, _ = second.communicate(timeout=120)
    if second.returncode != 0:
        print("the second process failed", file=sys.stderr)
        return 1
    return _report(folder, output.strip(), killed)


def _report(folder: pathlib.Path, label: str, killed: float) -> int:
    entries = _entries(folder)
    start = float(entries[0][3])
    print(f"\n{'step':<14}{'attempt':>8}{'process':>10}{'time':>12}   idempotency key")
    marked = False
    for step, attempt, pid, at, key in entries:
        if not marked and float(at) > killed:
            print(f"{'- SIGKILL -':<14}{'':>8}{'':>10}{(killed - start) * 1000:>9.0f} ms")
            marked = True
        print(f"{step:<14}{attempt:>8}{pid:>10}{(float(at) - start) * 1000:>9.0f} ms   {key}")
    ran = {step: sum(entry[0] == step for entry in entries) for step in _STEPS}
    app = Everstep(f"sqlite:{folder / 'demo.db'}", role="client")
    try:
        run = app.run(RUN_ID)
        status, recorded = run.status(), [step.name for step in run.steps()]
    finally:
        app.close()
    stamp = datetime.now(timezone.utc).strftime("%H:%M:%S")
    print(f"\n{stamp} run {RUN_ID}: {status.state}, recorded {', '.join(recorded)}; result {label!r}")
    once = all(ran[step] == 1 for step in _STEPS[:3]) and ran["close_order"] == 1
    same_key = len({entry[4] for entry in entries if entry[0] == "send_mail"}) == 1
    good = once and same_key and ran["send_mail"] == 2 and status.state == "succeeded" and recorded == list(_STEPS)
    if good:
        print("steps one to three ran once; step four was cut short and ran again with the same idempotency key")
    else:
        print(f"not as it should be: {ran}", file=sys.stderr)
    return 0 if good else 1
