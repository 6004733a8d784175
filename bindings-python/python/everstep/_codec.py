"""Values to bytes and back: codec 1 of `core/docs/payload.md`.

Speed decides the shape. A scalar is written without any machinery; a container is lowered once to what JSON has (tags are plain objects by
then) and handed to the C encoder; reading goes straight through the C scanner unless the text holds a tag or a number beyond 2^53. Only
doubles that Python prints otherwise than RFC 8785 need the writer in Python at the end of this file.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import json
import json.encoder
import math
import os
import re
import uuid
import weakref
from collections.abc import Callable, Mapping, Set
from typing import Any

from . import _times
from ._annotations import is_local
from ._errors_gen import PayloadInvalid

MAX_SAFE = 9007199254740991
MAX_DEPTH = 128

_quote: Callable[[str], str] = json.encoder.encode_basestring
_c_make_encoder: Any = getattr(json.encoder, "c_make_encoder", None)
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?(E[+-]?[0-9]+)?", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]+", re.ASCII)
_LONG_NUMBER = re.compile(r"[0-9]{16}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _refuse(value: object) -> Any:
    raise PayloadInvalid(f"a value of type {type(value).__qualname__} cannot be encoded")


def _make_writer() -> Callable[[Any], str]:
    if _c_make_encoder is None:
        return json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_refuse, check_circular=False).encode
    chunks = _c_make_encoder(None, _refuse, json.encoder.encode_basestring, None, ":", ",", False, False, False)

    def write(tree: Any) -> str:
        return "".join(chunks(tree, 0))

    return write


_write = _make_writer()


class _Lowering:
    """One encode of a container. `plain` turns false when a double needs the writer in Python."""

    __slots__ = ("plain",)

    def __init__(self) -> None:
        self.plain = True

    def lower(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is str or kind is bool or value is None:
            return value
        if kind is int:
            return value if -MAX_SAFE <= value <= MAX_SAFE else {"$es": "int", "v": str(value)}
        if kind is float:
            return self._float(value)
        if depth >= MAX_DEPTH:
            raise PayloadInvalid(f"nested deeper than {MAX_DEPTH} levels, or a cycle")
        if kind is list or kind is tuple:
            lower = self.lower
            return [lower(item, depth + 1) for item in value]
        if kind is dict:
            return self._mapping(value, depth)
        special = _LOWER.get(kind) or _LOWER_LOCAL.get(kind)
        if special is None:
            special = _lowering_of(value)
            (_LOWER_LOCAL if is_local(kind) else _LOWER)[kind] = special
        return special(self, value, depth)

    def _float(self, value: float) -> Any:
        if value.is_integer():
            if -MAX_SAFE <= value <= MAX_SAFE and (value != 0 or math.copysign(1, value) > 0):
                return int(value)
        elif 1e-4 <= abs(value) < 1e16:
            return value
        if math.isfinite(value) and value != 0:
            self.plain = False
            return value
        return {"$es": "float", "v": "-0" if value == 0 else "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"}

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> Any:
        lower = self.lower
        out: dict[str, Any] = {}
        for key, item in value.items():
            if type(key) is not str:
                if isinstance(key, str):  # a str enum or another subclass: its text
                    key = str.__str__(key)
                else:
                    break
            if key == "$es" or key in out:
                break
            out[key] = lower(item, depth + 1)
        else:
            return out
        # The tag is an object, the list of pairs and each pair are lists: three levels more.
        pairs: list[Any] = []
        keys: set[bytes] = set()
        for key, item in value.items():
            lowered, written = self._written(key, depth + 3)
            if written in keys:
                # A multidict, or keys that are told apart here only (an enum's member and its value): one of them would be lost, and readers differ in which.
                raise PayloadInvalid(f"a {type(value).__qualname__} has two entries that are written with the same key")
            keys.add(written)
            pairs.append([lowered, lower(item, depth + 3)])
        return {"$es": "map", "v": pairs}

    def _set(self, value: Set[Any], depth: int) -> Any:
        written = sorted((text, index, lowered) for index, (lowered, text) in enumerate(self._written(item, depth + 2) for item in value))
        return {"$es": "set", "v": [lowered for _, _, lowered in written]}

    def _written(self, value: Any, depth: int) -> tuple[Any, bytes]:
        """The value lowered, once, and its bytes: lowered again for them, a set of sets would take twice the time for each of its levels."""
        inner = _Lowering()
        tree = inner.lower(value, depth)
        if not inner.plain:
            self.plain = False
        return tree, (_write(tree) if inner.plain else _write_slowly(tree)).encode("utf-8")


def _lower_decimal(_: _Lowering, value: decimal.Decimal, __: int) -> Any:
    if not value.is_finite():
        raise PayloadInvalid(f"the decimal {value} cannot be encoded")
    return {"$es": "dec", "v": str(value)}


def _lower_bytes(_: _Lowering, value: Any, __: int) -> Any:
    return {"$es": "bytes", "v": base64.b64encode(value).decode("ascii")}


def _lower_fields(names: tuple[tuple[str, str], ...]) -> Callable[[_Lowering, Any, int], Any]:
    def lower(lowering: _Lowering, value: Any, depth: int) -> Any:
        return lowering._mapping({name: getattr(value, attribute) for name, attribute in names}, depth)

    return lower


def _lowering_of(value: Any) -> Callable[[_Lowering, Any, int], Any]:
    """How to lower this type; asked once a type. Most specific first: an IntEnum is an int, a datetime is a date."""
    kind = type(value)
    if isinstance(value, enum.Enum):
        return lambda lowering, v, depth: lowering.lower(v.value, depth)
    if dataclasses.is_dataclass(value):
        return _lower_fields(tuple((field.name, field.name) for field in dataclasses.fields(value)))
    if hasattr(kind, "__pydantic_core_schema__") or hasattr(kind, "__pydantic_fields__"):
        # Without computed fields: they are no input, and a model that forbids extras would refuse its own record.
        return lambda lowering, v, depth: lowering.lower(v.model_dump(mode="python", by_alias=True, round_trip=True), depth)
    attrs_fields: Any = getattr(kind, "__attrs_attrs__", None)
    if attrs_fields is not None:
        return _lower_fields(tuple((field.name, field.name) for field in attrs_fields))
    if isinstance(value, dt.datetime):
        return lambda _, v, __: {"$es": "time", "v": _times.write_datetime(v)}
    if isinstance(value, dt.date):
        return lambda _, v, __: {"$es": "date", "v": v.isoformat()}
    if isinstance(value, dt.timedelta):
        return lambda _, v, __: _times.write_duration(v)
    if isinstance(value, dt.time):
        return lambda _, v, __: v.isoformat()
    if isinstance(value, decimal.Decimal):
        return _lower_decimal
    if isinstance(value, uuid.UUID):
        return lambda _, v, __: {"$es": "uuid", "v": str(v)}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _lower_bytes
    if isinstance(value, str):
        return lambda _, v, __: str.__str__(v)
    if isinstance(value, int):
        return lambda lowering, v, depth: lowering.lower(int(v), depth)
    if isinstance(value, float):
        return lambda lowering, v, depth: lowering.lower(float(v), depth)
    if kind.__module__ == "ipaddress" or any(base.__module__ == "pydantic.networks" and hasattr(base, "unicode_string") for base in kind.__mro__):
        return lambda _, v, __: str(v)
    if isinstance(value, os.PathLike):
        return lambda _, v, __: os.fspath(v)
    if isinstance(value, Set):
        return lambda lowering, v, depth: lowering._set(v, depth)
    if isinstance(value, Mapping):
        return lambda lowering, v, depth: lowering._mapping(v, depth)
    if isinstance(value, (list, tuple)):
        return lambda lowering, v, depth: lowering.lower(list(v), depth)
    return lambda _, v, __: _refuse(v)


_LOWER: dict[type, Callable[[_Lowering, Any, int], Any]] = {}
#: Of classes defined inside functions, which are not kept.
_LOWER_LOCAL: weakref.WeakKeyDictionary[type, Callable[[_Lowering, Any, int], Any]] = weakref.WeakKeyDictionary()


def encode(value: Any) -> bytes:
    """The bytes of `value`, or `PayloadInvalid`."""
    kind = type(value)
    try:
        if kind is str:
            return _quote(value).encode("utf-8")
        if value is None:
            return b"null"
        if kind is int and -MAX_SAFE <= value <= MAX_SAFE:
            return b"%d" % value
        lowering = _Lowering()
        tree = lowering.lower(value, 0)
        return (_write(tree) if lowering.plain else _write_slowly(tree)).encode("utf-8")
    except UnicodeEncodeError as error:
        raise PayloadInvalid("a string holds a lone surrogate, which has no UTF-8 form") from error
    except RecursionError as error:
        raise PayloadInvalid("nested too deep") from error
    except PayloadInvalid as error:
        raise PayloadInvalid(f"{error.message}{_where(value)}") from None
    except Exception as error:
        # Of the value's own code (a property, a serializer), or of a whole number with more digits than Python writes.
        raise PayloadInvalid(f"a value of type {kind.__qualname__} cannot be encoded: {type(error).__name__}: {error}") from error


def _where(value: Any) -> str:
    """The path of the innermost value that fails alone, for the message. Slow, and only on the way to an error."""
    path = ""
    for _ in range(MAX_DEPTH):
        items: list[tuple[str, Any]]
        if isinstance(value, Mapping):
            items = [(f"[{key!r}]", item) for key, item in value.items()]
        elif isinstance(value, (list, tuple)):
            items = [(f"[{index}]", item) for index, item in enumerate(value)]
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            items = [(f".{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value)]
        else:
            break
        for step, item in items:
            try:
                _Lowering().lower(item, 0)
            except Exception:
                path, value = path + step, item
                break
        else:
            break
    return f" (at {path})" if path else ""


def _parse_int(text: str) -> int | float:
    value = int(text) if len(text) < 4000 else float(text)
    return value if -MAX_SAFE <= value <= MAX_SAFE else float(text)


def _refuse_constant(text: str) -> Any:
    raise PayloadInvalid(f"{text} is no JSON")


def _v_text(value: Any, tag: str) -> str:
    if type(value) is not str:
        raise PayloadInvalid(f"the value of tag {tag!r} must be a string")
    return value


def _read_tag(tag: Any, value: Any) -> Any:
    if tag == "int":
        text = _v_text(value, tag)
        if _INTEGER.fullmatch(text):
            return int(text)
    elif tag == "float":
        special = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf, "-0": -0.0}.get(_v_text(value, tag))
        if special is not None:
            return special
    elif tag == "dec":
        if _DECIMAL.fullmatch(_v_text(value, tag)):
            return decimal.Decimal(value)
    elif tag == "bytes":
        return base64.b64decode(_v_text(value, tag), validate=True)
    elif tag == "time":
        return _times.read_datetime(_v_text(value, tag))
    elif tag == "date":
        return _times.read_date(_v_text(value, tag))
    elif tag == "uuid":
        if _UUID.fullmatch(_v_text(value, tag)):
            return uuid.UUID(value)
    elif tag == "set":
        if type(value) is list:
            return {_hashable(item) for item in value}
    elif tag == "map":
        if type(value) is list and all(type(pair) is list and len(pair) == 2 for pair in value):
            return {_hashable(pair[0]): pair[1] for pair in value}
    else:
        raise PayloadInvalid(f"unknown tag {tag!r}")
    raise PayloadInvalid(f"malformed value of tag {tag!r}")


class HashableDict(dict[str, Any]):
    """An object as element of a set or as key of a map: the fields of what was a frozen dataclass or model when written."""

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(frozenset(self.items()))


def _hashable(value: Any) -> Any:
    """Elements of sets and keys of maps: what was a tuple, a frozen set or a frozen object when written."""
    if type(value) is list:
        return tuple(_hashable(item) for item in value)
    if type(value) is set:
        return frozenset(value)
    if type(value) is dict:
        return HashableDict((key, _hashable(item)) for key, item in value.items())
    return value


def _untag(pairs: dict[str, Any]) -> Any:
    if "$es" not in pairs:
        return pairs
    if len(pairs) != 2 or "v" not in pairs:
        raise PayloadInvalid("an object with a key $es has exactly $es and v")
    return _read_tag(pairs["$es"], pairs["v"])


_plain = json.JSONDecoder(parse_constant=_refuse_constant)
_tagged = json.JSONDecoder(object_hook=_untag, parse_int=_parse_int, parse_constant=_refuse_constant)
_scan: Callable[[str, int], tuple[Any, int]] = _plain.scan_once  # pyright: ignore[reportAttributeAccessIssue]


def decode(data: bytes) -> Any:
    """The value of `data`, or `PayloadInvalid`."""
    try:
        text = data.decode("utf-8")
        if '"$es"' not in text and "\\" not in text and (len(text) < 16 or _LONG_NUMBER.search(text) is None):
            try:
                value, end = _scan(text, 0)
            except StopIteration:
                end = -1
                value = None
            if end != len(text):
                value = _plain.decode(text)
        else:
            value = _tagged.decode(text)
            if "\\ud" in text or "\\uD" in text:
                json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")  # a lone surrogate written as an escape
        if text.count("[") + text.count("{") > MAX_DEPTH:
            _check_depth(value, 0)
        return value
    except PayloadInvalid:
        raise
    except RecursionError as error:
        raise PayloadInvalid("nested too deep") from error
    except (ValueError, TypeError, OverflowError, decimal.InvalidOperation) as error:
        raise PayloadInvalid(f"the stored value cannot be read: {error}") from error


def _check_depth(value: Any, depth: int) -> None:
    if isinstance(value, (list, dict)):
        if depth >= MAX_DEPTH:
            raise PayloadInvalid(f"nested deeper than {MAX_DEPTH} levels")
        items: Any = value.values() if isinstance(value, dict) else value
        for item in items:
            _check_depth(item, depth + 1)


def _write_float(value: float) -> str:
    """As ECMAScript prints a number: shortest digits, exponent form from 1e21 up and below 1e-6."""
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if len(digits) <= point <= 21:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    rest = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{rest}e{point - 1:+d}"


def _write_slowly(tree: Any) -> str:
    if type(tree) is float:
        return _write_float(tree)
    if type(tree) is dict:
        return "{" + ",".join(f"{_quote(key)}:{_write_slowly(item)}" for key, item in tree.items()) + "}"
    if type(tree) is list:
        return "[" + ",".join(_write_slowly(item) for item in tree) + "]"
    return _write(tree)
