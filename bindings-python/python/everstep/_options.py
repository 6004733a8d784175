"""What callers say about steps and runs, as plain values; the engine checks them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypedDict

from ._errors_gen import ConfigInvalid
from ._times import microseconds_since_epoch, milliseconds


class Named(Protocol):
    """A declared workflow or step."""

    @property
    def name(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class Retry:
    """Attempts of a step or a run. With no policy there is one."""

    max_attempts: int = 5
    initial: dt.timedelta = dt.timedelta(seconds=1)
    factor: float = 2.0
    max_interval: dt.timedelta = dt.timedelta(minutes=1)
    jitter: bool = True
    #: Errors of these types are final.
    non_retryable: tuple[type[BaseException], ...] = ()
    #: Asked for every other error; False is final.
    retry_if: Callable[[BaseException], bool] | None = None

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigInvalid("max_attempts is at least 1")

    def allows(self, error: BaseException) -> bool:
        if isinstance(error, self.non_retryable):
            return False
        return self.retry_if is None or self.retry_if(error)


@dataclasses.dataclass(frozen=True)
class Dedup:
    """At most one run per key in the scope. A `timedelta` as scope: that long from the start."""

    key: str
    scope: Literal["queued", "until_done"] | dt.timedelta = "until_done"
    policy: Literal["attach", "reject", "replace"] = "attach"


class StartOptions(TypedDict, total=False):
    """Keywords of `options(..)`. They come before the arguments of the function itself, whose own keywords stay its own."""

    id: str
    queue: str
    label: str
    priority: int
    delay: dt.timedelta
    start_at: dt.datetime
    expires: dt.timedelta
    deadline: dt.timedelta
    version: str
    attributes: Mapping[str, str | int | float | bool]
    fairness_key: str
    cost: int
    created_by: str
    dedup: Dedup
    retry: Retry
    timeout: dt.timedelta
    on_finish: str | Named
    trace_parent: str
    trace_state: str
    reuse_purged: bool
    unchecked: bool
    parent_close: Literal["cancel", "abandon"]


class StepOptions(StartOptions, total=False):
    """`key` tells same-named calls of one branch apart; the others apply when the step is started as a job."""

    key: str


def run_options(given: StartOptions | StepOptions) -> RunOptions:
    values: dict[str, Any] = {name: value for name, value in given.items() if name != "key" and value is not None}
    target: Any = values.get("on_finish")
    if target is not None and not isinstance(target, str):
        values["on_finish"] = target.name
    unknown = values.keys() - RunOptions.__dataclass_fields__.keys()
    if unknown:
        raise ConfigInvalid(f"no such option: {', '.join(sorted(unknown))}")
    return RunOptions(**values)


def policy_record(retry: Retry | None, timeout: dt.timedelta | None, at_most_once: bool) -> tuple[Any, ...] | None:
    """RETRY of `ops.toml`; None where everything is the default."""
    if retry is None and timeout is None and not at_most_once:
        return None
    limit = None if timeout is None else milliseconds(timeout)
    if retry is None:
        return (None, None, None, None, None, limit, at_most_once)
    head = (retry.max_attempts, milliseconds(retry.initial), float(retry.factor), milliseconds(retry.max_interval), retry.jitter)
    return (*head, limit, at_most_once)


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """RUN_OPTIONS of `ops.toml` in Python's terms."""

    id: str | None = None
    queue: str | None = None
    label: str | None = None
    priority: int | None = None
    delay: dt.timedelta | None = None
    start_at: dt.datetime | None = None
    expires: dt.timedelta | None = None
    deadline: dt.timedelta | None = None
    version: str | None = None
    attributes: Mapping[str, str | int | float | bool] | None = None
    fairness_key: str | None = None
    cost: int | None = None
    created_by: str | None = None
    dedup: Dedup | None = None
    retry: Retry | None = None
    timeout: dt.timedelta | None = None
    at_most_once: bool = False
    on_finish: str | None = None
    trace_parent: str | None = None
    trace_state: str | None = None
    reuse_purged: bool = False
    unchecked: bool = False
    parent_close: Literal["cancel", "abandon"] | None = None

    def record(self) -> list[Any] | None:
        scope: Any = None if self.dedup is None else self.dedup.scope
        ttl = milliseconds(scope) if isinstance(scope, dt.timedelta) else None
        values: list[Any] = [
            self.id,
            self.queue,
            self.label,
            self.priority,
            None if self.delay is None else milliseconds(self.delay),
            None if self.start_at is None else _point(self.start_at),
            None if self.expires is None else milliseconds(self.expires),
            None if self.deadline is None else milliseconds(self.deadline),
            self.version,
            None if not self.attributes else json.dumps(dict(self.attributes), ensure_ascii=False, separators=(",", ":"), allow_nan=False),
            self.fairness_key,
            self.cost,
            self.created_by,
            None if self.dedup is None else self.dedup.key,
            None if self.dedup is None else "ttl" if ttl is not None else scope,
            None if self.dedup is None else self.dedup.policy,
            ttl,
            policy_record(self.retry, self.timeout, self.at_most_once),
            self.on_finish,
            self.trace_parent,
            self.trace_state,
            True if self.reuse_purged else None,
            True if self.unchecked else None,
        ]
        while values and values[-1] is None:
            values.pop()
        return values or None


def _point(value: dt.datetime) -> int:
    try:
        return microseconds_since_epoch(value)
    except ValueError as error:
        raise ConfigInvalid(str(error)) from None
