"""From plain decoded values to the declared type. One decoder is built for an annotation, once; `None` stands for "nothing to do".

Only types named by the reading program are built: nothing in a stored row can pick one.
"""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime as dt
import decimal
import enum
import os
import pathlib
import types
import typing
import uuid
from collections.abc import Callable
from typing import Any

from . import _times
from ._errors_gen import PayloadInvalid

Decoder = Callable[[Any], Any]
_cache: dict[Any, Decoder | None] = {}
_NOTHING: Any = object()


def identity(value: Any) -> Any:
    return value


def decoder_of(annotation: Any) -> Decoder:
    """A decoder for this annotation; building it fails with `PayloadInvalid` for types that cannot be read back."""
    return decoder_or_none(annotation) or identity


def decoder_or_none(annotation: Any) -> Decoder | None:
    try:
        found = _cache.get(annotation, _NOTHING)
    except TypeError:  # unhashable: Annotated or Literal over a list
        return _build(annotation)
    if found is _NOTHING:
        # A type that holds itself finds this entry while it is being built and looks again when it first reads.
        _cache[annotation] = lambda value: (_cache[annotation] or identity)(value)
        try:
            found = _build(annotation)
        except BaseException:
            del _cache[annotation]
            raise
        _cache[annotation] = found
    return found


def _mismatch(expected: Any, value: Any) -> PayloadInvalid:
    name = getattr(expected, "__qualname__", None) or str(expected)
    return PayloadInvalid(f"expected {name}, found {type(value).__qualname__}")


def _exact(kind: type) -> Decoder:
    def read(value: Any) -> Any:
        if type(value) is kind:
            return value
        raise _mismatch(kind, value)

    return read


def _read_float(value: Any) -> Any:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    raise _mismatch(float, value)


def _read_decimal(value: Any) -> Any:
    if type(value) is decimal.Decimal:
        return value
    if type(value) is int or type(value) is str:
        try:
            return decimal.Decimal(value)
        except decimal.InvalidOperation:
            pass
    raise _mismatch(decimal.Decimal, value)


def _from_text(kind: type, parse: Callable[[str], Any]) -> Decoder:
    """Accepts the value itself (tagged) or its text, as a program in another language or a person may have written it."""

    def read(value: Any) -> Any:
        if type(value) is kind:
            return value
        if type(value) is str:
            try:
                return parse(value)
            except ValueError as error:
                raise PayloadInvalid(str(error)) from error
        raise _mismatch(kind, value)

    return read


def _read_bytearray(value: Any) -> Any:
    if type(value) is bytes:
        return bytearray(value)
    raise _mismatch(bytearray, value)


_SCALARS: dict[Any, Decoder | None] = {
    Any: None,
    object: None,
    str: _exact(str),
    bool: _exact(bool),
    int: _exact(int),
    float: _read_float,
    None: _exact(type(None)),
    type(None): _exact(type(None)),
    bytes: _exact(bytes),
    bytearray: _read_bytearray,
    decimal.Decimal: _read_decimal,
    dt.datetime: _from_text(dt.datetime, _times.read_datetime),
    dt.date: _from_text(dt.date, _times.read_date),
    dt.time: _from_text(dt.time, dt.time.fromisoformat),
    dt.timedelta: _from_text(dt.timedelta, _times.read_duration),
    uuid.UUID: _from_text(uuid.UUID, uuid.UUID),
    list: _exact(list),
    dict: _exact(dict),
}


def _build(annotation: Any) -> Decoder | None:
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if isinstance(annotation, typing.TypeVar):
        return decoder_or_none(annotation.__bound__) if annotation.__bound__ is not None else None
    if hasattr(annotation, "__supertype__"):  # NewType
        return decoder_or_none(annotation.__supertype__)
    if type(annotation).__name__ == "TypeAliasType":
        return decoder_or_none(annotation.__value__)
    origin = typing.get_origin(annotation)
    if origin is not None:
        return _build_generic(annotation, origin, typing.get_args(annotation))
    if isinstance(annotation, type):
        return _build_class(annotation)
    raise PayloadInvalid(f"values of type {annotation!r} cannot be read back")


