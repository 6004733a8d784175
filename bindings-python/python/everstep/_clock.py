"""Waits, durable values, messages, events: the `begin_*` operations that run nothing of the user's. Each function returns what to ask for; the
two views ask it their way."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from . import _codec
from ._decoding import decoder_of
from ._errors_gen import ConfigInvalid, PayloadInvalid
from ._ops_gen import OP_BEGIN_EVENT, OP_BEGIN_SEND, OP_BEGIN_VALUE, OP_BEGIN_WAIT
from ._options import text as text
from ._options import words as words
from ._times import microseconds_since_epoch, milliseconds

Request = tuple[int, tuple[Any, ...]]


def sleep(duration: dt.timedelta, place: str) -> Request:
    return OP_BEGIN_WAIT, ("sleep", place, max(0, milliseconds(duration)))


def sleep_until(when: dt.datetime, place: str) -> Request:
    return OP_BEGIN_WAIT, ("sleep", place, None, point(when))


def receive(topic: str, timeout: dt.timedelta | None, place: str) -> Request:
    return OP_BEGIN_WAIT, ("receive", place, limit_ms(timeout), None, None, text("the topic", topic))


def event(run: str, key: str, timeout: dt.timedelta | None, place: str) -> Request:
    return OP_BEGIN_WAIT, ("event", place, limit_ms(timeout), None, run, text("the key of an event", key))


def result(run: str, timeout: dt.timedelta | None, place: str) -> Request:
    return OP_BEGIN_WAIT, ("result", place, limit_ms(timeout), None, run)


def value(which: Literal["now", "uuid", "random"], place: str) -> Request:
    return OP_BEGIN_VALUE, (which, place)


def send(run: str, topic: str, message: Any, idempotency_key: str | None, place: str) -> Request:
    return OP_BEGIN_SEND, (place, run, text("the topic", topic), _codec.encode(message), message_key(idempotency_key))


def message_key(given: str | None) -> str | None:
    return words("the idempotency key of a message", given)


def set_event(key: str, content: Any, place: str) -> Request:
    return OP_BEGIN_EVENT, (place, text("the key of an event", key), _codec.encode(content))


def limit_ms(timeout: dt.timedelta | None) -> int | None:
    return None if timeout is None else max(0, milliseconds(timeout))


def point(when: dt.datetime) -> int:
    try:
        return microseconds_since_epoch(when)
    except ValueError as error:
        raise ConfigInvalid(str(error)) from None


def read(data: bytes | None, returns: Any) -> Any:
    """A received value by the type asked for; None where the time was over."""
    if data is None:
        return None
    value = _codec.decode(data)
    try:
        return decoder_of(returns)(value)
    except PayloadInvalid as error:
        raise PayloadInvalid(f"what was received is not what returns= says: {error.message}") from error
