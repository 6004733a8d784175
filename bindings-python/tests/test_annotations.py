"""Annotations with more to them than a class: generics and what derives from them, qualifiers, unions with members that have no form of their own."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import ipaddress
import pathlib
import zoneinfo
from typing import Annotated, Any, Generic, Literal, NewType, TypeVar, Union

import attrs
import pydantic
import pytest
import typing_extensions
from conftest import Database
from typing_extensions import NamedTuple, NotRequired, Required, TypedDict

from everstep import Everstep, PayloadInvalid
from everstep._codec import decode, encode
from everstep._decoding import decoder_of

T = TypeVar("T")
U = TypeVar("U")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class TextColour(str, enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Ratio(enum.Enum):
    WHOLE = 1.0
    HALF = 0.5


@dataclasses.dataclass
class Box(Generic[T]):
    x: T


@dataclasses.dataclass
class Two(Generic[T, U]):
    first: Box[T]
    rest: list[Box[U]]


@dataclasses.dataclass
class ColourBox(Box[Colour]):
    y: int = 0


@dataclasses.dataclass
class ListBox(Box[list[T]], Generic[T]):
    """Its T is not that of its base."""


@dataclasses.dataclass
class ColourListBox(ListBox[Colour]):
    pass


@dataclasses.dataclass
class Node(Generic[T]):
    value: T
    children: list[Node[T]] = dataclasses.field(default_factory=list)


@attrs.define
class AttrsBox(Generic[T]):
    x: T
    _hidden: int = 1


@attrs.define
class ColourAttrsBox(AttrsBox[Colour]):
    pass


class Tuple2(NamedTuple, Generic[T]):
    x: T
    colour: Colour = Colour.RED


class Dict(TypedDict):
    a: int
    b: NotRequired[Colour]


class More(Dict, total=False):
    c: Required[Annotated[Colour, "qualified twice"]]
    d: Colour


class OfExtensions(typing_extensions.TypedDict):
    c: Colour


class GenericDict(TypedDict, Generic[T]):
    x: T
    y: NotRequired[list[T]]


class ColourDict(GenericDict[Colour]):
    z: int


class Hosts(pydantic.BaseModel):
    address: ipaddress.IPv4Address
    page: pydantic.HttpUrl
    net: ipaddress.IPv6Network | None = None


Name = NewType("Name", str)
BLUE = Box(Colour.BLUE)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Two[int, Colour], Two(Box(1), [BLUE])),
        (ColourBox, ColourBox(Colour.RED, 1)),
        (ListBox[Colour], ListBox([Colour.RED])),
        (ColourListBox, ColourListBox([Colour.RED])),
        (Node[Colour], Node(Colour.RED, [Node(Colour.BLUE)])),
        (AttrsBox[Colour], AttrsBox(Colour.RED, 2)),
        (ColourAttrsBox, ColourAttrsBox(Colour.RED)),
        (Tuple2[Colour], Tuple2(Colour.BLUE)),
        (Dict, {"a": 1}),
        (Dict, {"a": 1, "b": Colour.RED}),
        (More, {"a": 1, "c": Colour.RED}),
        (OfExtensions, {"c": Colour.RED}),
        (GenericDict[Colour], {"x": Colour.RED, "y": [Colour.BLUE]}),
        (GenericDict[int], {"x": 1}),
        (ColourDict, {"x": Colour.RED, "z": 1}),
        (Hosts, Hosts(address="10.0.0.1", page="https://example.org/", net="2001:db8::/32")),  # pyright: ignore[reportArgumentType]
        (ipaddress.IPv6Interface, ipaddress.ip_interface("2001:db8::1/64")),
        (pydantic.HttpUrl, pydantic.HttpUrl("https://example.org/a?b=1")),
    ],
)
def test_generics_and_qualifiers(annotation: Any, value: Any) -> None:
    assert decoder_of(annotation)(decode(encode(value))) == value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Colour | str, Colour.RED),
        (Union[str, Colour, None], Colour.BLUE),
        (Colour | str, "green"),
        (TextColour | str, TextColour.RED),
        (Level | int, Level.LOW),
        (Level | int, 2),
        (Level | bool, True),
        (Ratio | float | int, Ratio.WHOLE),
        (Ratio | float, 0.25),
        (Literal[Colour.RED] | str, Colour.RED),
        (Annotated[Colour, "documented"] | Name, Colour.RED),
        (Box[Colour] | Colour | str, Colour.BLUE),
        (Box[Colour] | Colour | str, BLUE),
        (dt.timedelta | str, dt.timedelta(days=1, microseconds=5)),
        (dt.timedelta | str, "PT5M"),
        (dt.time | str, dt.time(12, 30)),
        (dt.time | str, "12:30"),
        (list[Colour | str], [Colour.RED, "x"]),
    ],
)
def test_a_member_of_a_union_without_a_form_of_its_own(annotation: Any, value: Any) -> None:
    read = decoder_of(annotation)(decode(encode(value)))
    assert read == value and type(read) is type(value)


def test_a_path_or_a_text_is_a_text() -> None:
    """Every text is the record of some path."""
    assert decoder_of(pathlib.Path | str)(decode(encode(pathlib.Path("/a")))) == "/a"


def test_a_key_that_is_required_after_all() -> None:
    for kind, value in ((Dict, {}), (More, {"a": 1}), (GenericDict[int], {})):
        with pytest.raises(PayloadInvalid, match="missing"):
            decoder_of(kind)(value)


@dataclasses.dataclass
class Scaled:
    a: int
    factor: dataclasses.InitVar[int]

    def __post_init__(self, factor: int) -> None:
        self.a *= factor


def test_a_constructor_that_wants_more_than_the_fields_is_found_at_launch(database: Database) -> None:
    app = Everstep(**database.settings)

    @app.workflow
    def work(value: Scaled) -> int:
        return value.a

    with pytest.raises(PayloadInvalid, match="factor"):
        app.launch()
    app.close()


def test_a_number_that_is_no_double() -> None:
    assert decoder_of(float)(decode(encode(2**70))) == 2.0**70
    with pytest.raises(PayloadInvalid):
        decoder_of(float)(decode(encode(10**400)))


def test_any_of_typing_extensions() -> None:
    assert decoder_of(dict[str, typing_extensions.Any])({"a": 1}) == {"a": 1}


def test_a_zone_comes_back_as_its_offset() -> None:
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    for fold, hours in ((0, 2), (1, 1)):
        read = decode(encode(dt.datetime(2026, 10, 25, 2, 30, tzinfo=zone, fold=fold)))
        assert read == dt.datetime(2026, 10, 25, 2, 30, tzinfo=dt.timezone(dt.timedelta(hours=hours)))