def _build_generic(annotation: Any, origin: Any, args: tuple[Any, ...]) -> Decoder | None:
    if origin is typing.Annotated or origin in (getattr(typing, name) for name in ("Required", "NotRequired", "ReadOnly") if hasattr(typing, name)):
        return decoder_or_none(args[0])
    if origin is typing.Union or origin is types.UnionType:
        return _union(annotation, args)
    if origin is typing.Literal:
        return _literal(annotation, args)
    if origin is tuple:
        return _tuple(args)
    if isinstance(origin, type):
        if issubclass(origin, collections.abc.Mapping):
            return _mapping(origin, *(args or (Any, Any)))
        if issubclass(origin, collections.abc.Set):
            return _collection(args[0] if args else Any, frozenset if issubclass(origin, frozenset) else set, (set, list))
        if issubclass(origin, (collections.abc.Sequence, collections.abc.Iterable)) and origin.__module__ in (
            "builtins",
            "collections.abc",
        ):
            return _collection(args[0] if args else Any, list, (list,))
        if hasattr(annotation, "model_validate"):
            return _pydantic(annotation)
        return _build_class(origin, dict(zip(getattr(origin, "__parameters__", ()), args, strict=False)))
    raise PayloadInvalid(f"values of type {annotation!r} cannot be read back")


def _union(annotation: Any, args: tuple[Any, ...]) -> Decoder | None:
    decoders = [decoder_or_none(arg) for arg in args]
    if None in decoders:
        return None
    # An exact class first, so that `int | str` and `float | int` keep what was written.
    exact = frozenset(arg for arg in args if isinstance(arg, type) and arg in _SCALARS)

    def read(value: Any) -> Any:
        if type(value) in exact:
            return value
        for decoder in decoders:
            try:
                return decoder(value)  # pyright: ignore[reportOptionalCall]
            except PayloadInvalid:
                continue
        raise _mismatch(annotation, value)

    return read


def _literal(annotation: Any, args: tuple[Any, ...]) -> Decoder:
    plain = {(type(_plain(arg)), _plain(arg)): arg for arg in args}

    def read(value: Any) -> Any:
        try:
            return plain[(type(value), value)]
        except (KeyError, TypeError):
            raise _mismatch(annotation, value) from None

    return read


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value


def _at(step: str, error: PayloadInvalid) -> PayloadInvalid:
    return PayloadInvalid(f"{step}: {error.message}")


def _collection(item: Any, build: Callable[[Any], Any], accepted: tuple[type, ...]) -> Decoder:
    decoder = decoder_or_none(item)

    def read(value: Any) -> Any:
        if type(value) not in accepted:
            raise _mismatch(build, value)
        if decoder is None:
            return value if type(value) is build else build(value)
        return build([decoder(element) for element in value])

    return read


def _tuple(args: tuple[Any, ...]) -> Decoder:
    if not args:
        return lambda value: tuple(_sequence(value))
    if len(args) == 2 and args[1] is Ellipsis:
        decoder = decoder_of(args[0])
        return lambda value: tuple([decoder(item) for item in _sequence(value)])
    decoders = [decoder_of(arg) for arg in args if arg != ()]

    def read(value: Any) -> Any:
        items = _sequence(value)
        if len(items) != len(decoders):
            raise PayloadInvalid(f"expected {len(decoders)} values, found {len(items)}")
        return tuple([decoder(item) for decoder, item in zip(decoders, items, strict=True)])

    return read


