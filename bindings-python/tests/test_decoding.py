"""What was recorded is read back as what it was, or refused by a typed error that shows no value: on the way in, not after the step has run."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import datetime as dt
import enum
import threading
import typing
import uuid
import zoneinfo
from typing import Any, Literal, NamedTuple, Optional, Union

import attrs
import pydantic
import pytest
from conftest import Database

from everstep import Everstep, PayloadInvalid, _decoding
from everstep._codec import decode, encode
from everstep._decoding import decoder_of


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass(frozen=True)
class Line:
    x: int


@attrs.frozen
class Pair:
    a: int
    b: tuple[int, ...] = ()


class Named(NamedTuple):
    a: int
    at: Optional[Point] = None


class Colour(enum.Enum):
    RED = "red"


class Unhashable(enum.Enum):
    ONE = [1]


class Sized(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    a: int

    @pydantic.computed_field
    @property
    def double(self) -> int:
        return 2 * self.a


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    numbers: tuple[int, ...]
    colour: Colour
    id: uuid.UUID


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"


@dataclasses.dataclass
class Positive:
    n: int

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError("it must be positive")


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (Point(1, 2), Union[Line, Point]),
        (Line(1), Union[Point, Line]),
        ([Point(1), Line(2)], list[Union[Point, Line]]),
        ({"x": 1, "q": 2}, Union[Point, dict[str, int]]),
        ([Dog(), Cat()], list[Union[Cat, Dog]]),
        ({Point(1), Point(2)}, set[Point]),
        (frozenset({Pair(1, (2,))}), frozenset[Pair]),
        ({Point(1): 2}, dict[Point, int]),
        ({(Point(1), 2): {Point(3)}}, dict[tuple[Point, int], set[Point]]),
        ({Named(1, Point(2))}, set[Named]),
        ({frozenset({1})}, set[frozenset[int]]),
        (Unhashable.ONE, Unhashable),
        (collections.Counter("aab"), collections.Counter[str]),
        (Sized(a=2), Sized),
        (Strict(numbers=(1, 2), colour=Colour.RED, id=uuid.UUID(int=7)), Strict),
    ],
)
def test_it_comes_back(value: Any, annotation: Any) -> None:
    back = decoder_of(annotation)(decode(encode(value)))
    assert back == value and type(back) is type(value)


def test_a_set_of_objects_without_an_annotation_can_be_written_again() -> None:
    assert encode(decode(encode({Point(1)}))) == encode({Point(1)})


class Renamed(pydantic.BaseModel):
    a: int = pydantic.Field(serialization_alias="b")


def test_a_model_that_could_not_read_its_own_record_is_refused_at_launch(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.step
    def renamed() -> Renamed:
        return Renamed(a=1)

    with pytest.raises(PayloadInvalid, match=r"the result of .*renamed.* writes its field 'a' as 'b' and reads it as 'a'"):
        app.launch()


class Serialized(pydantic.BaseModel):
    n: int = 0

    @pydantic.field_serializer("n")
    def fails(self, n: int) -> int:
        raise RuntimeError("no text for it")


@pytest.mark.parametrize(
    "value",
    [10**5000, Serialized(), {"deep": [Serialized()]}, dt.datetime(1, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Paris"))],
    ids=["digits", "serializer", "inside", "year one"],
)
def test_what_cannot_be_written_is_a_typed_error_of_the_step(database: Database, value: Any) -> None:
    app = Everstep(**database.settings)

    @app.step
    def makes() -> Any:
        return value

    @app.workflow
    def work() -> str:
        try:
            makes()
        except PayloadInvalid as error:
            return error.code
        return "no error"

    @app.workflow
    def echo(value: Any) -> Any:
        return value

    with app:
        run = work.start()
        assert run.result(dt.timedelta(seconds=20)) == "payload_invalid"
        assert [step.failed for step in run.steps()] == [True], "recorded, like any other failure"
        with pytest.raises(PayloadInvalid):
            echo.start(value)


@pytest.mark.parametrize(
    ("wire", "annotation"),
    [
        (b'{"a":"s3cret"}', Sized),
        (b'"s3cret"', Colour),
        (b'"s3cret"', dt.datetime),
        (b'"s3cret"', dt.date),
        (b'"s3cret"', uuid.UUID),
        (b'{"$es":"time","v":"s3cret"}', dt.datetime),
        (b'"s3cret"', Literal["a"]),
    ],
)
def test_no_value_in_the_message(wire: bytes, annotation: Any) -> None:
    with pytest.raises(PayloadInvalid) as caught:
        decoder_of(annotation)(decode(wire))
    assert "s3cret" not in str(caught.value)


def test_a_constructor_that_refuses_is_named() -> None:
    with pytest.raises(PayloadInvalid, match="Positive: ValueError: it must be positive"):
        decoder_of(Positive)({"n": -1})
    assert decoder_of(typing.Union[Positive, Point, Line])({"n": 1}) == Positive(1)
    with pytest.raises(PayloadInvalid, match="Sized: a: "):
        decoder_of(Sized)({"a": "x"})


@dataclasses.dataclass
class Chain:
    n: int
    next: Chain | None = None


def test_a_type_another_thread_is_still_building_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever came meanwhile took the entry for types that hold themselves, which then called itself."""
    inside, go_on = threading.Event(), threading.Event()
    build = _decoding._build

    def slowly(annotation: Any) -> Any:
        if annotation is Chain:
            inside.set()
            go_on.wait()
        return build(annotation)

    monkeypatch.setattr(_decoding, "_build", slowly)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(lambda: _decoding.decoder_of(Chain)({"n": 1}))
        assert inside.wait(20)
        second = pool.submit(lambda: _decoding.decoder_of(Chain)({"n": 2, "next": {"n": 3}}))
        concurrent.futures.wait((second,), timeout=0.2)
        go_on.set()
        assert (first.result(20), second.result(20)) == (Chain(1), Chain(2, Chain(3)))
