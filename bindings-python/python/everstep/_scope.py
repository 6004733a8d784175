"""Where the calling code stands: which execution, which branch, inside which step."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import time
import types
import weakref
from typing import TYPE_CHECKING, Any

from ._cancels import send_cancel
from ._ops_gen import FLAG_SHIELDED

if TYPE_CHECKING:
    from ._engine import Engine

#: Where signals find a step that runs as a job of its own.
JOB = ("", -1)


class RunningStep:
    """A step's function while it runs: what a signal reaches."""

    __slots__ = ("attempt", "between", "cancel_sent", "event", "idempotency_key", "name", "seq", "shielded", "signal", "task")

    def __init__(self, name: str, seq: int, attempt: int, idempotency_key: str, task: asyncio.Task[Any] | None, flags: int = 0) -> None:
        self.name = name
        self.seq = seq
        self.attempt = attempt
        self.idempotency_key = idempotency_key
        self.task = task
        #: Clean-up: a cancel of the run lets it end.
        self.shielded = bool(flags & FLAG_SHIELDED)
        #: cancel | timeout | branch, once one came.
        self.signal: str | None = None
        self.event: threading.Event | None = None
        #: Whether the signal went on to the task as a cancel.
        self.cancel_sent = False
        #: A transaction between two tries of one attempt, whose time goes on.
        self.between = False

    @property
    def signalled(self) -> bool:
        return self.signal is not None

    def raise_signal(self, signal: str) -> None:
        if self.signal is None:
            self.signal = signal
            if self.event is not None:
                self.event.set()
            if self.task is not None:
                self.cancel_sent = True
                send_cancel(self.task)


class Execution:
    """One execution of one run in this process. `id` is what the engine calls it."""

    __slots__ = (
        "attempt",
        "attributes",
        "begun",
        "cancelled",
        "client",
        "deadline",
        "engine",
        "given_up",
        "id",
        "idempotency_key",
        "is_async",
        "name",
        "owner",
        "replaying",
        "run",
        "run_id",
        "running",
        "stopped",
        "tasks",
        "trace_parent",
        "turning",
        "unstarted",
        "warned",
    )

    def __init__(self, engine: Engine, client: Any, exec_id: int, frame: tuple[Any, ...], is_async: bool) -> None:
        padded = frame + (None,) * (11 - len(frame))
        self.engine = engine
        self.client = client
        self.id = exec_id
        self.run: str = padded[0]
        self.name: str = padded[1]
        self.attempt: int = padded[3]
        self.replaying: bool = bool(padded[4])
        self.run_id: str | None = padded[5]
        self.attributes: str | None = padded[7]
        self.trace_parent: str | None = padded[8]
        self.idempotency_key: str = padded[9]
        self.deadline: float | None = None if padded[10] is None else time.monotonic() + padded[10] / 1000
        self.is_async = is_async
        #: Why it has ended, once it has: nothing done from then on is recorded.
        self.stopped: str | None = None
        self.cancelled: tuple[str, str] | None = None
        self.warned = False
        #: A turn of it is on its way (asyncio).
        self.turning = False
        #: Answers to come to calls whose coroutines have not run yet (asyncio).
        self.begun: dict[int, asyncio.Future[tuple[Any, ...]]] = {}
        #: Tokens nobody waits for any more, whose answers are still to come (asyncio).
        self.given_up: set[int] = set()
        #: Coroutines of steps that have not started, by token (asyncio).
        self.unstarted: dict[int, weakref.ref[Any]] = {}
        #: Running steps by (branch, seq).
        self.running: dict[tuple[str, int], RunningStep] = {}
        #: Root and branch tasks (asyncio), so that a stop reaches all of them.
        self.tasks: set[asyncio.Task[Any]] = set()
        #: Thread that runs the main branch; branch threads of groups join it.
        self.owner: set[int] = set()

    def inside(self) -> bool:
        """Whether the calling code belongs to this execution."""
        scope = SCOPE.get()
        return scope is not None and scope.execution is self

    def stop(self, why: str) -> None:
        if self.stopped is None:
            self.stopped = why
            for step in list(self.running.values()):
                step.raise_signal("stop")
            for task in list(self.tasks):
                task.cancel()

    def signal(self, frame: tuple[Any, ...]) -> None:
        kind = frame[0]
        if kind == "cancel":
            self.cancelled = (str(frame[1] or ""), str(frame[2] or "") if len(frame) > 2 else "")
            for step in list(self.running.values()):
                if not step.shielded:
                    step.raise_signal("cancel")
        elif kind == "timeout":
            # A step that runs as a job of its own has no place in another run.
            step = self.running.get((frame[1], frame[2])) or self.running.get(JOB)
            if step is not None:
                step.raise_signal("timeout")
        elif kind == "branch":
            prefix: str = frame[1]
            for (branch, _), step in list(self.running.items()):
                if branch == prefix or branch.startswith(prefix + "/"):
                    step.raise_signal("branch")


class Scope:
    """Immutable; a branch, a step and a clean-up block each have their own."""

    __slots__ = ("branch", "execution", "flags", "step")

    def __init__(self, execution: Execution, branch: str, flags: int, step: RunningStep | None) -> None:
        self.execution = execution
        self.branch = branch
        self.flags = flags
        self.step = step


SCOPE: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("everstep_scope", default=None)

_locations: dict[tuple[types.CodeType, int], str] = {}


def location(depth: int = 1) -> str:
    """`file:line` of the caller's caller: for messages only, so the file as the program names it will do."""
    frame = sys._getframe(depth + 1)
    key = (frame.f_code, frame.f_lineno)
    found = _locations.get(key)
    if found is None:
        parts = frame.f_code.co_filename.replace("\\", "/").split("/")
        found = _locations[key] = f"{'/'.join(parts[-2:])}:{frame.f_lineno}"
    return found
