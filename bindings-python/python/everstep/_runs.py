"""What is known about runs, steps and queues, as plain values."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Iterable, Mapping
from typing import Any, Generic, Literal, TypedDict, TypeVar

from ._errors_gen import ConfigInvalid
from ._ops_gen import QUEUE, RUN, STEP
from ._options import attribute as check_attribute
from ._options import flag, listed, text, whole, words
from ._times import from_microseconds

T = TypeVar("T")
State = Literal["ready", "running", "waiting", "cancelling", "blocked", "succeeded", "failed", "cancelled"]
#: What a control call did.
CancelOutcome = Literal["cancelled", "requested", "already_finished"]
ResumeOutcome = Literal["resumed", "not_possible"]


def _when(value: Any) -> dt.datetime | None:
    return None if value is None else from_microseconds(value)


class Finished(TypedDict):
    """What a workflow named by `on_finish` is started with: as its one parameter, or, field by field, where it has parameters of these names."""

    #: Key of the run that has ended.
    run: str
    #: Its workflow, or its step where it was a job.
    workflow: str
    state: Literal["succeeded", "failed", "cancelled"]
    #: What it returned; of one that did not succeed its error: a dict of type, code, message, stack, cause, details, retryable.
    value: Any


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """A run as the database has it now."""

    #: A uuid: the engine's own, or made of the id.
    key: str
    #: What `options(id=..)` gave.
    id: str | None
    workflow: str
    state: State
    #: What `options(version=..)` gave; stored and shown, it pins nothing.
    version: str | None
    #: None: it runs in the process that started it, or in any worker once that is gone.
    queue: str | None
    #: Only workers of this label run it.
    label: str | None
    #: Grows at every claim, wake, release, takeover, cancel, resume and rewind: (owner, epoch) names one execution.
    epoch: int
    #: The lowest number starts first.
    priority: int
    #: Takeovers from workers that died without anything having been recorded since the one before; at 5 the run is blocked.
    crashes: int
    #: Which attempt of the whole run this is, from 1.
    attempt: int
    #: The worker that has it, with its host and its process there; None where nobody does.
    owner: str | None
    owner_host: str | None
    owner_pid: int | None
    #: Key of the run that started this one as a child.
    parent: str | None
    #: Key of the first of them all; a run without a parent is its own root.
    root: str
    #: Key of the run this one is a copy of.
    forked_from: str | None
    attributes: Mapping[str, str | int | float | bool]
    #: What the `key_limit` of its queue counts by.
    fairness_key: str | None
    #: Stored for later; nothing acts on it yet.
    cost: int
    #: Who started it, as `options(created_by=..)` said.
    created_by: str | None
    created_at: dt.datetime
    finished_at: dt.datetime | None
    #: Not before: of a `delay` or `start_at`.
    start_at: dt.datetime | None
    #: It is cancelled then.
    deadline_at: dt.datetime | None
    #: It is cancelled if it has not been started by then.
    expires_at: dt.datetime | None
    #: Of the error a failed run ended with.
    error_type: str | None
    error_message: str | None
    #: Of a cancel that was asked for.
    cancel_by: str | None
    cancel_why: str | None
    #: What is wrong with a blocked run, and what to do.
    blocked_why: str | None
    #: What it waits for, in words.
    waits_for: tuple[str, ...]
    #: Every recorded call, waits and messages too.
    steps_recorded: int
    #: W3C trace context it was started with.
    trace_parent: str | None
    trace_state: str | None


def run_info(record: Iterable[Any]) -> RunInfo:
    fields = _named(RUN, record)
    waits: Any = fields["waits_for"] or ()
    return RunInfo(
        key=fields["run"],
        id=fields["id"],
        workflow=fields["workflow"],
        state=fields["state"],
        version=fields["version"],
        queue=fields["queue"] or None,
        label=fields["label"] or None,
        epoch=fields["epoch"],
        priority=fields["priority"],
        crashes=fields["crashes"],
        attempt=fields["attempt"],
        owner=fields["owner"],
        owner_host=fields["owner_host"],
        owner_pid=fields["owner_pid"],
        parent=fields["parent"],
        root=fields["root"],
        forked_from=fields["forked_from"],
        attributes=json.loads(fields["attributes"]) if fields["attributes"] else {},
        fairness_key=fields["fairness_key"],
        cost=fields["cost"],
        created_by=fields["created_by"],
        created_at=from_microseconds(fields["created_at_us"]),
        finished_at=_when(fields["finished_at_us"]),
        start_at=_when(fields["start_at_us"]),
        deadline_at=_when(fields["deadline_at_us"]),
        expires_at=_when(fields["expires_at_us"]),
        error_type=fields["error_type"],
        error_message=fields["error_message"],
        cancel_by=fields["cancel_by"],
        cancel_why=fields["cancel_why"],
        blocked_why=fields["blocked_why"],
        waits_for=tuple(item if isinstance(item, str) else " ".join(str(part) for part in item if part is not None) for item in waits),
        steps_recorded=fields["steps_recorded"] or 0,
        trace_parent=fields["trace_parent"],
        trace_state=fields["trace_state"],
    )


@dataclasses.dataclass(frozen=True)
class StepInfo:
    """One recorded call of a run."""

    #: Path of the branch it was called in; "" is the workflow's own.
    branch: str
    #: Which call of its branch, in program order: what `rewind` takes.
    seq: int
    #: Which part of a run that was rewound or continued.
    segment: int
    #: step, transaction, sleep, receive, send, event, child and so on.
    kind: str
    #: A step's; of other calls the topic, the key of the event, the workflow.
    name: str
    #: `folder/file.py:line` of the call.
    location: str
    failed: bool
    #: The one that was recorded, from 1.
    attempt: int
    #: Its number in the order the run's calls completed in, from 0.
    done: int
    took: dt.timedelta
    recorded_at: dt.datetime
    #: The worker that recorded it, with its host and its process there.
    written_by: str
    host: str | None
    pid: int | None
    #: The recorded payload, encoded; None where there is none.
    output: bytes | None
    #: Of the execution it was recorded in.
    epoch: int


def step_info(record: Iterable[Any]) -> StepInfo:
    fields = _named(STEP, record)
    took = dt.timedelta(microseconds=fields.pop("took_us"))
    recorded_at = from_microseconds(fields.pop("recorded_at_us"))
    return StepInfo(**fields, took=took, recorded_at=recorded_at)


@dataclasses.dataclass(frozen=True)
class QueueInfo:
    """A queue as the fleet sees it."""

    name: str
    #: Nothing is claimed from it; what runs goes on.
    paused: bool = False
    #: Runs of it at once, in the whole fleet.
    limit: int | None = None
    #: Runs of it at once, in one worker.
    worker_limit: int | None = None
    #: Runs of it at once that have the same `fairness_key`.
    key_limit: int | None = None
    #: A released run keeps its slot, so a limit of 1 is a mutex.
    hold: bool = False

    def record(self) -> tuple[Any, ...]:
        """QUEUE of `ops.toml`."""
        text("the name of a queue", self.name)
        for name in ("limit", "worker_limit", "key_limit"):
            value = getattr(self, name)
            if value is not None:
                whole(f"queue {self.name!r}: {name}", value)
        for name in ("paused", "hold"):
            value = getattr(self, name)
            if value is not None:
                flag(f"queue {self.name!r}: {name}", value)
        return tuple(getattr(self, name) for name in QUEUE)


def queue_info(record: Iterable[Any]) -> QueueInfo:
    return QueueInfo(**_named(QUEUE, record))


@dataclasses.dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list; `next` is the `after` of the next one."""

    items: list[T]
    next: str | None


