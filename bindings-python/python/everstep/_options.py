"""What callers say about steps and runs, as plain values; the engine checks them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
import functools
import json
import logging
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol, TypedDict, TypeVar

from ._errors_gen import ConfigInvalid, IdInvalid, PayloadInvalid
from ._times import microseconds_since_epoch, milliseconds

log = logging.getLogger("everstep")
T = TypeVar("T")
#: Where nobody says how many.
_ATTEMPTS = 5


def text(what: str, value: str) -> str:
    """Said here, where the parameter's name is known."""
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise IdInvalid(f"{what} is a str, not {type(value).__name__!r}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise IdInvalid(f"{what} holds a lone surrogate, which has no UTF-8 form") from None
    return value


def words(what: str, value: str | None) -> str | None:
    """A text that is no name: who asked, why, a message's idempotency key. None where it was not given."""
    if value is None:
        return None
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigInvalid(f"{what} is a str, not {type(value).__name__!r}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigInvalid(f"{what} holds a lone surrogate, which has no UTF-8 form") from None
    return value


def whole(what: str, value: Any) -> int:
    """A whole number of the 64 bits that the engine and both databases have."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigInvalid(f"{what} is an int, not {type(value).__name__!r}")
    if not -(2**63) <= value < 2**63:
        raise ConfigInvalid(f"{what} is a whole number of 64 bits, and this one has {value.bit_length()}")
    return value


def flag(what: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigInvalid(f"{what} is a bool, not {type(value).__name__!r}")


def listed(what: str, values: Iterable[T]) -> list[T]:
    try:
        each = iter(values)
    except TypeError:
        raise ConfigInvalid(f"{what}, not {type(values).__name__!r}") from None
    return list(each)  # what a generator of the program's raises is the program's


class Named(Protocol):
    """A declared workflow or step."""

    @property
    def name(self) -> str: ...


def name_of(what: str, target: str | Named) -> str:
    """Of a declared function, or the name itself. A plain function has none that the engine knows."""
    given: Any = target if isinstance(target, str) else getattr(target, "name", None)
    if not isinstance(given, str):
        raise ConfigInvalid(f"{what}: a declared function or its name is wanted, not {type(target).__name__!r}")
    return text(what, given)


@dataclasses.dataclass(frozen=True)
class Retry:
    """Attempts of a step or a run. With no policy there is one.

    What is left out is what was declared, where this one is given with a call or a start; else what is said here. An attempt that a crash cut short is
    none that failed: it is made again, with or without a policy.
    """

    #: 5.
    max_attempts: int | None = None
    #: Before the second attempt: 1 s.
    initial: dt.timedelta | None = None
    #: So many times the wait before, from one attempt to the next: 2.
    factor: float | None = None
    #: No wait is longer: 1 min.
    max_interval: dt.timedelta | None = None
    #: Full: a random part of the wait. True.
    jitter: bool | None = None
    #: Errors of these types are final, with those that were declared.
    non_retryable: tuple[type[BaseException], ...] = ()
    #: Asked for every other error; False is final.
    retry_if: Callable[[BaseException], bool] | None = None

    def __post_init__(self) -> None:
        if self.max_attempts is not None and whole("max_attempts", self.max_attempts) < 1:
            raise ConfigInvalid("max_attempts is a whole number of at least 1")
        if self.factor is not None:
            number = isinstance(self.factor, (int, float)) and not isinstance(self.factor, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
            if not number or not 1 <= self.factor <= sys.float_info.max:
                raise ConfigInvalid("factor is a finite number of at least 1")
        for interval in (self.initial, self.max_interval):
            if interval is not None:
                milliseconds(interval)
        if self.jitter is not None:
            flag("jitter", self.jitter)
        given: Any = self.non_retryable
        kinds: list[Any] = [given] if isinstance(given, type) else listed("non_retryable is a tuple of exception types", given)
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
            raise ConfigInvalid("non_retryable is a tuple of exception types")
        object.__setattr__(self, "non_retryable", tuple(kinds))
        if self.retry_if is not None and not callable(self.retry_if):
            raise ConfigInvalid(f"retry_if is a function, not {type(self.retry_if).__name__!r}")

    def over(self, declared: Retry | None) -> Retry:
        """This, with what was declared where it says nothing. What was declared final stays final."""
        if declared is None:
            # Said, not left to the engine: to it a policy without attempts that comes with a timeout is there for the timeout.
            return self if self.max_attempts is not None else dataclasses.replace(self, max_attempts=_ATTEMPTS)
        said = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if getattr(self, field.name) is not None}
        return dataclasses.replace(declared, **{**said, "non_retryable": (*declared.non_retryable, *self.non_retryable)})

    def allows(self, error: BaseException) -> bool:
        """Whether another attempt may follow this error."""
        if isinstance(error, self.non_retryable):
            return False
        if self.retry_if is None:
            return True
        try:
            return bool(self.retry_if(error))
        except Exception:
            # The step's own error is what has to be recorded.
            log.exception("retry_if failed; the error it was asked about is final")
            return False


def declared_retry(retry: Any) -> Retry | None:
    if retry is None:
        return None
    if not isinstance(retry, Retry):
        raise ConfigInvalid(f"retry is a Retry, for example Retry(max_attempts=5), not {type(retry).__name__!r}")
    return retry.over(None)


def check_travels(retry: Retry | None) -> None:
    """A start is a row that any process of any language may run: functions and classes have no place in it, and to drop them would retry what is final."""
    if retry is not None and (retry.non_retryable or retry.retry_if is not None):
        raise ConfigInvalid("non_retryable and retry_if are not for a start, they cannot travel with it: say them where the function is declared, retry=")


@dataclasses.dataclass(frozen=True)
class Dedup:
    """At most one run per key in the scope."""

    key: str
    #: "queued": until it is claimed; "until_done": until it has ended; a `timedelta`: that long from the start.
    scope: Literal["queued", "until_done"] | dt.timedelta = "until_done"
    #: Of another start with the key: the handle of the run that holds it, the error `run_deduplicated`, or its place, if it has not been claimed yet
    #: (else that error).
    policy: Literal["attach", "reject", "replace"] = "attach"

    def __post_init__(self) -> None:
        text("the key of a Dedup", self.key)
        # None is "not said", as in every option.
        if self.scope not in ("queued", "until_done", None):
            if isinstance(self.scope, str):
                raise ConfigInvalid(f"the scope of a Dedup is 'queued', 'until_done' or a timedelta, not {self.scope!r}")
            milliseconds(self.scope)
        if self.policy not in ("attach", "reject", "replace", None):
            raise ConfigInvalid(f"the policy of a Dedup is 'attach', 'reject' or 'replace', not {self.policy!r}")


class StartOptions(TypedDict, total=False):
    """Keywords of `options(..)`. They come before the arguments of the function itself, whose own keywords stay its own.

    `id`: 1 to 255 bytes of UTF-8 without control characters; a second start with it attaches to the first run. `queue`: a declared one; none: this
    process, within its slots. `label`: only workers of this label. `priority`: the lowest number starts first, 0 by default. `delay`, `start_at` (with a
    time zone): not before. `expires`: if not started so long after, it is cancelled. `deadline`: so long after its start it is cancelled, with its
    children. `attributes`: what `runs(..)` filters by. `fairness_key`: what a queue's `key_limit` counts by, and nothing else. `dedup`: one run a key.
    `on_finish`: a workflow started with the outcome, a `Finished`, in the commit that ends the run.

    `retry`: of a job, or of the whole workflow, which then goes on at the step that failed; `timeout`: of one attempt of a job. What they say is laid
    over what the function was declared with. `non_retryable` and `retry_if` cannot travel with a start: declare them.

    `version`, `cost`, `created_by`: stored with the run and shown in its status; a version pins it to no build, a cost is for later. `trace_parent`,
    `trace_state`: W3C trace context, for `app.trace_parent()` inside the run. `reuse_purged`: start anew although retention has removed a run of this id.
    `unchecked`: start it although no worker knows this name and it is nearly one that is known. `parent_close`: what happens to a child that is still
    open when its parent ends, however it ends; "cancel" by default.
    """

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


def run_options(given: StartOptions | StepOptions, known: type[StartOptions] | type[StepOptions] = StartOptions) -> RunOptions:
    hints = _hints(known)
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name, value in values.items():
        if name not in hints:
            close = difflib.get_close_matches(name, hints, n=1)
            raise ConfigInvalid(f"no such option: {name}.{f' Did you mean {close[0]}?' if close else ''}")
        _check(name, value, hints[name])
    values.pop("key", None)
    if "on_finish" in values:
        values["on_finish"] = name_of("option on_finish", values["on_finish"])
    return RunOptions(**values)


@functools.cache
def _hints(known: type[StartOptions] | type[StepOptions]) -> dict[str, Any]:
    return typing.get_type_hints(known)


def _check(name: str, value: Any, hint: Any) -> None:
    """By the annotation, before anything is encoded: nothing below could say which option it was."""
    origin = typing.get_origin(hint) or hint
    if origin is Literal:
        fits = value in typing.get_args(hint)
        wanted = " or ".join(map(repr, typing.get_args(hint)))
    elif isinstance(origin, type) and origin is not types.UnionType:
        fits = isinstance(value, origin) and not (isinstance(value, bool) and origin is int)
        wanted = origin.__name__
    else:
        return  # `on_finish`: see `name_of`
    if not fits:
        raise ConfigInvalid(f"option {name}: {wanted} is wanted, not {value if origin is Literal else type(value).__name__!r}")
    if isinstance(value, str):
        text(f"option {name}", value)
    elif origin is int:
        whole(f"option {name}", value)


def policy_record(retry: Retry | None, timeout: dt.timedelta | None, at_most_once: bool) -> tuple[Any, ...] | None:
    """RETRY of `ops.toml`; None where everything is the default."""
    if retry is None and timeout is None and not at_most_once:
        return None
    limit = None if timeout is None else milliseconds(timeout)
    # What was not said is left open: a start's record is laid over what the function was declared with.
    once = True if at_most_once else None
    if retry is None:
        return (None, None, None, None, None, limit, once)
    initial, longest = (None if interval is None else milliseconds(interval) for interval in (retry.initial, retry.max_interval))
    factor = None if retry.factor is None else float(retry.factor)
    return (retry.max_attempts, initial, factor, longest, retry.jitter, limit, once)


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
            _attributes(self.attributes),
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


def _attributes(values: Mapping[str, Any] | None) -> str | None:
    if not values:
        return None
    for name, value in values.items():
        attribute(name, value)
    return json.dumps(dict(values), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def attribute(name: Any, value: Any) -> None:
    """Attributes are what runs are looked up by: scalars of JSON under a text. No value in the message, as everywhere."""
    if not isinstance(name, str):
        raise PayloadInvalid(f"the name of an attribute is a str, not {type(name).__name__!r}")
    if not isinstance(value, (str, int, float, bool)) or (isinstance(value, float) and not math.isfinite(value)):
        kind = "a number without a value" if isinstance(value, float) else repr(type(value).__name__)
        raise PayloadInvalid(f"attribute {_shown(name)} is a str, a finite number or a bool, not {kind}")
    for part in (name, value):
        if isinstance(part, str) and part.encode("utf-8", "ignore").decode("utf-8") != part:
            raise PayloadInvalid(f"attribute {_shown(name)} holds a lone surrogate, which has no UTF-8 form")


def _shown(name: str) -> str:
    return repr(name.encode("utf-8", "replace").decode("utf-8"))


def _point(value: dt.datetime) -> int:
    try:
        return microseconds_since_epoch(value)
    except ValueError as error:
        raise ConfigInvalid(str(error)) from None