def _sequence(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return value
    raise _mismatch(tuple, value)


def _mapping(origin: type, key: Any, item: Any) -> Decoder:
    if issubclass(origin, collections.defaultdict):
        raise PayloadInvalid("the factory of a defaultdict cannot be recorded: annotate a dict, and make the defaultdict where it is used")
    keys, items = decoder_or_none(key), decoder_or_none(item)
    build = dict if origin is dict or origin.__module__ == "collections.abc" else origin

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise _mismatch(dict, value)
        entries: dict[Any, Any] = value
        if keys is not None or items is not None:
            entries = {(keys or identity)(k): (items or identity)(v) for k, v in entries.items()}
        return entries if build is dict else build(entries)

    return read


def _pydantic(kind: Any) -> Decoder:
    def read(value: Any) -> Any:
        try:
            return kind.model_validate(value)
        except ValueError as error:
            raise PayloadInvalid(str(error)) from error

    return read


def _build_class(kind: type, parameters: dict[Any, Any] | None = None) -> Decoder | None:
    if issubclass(kind, enum.Enum):
        return _enum(kind)
    if typing.is_typeddict(kind):
        return _typed_dict(kind)
    if dataclasses.is_dataclass(kind):
        init = [field for field in dataclasses.fields(kind) if field.init]
        required = {f.name for f in init if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}
        return _fields(kind, [(field.name, field.name) for field in init], required, parameters)
    if hasattr(kind, "model_validate"):
        return _pydantic(kind)
    attributes: Any = getattr(kind, "__attrs_attrs__", None)
    if attributes is not None:
        import attr

        names = [(field.name, field.alias or field.name.lstrip("_")) for field in attributes if field.init]
        return _fields(kind, names, {field.name for field in attributes if field.init and field.default is attr.NOTHING}, parameters)
    if issubclass(kind, tuple):
        return _named_tuple(kind)
    if issubclass(kind, (set, frozenset)) or kind is collections.abc.Set:
        return _collection(Any, frozenset if issubclass(kind, frozenset) else set, (set, list))
    if issubclass(kind, pathlib.PurePath) or kind is os.PathLike:
        path: type = pathlib.Path if kind is os.PathLike else kind
        return _from_text(path, path)
    if kind in (collections.abc.Mapping, collections.abc.MutableMapping):
        return _exact(dict)
    if kind in (collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection):
        return _exact(list)
    if issubclass(kind, dict):
        return _mapping(kind, Any, Any)
    for scalar in (str, int, float):
        if issubclass(kind, scalar):
            inner = decoder_of(scalar)
            return lambda value: kind(inner(value))
    raise PayloadInvalid(f"values of type {kind.__qualname__} cannot be read back: use a dataclass, a model, or a plain type")


def _hints(kind: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except NameError as error:
        raise PayloadInvalid(f"an annotation of {kind.__qualname__} cannot be resolved: {error}") from error


def _substituted(annotation: Any, parameters: dict[Any, Any] | None) -> Any:
    if not parameters:
        return annotation
    if annotation in parameters:
        return parameters[annotation]
    inner = getattr(annotation, "__parameters__", ())
    return annotation[tuple(parameters.get(name, name) for name in inner)] if inner else annotation


def _fields(kind: type, names: list[tuple[str, str]], required: set[str], parameters: dict[Any, Any] | None) -> Decoder:
    hints = _hints(kind)
    plan = [(name, argument, decoder_or_none(_substituted(hints.get(name, Any), parameters)), name in required) for name, argument in names]

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise _mismatch(kind, value)
        entries: dict[str, Any] = value
        arguments: dict[str, Any] = {}
        for name, argument, decoder, needed in plan:
            if name in entries:
                item = entries[name]
                if decoder is not None:
                    try:
                        item = decoder(item)
                    except PayloadInvalid as error:
                        raise _at(f"{kind.__name__}.{name}", error) from None
                arguments[argument] = item
            elif needed:
                raise PayloadInvalid(f"{kind.__name__}.{name} is missing")
        return kind(**arguments)

    return read


def _enum(kind: Any) -> Decoder:
    values = {member.value: member for member in kind}

    def read(value: Any) -> Any:
        plain = tuple(value) if type(value) is list else value
        try:
            return values[plain] if plain in values else kind(plain)
        except (TypeError, ValueError) as error:
            raise PayloadInvalid(f"{value!r} is no {kind.__name__}") from error

    return read


def _typed_dict(kind: Any) -> Decoder:
    decoders = {name: decoder_of(hint) for name, hint in _hints(kind).items()}
    required: frozenset[str] = kind.__required_keys__

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise _mismatch(kind, value)
        entries: dict[str, Any] = value
        missing = required - entries.keys()
        if missing:
            raise PayloadInvalid(f"{kind.__name__}: {', '.join(sorted(missing))} missing")
        return {name: decoders[name](item) if name in decoders else item for name, item in entries.items()}

    return read


def _named_tuple(kind: Any) -> Decoder:
    fields: tuple[str, ...] | None = getattr(kind, "_fields", None)
    if fields is None:
        return lambda value: kind(_sequence(value))
    hints = _hints(kind)
    decoders = [decoder_of(hints.get(name, Any)) for name in fields]

    def read(value: Any) -> Any:
        if type(value) is dict:
            entries: dict[str, Any] = value
            return kind(**{name: decoder(entries[name]) for name, decoder in zip(fields, decoders, strict=True) if name in entries})
        items = _sequence(value)
        if len(items) > len(decoders):
            raise PayloadInvalid(f"{kind.__name__}: {len(items)} values for {len(decoders)} fields")
        try:
            return kind(*[decoder(item) for decoder, item in zip(decoders, items, strict=False)])
        except TypeError as error:
            raise PayloadInvalid(str(error)) from error

    return read