def filter_record(
    states: State | Iterable[State] | None,
    workflow: str | None,
    queue: str | None,
    parent: str | None,
    attribute: tuple[str, str | int | float | bool] | None,
    created_from: int | None,
    created_before: int | None,
    after: str | None,
    limit: int,
) -> list[Any]:
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= 1000:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigInvalid("limit is 1 to 1000")
    wanted = [states] if isinstance(states, str) else None if states is None else listed("states is a state, or a list of them", states)
    if wanted is not None and not all(isinstance(state, str) for state in wanted):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigInvalid("states is a state, or a list of them")
    for what, given in (("workflow", workflow), ("queue", queue), ("after", after)):
        words(what, given)
    name, value = None, None
    if attribute is not None:
        if not isinstance(attribute, (tuple, list)) or len(attribute) != 2:  # pyright: ignore[reportUnnecessaryIsInstance, reportUnnecessaryComparison]
            raise ConfigInvalid("attribute is a pair: (name, value)")
        check_attribute(*attribute)
        name, value = attribute[0], json.dumps(attribute[1], ensure_ascii=False)
    return [wanted, workflow, queue, parent, name, value, created_from, created_before, after, limit]


def _named(names: tuple[str, ...], record: Iterable[Any]) -> dict[str, Any]:
    values = list(record)
    values += [None] * (len(names) - len(values))
    return dict(zip(names, values, strict=False))
