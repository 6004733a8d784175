"""The payload vectors every language runs, and what is Python's own."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import gc
import json
import math
import os
import pathlib
import subprocess
import sys
import typing
import uuid
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from everstep import PayloadInvalid
from everstep._codec import decode, encode
from everstep._decoding import decoder_of
from everstep._times import read_date, read_datetime

VECTORS = json.loads((pathlib.Path(__file__).parents[2] / "tests" / "vectors" / "payload.json").read_text("utf-8"))


def build(node: dict[str, Any]) -> Any:
    ((kind, value),) = node.items()
    if kind in ("null", "bool", "str"):
        return value
    if kind == "int":
        return int(value)
    if kind == "float":
        return float(value)
    if kind == "list":
        return [build(item) for item in value]
    if kind == "object":
        return {key: build(item) for key, item in value}
    if kind == "map":
        return {build(key): build(item) for key, item in value}
    if kind == "set":
        return {build(item) for item in value}
    if kind == "dec":
        return decimal.Decimal(value)
    if kind == "bytes":
        return bytes.fromhex(value)
    if kind == "time":
        return read_datetime(value)
    if kind == "date":
        return read_date(value)
    if kind == "uuid":
        return uuid.UUID(value)
    if kind == "nested":
        out: list[Any] = []
        for _ in range(value - 1):
            out = [out]
        return out
    if kind == "str_utf16":
        return "".join(chr(int(unit, 16)) for unit in value)
    if kind == "object_utf16_key":
        return {"".join(chr(int(unit, 16)) for unit in value): 1}
    raise AssertionError(f"unknown notation {kind}")


def same(left: Any, right: Any) -> bool:
    """Equal in type too, NaN equal to itself, -0 not equal to 0, keys in the same order."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return (math.isnan(left) and math.isnan(right)) or (left == right and math.copysign(1, left) == math.copysign(1, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, dt.datetime):
        return left == right and left.utcoffset() == right.utcoffset()
    if isinstance(left, decimal.Decimal):
        return str(left) == str(right)
    return bool(left == right)


def named(part: str) -> Any:
    return pytest.mark.parametrize("vector", VECTORS[part], ids=[vector["name"] for vector in VECTORS[part]])


@named("both")
def test_writes_and_reads(vector: dict[str, Any]) -> None:
    assert encode(build(vector["value"])).decode("utf-8") == vector["wire"]
    assert same(decode(vector["wire"].encode("utf-8")), build(vector.get("reads_as", vector["value"])))


@named("reads")
def test_reads(vector: dict[str, Any]) -> None:
    assert same(decode(vector["wire"].encode("utf-8")), build(vector["value"]))


@named("refused")
def test_refuses_to_read(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["wire_hex"]) if "wire_hex" in vector else vector["wire"].encode("utf-8")
    with pytest.raises(PayloadInvalid):
        decode(data)


@named("refused_values")
def test_refuses_to_write(vector: dict[str, Any]) -> None:
    with pytest.raises(PayloadInvalid):
        encode(build(vector["value"]))


@named("inputs")
def test_input_is_one_value(vector: dict[str, Any]) -> None:
    from everstep._signature import Signature

    defaults = ", ".join(f"{name}=None" for name in vector["parameters"])
    scope: dict[str, Any] = {}
    exec(f"def function({defaults}): return dict(locals())", scope)
    signature = Signature(scope["function"])
    arguments = {name: build(value) for name, value in vector["arguments"].items()}
    data = signature.encode((), arguments)
    assert (data or b"null").decode("utf-8") == vector["wire"]
    args, kwargs = signature.decode(data)
    called = scope["function"](*args, **kwargs)
    assert {name: value for name, value in called.items() if name in arguments} == arguments


@named("errors")
def test_error_documents(vector: dict[str, Any]) -> None:
    from everstep._failures import Failure

    assert encode(Failure.read(vector["wire"].encode("utf-8")).document()).decode("utf-8") == vector.get("reads_as", vector["wire"])


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: float


@dataclasses.dataclass
class Line:
    start: Point
    colour: Colour = Colour.RED
    seen: set[str] = dataclasses.field(default_factory=set)


def test_python_types_are_written_as_what_they_hold() -> None:
    assert encode(Line(Point(1, 2.5), seen={"b", "a"})) == b'{"start":[1,2.5],"colour":"red","seen":{"$es":"set","v":["a","b"]}}'
    assert encode([Level.HIGH, Colour.RED]) == b'[3,"red"]'
    assert encode(dt.timedelta(days=1, microseconds=1500)) == b'"PT86400.0015S"'
    assert encode({Colour.RED: 1}) == b'{"$es":"map","v":[["red",1]]}'


def test_the_message_says_where() -> None:
    with pytest.raises(PayloadInvalid, match=r"function.*at \['a'\]\[1\]"):
        encode({"a": [1, encode]})


def test_a_cycle_is_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(PayloadInvalid, match="128"):
        encode(cycle)


def test_the_same_set_has_the_same_bytes_in_every_process() -> None:
    program = "from everstep._codec import encode; print(encode({f'word{n}' for n in range(50)} | {b'x', 1, None}))"
    outputs = {
        subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout for seed in "123"
    }
    assert len(outputs) == 1


def test_a_double_survives_every_printing() -> None:
    import random
    import struct

    generator = random.Random(7)
    for _ in range(20_000):
        (value,) = struct.unpack("<d", generator.randbytes(8))
        back = decode(encode([value]))[0]
        assert same(float(back), value)


def test_typed_reading_is_checked() -> None:
    from everstep._decoding import decoder_of

    assert decoder_of(typing.Union[int, None])(3) == 3
    with pytest.raises(PayloadInvalid):
        decoder_of(int)("3")


class Color(enum.Enum):
    RED = "red"


class Many(Mapping[str, int]):
    """As a multidict: `items` gives a key more than once."""

    def __getitem__(self, key: str) -> int:
        return 1

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[str]:
        return iter(("a", "a"))


@pytest.mark.parametrize("value", [Many(), {Color.RED: 1, "red": 2}, {1: 1, Color.RED: 2, "red": 3}])
def test_two_keys_that_are_written_alike_are_refused(value: Any) -> None:
    """They were written twice, and read as whichever came last."""
    with pytest.raises(PayloadInvalid, match="the same key"):
        encode(value)
    assert decode(encode({"$es": 1, 2: 3})) == {"$es": 1, 2: 3}


def test_a_set_of_sets_is_written_in_one_pass() -> None:
    """Each item was lowered twice, which doubles with each level: 24 of them took a minute."""
    lowered = 0

    class Leaf(os.PathLike[str]):
        def __fspath__(self) -> str:
            nonlocal lowered
            lowered += 1
            return "leaf"

    value: Any = Leaf()
    for _ in range(24):
        value = frozenset((value,))
    encode(value)
    assert lowered == 1


def test_nothing_keeps_the_classes_of_a_function() -> None:
    def once() -> weakref.ref[Any]:
        @dataclasses.dataclass
        class Order:
            n: int

        assert decode(encode(Order(1))) == {"n": 1}
        assert decoder_of(list[Order])([{"n": 2}]) == [Order(2)]
        return weakref.ref(Order)

    kept = once()
    gc.collect()
    assert kept() is None
