"""Dates, times and durations as payload text. `fromisoformat` of Python 3.10 reads neither `Z` nor fractions of other lengths, hence our own."""

from __future__ import annotations

import datetime as dt
import re

from ._errors_gen import ConfigInvalid

_DATETIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:(Z)|([+-])(\d\d):(\d\d))?", re.ASCII)
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)", re.ASCII)
_DURATION = re.compile(r"(-)?PT(?:(\d+)(?:\.(\d{1,9}))?)S", re.ASCII)


def write_datetime(value: dt.datetime) -> str:
    text = value.strftime("%Y-%m-%dT%H:%M:%S") if value.year >= 1000 else value.replace(microsecond=0, tzinfo=None).isoformat()
    if value.microsecond:
        text += f".{value.microsecond:06d}".rstrip("0")
    offset = value.utcoffset()
    if offset is None:
        return text
    # RFC 3339 knows offsets of whole minutes; the instant counts, so an odd one (local mean time) is written in UTC.
    if not offset or offset % dt.timedelta(minutes=1):
        return text + "Z" if not offset else write_datetime(value.astimezone(dt.timezone.utc))
    minutes = int(offset.total_seconds() // 60)
    return f"{text}{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def read_datetime(text: str) -> dt.datetime:
    match = _DATETIME.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 date-time")
    year, month, day, hour, minute, second, fraction, utc, sign, offset_hours, offset_minutes = match.groups()
    zone: dt.timezone | None = None
    if utc:
        zone = dt.timezone.utc
    elif sign:
        offset = dt.timedelta(hours=int(offset_hours), minutes=int(offset_minutes))
        zone = dt.timezone(-offset if sign == "-" else offset)
    microsecond = int((fraction or "0").ljust(6, "0")[:6])
    return dt.datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), microsecond, zone)


def read_date(text: str) -> dt.date:
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError("not a date")
    return dt.date(int(match[1]), int(match[2]), int(match[3]))


def write_duration(value: dt.timedelta) -> str:
    """ISO 8601 in seconds: what a reader in another language can parse without a calendar."""
    sign = "-" if value < dt.timedelta(0) else ""
    value = abs(value)
    fraction = f".{value.microseconds:06d}".rstrip("0") if value.microseconds else ""
    return f"{sign}PT{value.days * 86400 + value.seconds}{fraction}S"


def read_duration(text: str) -> dt.timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"not a duration in seconds: {text!r}")
    value = dt.timedelta(seconds=int(match[2]), microseconds=int((match[3] or "0").ljust(6, "0")[:6]))
    return -value if match[1] else value


def milliseconds(value: dt.timedelta) -> int:
    """Rounded up: a wait is never shorter than asked for."""
    if not isinstance(value, dt.timedelta):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigInvalid(f"a duration is a timedelta, not {type(value).__name__}: timedelta(seconds={value!r})")
    return (value.days * 86_400 + value.seconds) * 1000 - -value.microseconds // 1000


def microseconds_since_epoch(value: dt.datetime) -> int:
    if not isinstance(value, dt.datetime):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"a point in time is a datetime, not {type(value).__name__}")
    if value.tzinfo is None:
        raise ValueError("a point in time needs a time zone, for example datetime.now(timezone.utc)")
    return (value - dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)) // dt.timedelta(microseconds=1)


def from_microseconds(value: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc) + dt.timedelta(microseconds=value)
