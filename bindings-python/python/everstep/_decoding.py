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
import ipaddress
import os
import pathlib
import threading
import types
import typing
import uuid
from collections.abc import Callable
from typing import Any

from . import _times
from ._annotations import annotations_of, bare, check_constructor, is_local, is_qualifier, is_typed_dict, parameters_of, qualifiers
from ._errors_gen import PayloadInvalid

Decoder = Callable[[Any], Any]
_cache: dict[Any, Decoder | None] = {}
#: Those that are being built, by the one thread that builds.
_unfinished: dict[Any, Decoder] = {}
_building = threading.RLock()
_NOTHING: Any = object()
#: What a sequence and a set are read from; inside a set or a key they come as tuples and frozen sets.
_LISTS = (list, tuple)
_SETS = (set, frozenset, list, tuple)


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
    if found is not _NOTHING:
        return found
    with _building:
        found = _cache.get(annotation, _NOTHING)
        return _built(annotation) if found is _NOTHING else found


def _built(annotation: Any) -> Decoder | None:
    unfinished = _unfinished.get(annotation)
    if unfinished is not None:
        return unfinished
    finished: list[Decoder | None] = []

    def later(value: Any) -> Any:
        # A type that holds itself finds this while it is being built. If that came to nothing, it is tried again, and says why.
        return ((finished[0] if finished else decoder_or_none(annotation)) or identity)(value)

    _unfinished[annotation] = later
    try:
        found = _build(annotation)
    finally:
        del _unfinished[annotation]
    finished.append(found)
    if not _local(annotation):
        _cache[annotation] = found
    return found


def _local(annotation: Any) -> bool:
    """Whether a type defined inside a function is in it: there is a new one each time the function runs, and a cache would keep them all."""
    return is_local(annotation) or is_local(type(annotation)) or any(_local(part) for part in _parts(annotation))


def _parts(annotation: Any) -> tuple[Any, ...]:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    flat = [inner for part in parts for inner in (part if isinstance(part, list) else (part,))]
    return (*flat, *(() if origin is None else (origin,)))


def _mismatch(expected: Any, value: Any) -> PayloadInvalid:
    name = getattr(expected, "__qualname__", None) or str(expected)
    return PayloadInvalid(f"expected {name}, found {type(value).__qualname__}")


def _told(error: Exception) -> str:
    """What a class of the program's own says against a value, without the value: pydantic quotes it."""
    listed: Any = getattr(error, "errors", None)
    if not callable(listed) or not hasattr(error, "error_count"):
        return f"{type(error).__name__}: {error}"
    problems: Any = listed(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" if problem["loc"] else str(problem["msg"]) for problem in problems)


def _made(kind: Any, *args: Any, **kwargs: Any) -> Any:
    """The program's own constructor, which may refuse."""
    try:
        return kind(*args, **kwargs)
    except PayloadInvalid:
        raise
    except Exception as error:
        raise PayloadInvalid(f"{getattr(kind, '__qualname__', kind)}: {_told(error)}") from error


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
        try:
            return float(value)
        except OverflowError:
            pass
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
            except (ValueError, ArithmeticError):
                # The parsers' own texts quote what they were given.
                raise PayloadInvalid(f"this text is no {kind.__name__}") from None
        raise _mismatch(kind, value)

    return read


def _read_bytearray(value: Any) -> Any:
    if type(value) is bytes:
        return bytearray(value)
    raise _mismatch(bytearray, value)


def _read_dict(value: Any) -> Any:
    if isinstance(value, dict):
        return value  # pyright: ignore[reportUnknownVariableType]
    raise _mismatch(dict, value)


_ADDRESSES: tuple[Any, ...] = (
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
)
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
    **{kind: _from_text(kind, kind) for kind in _ADDRESSES},
    list: _exact(list),
    dict: _read_dict,
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
        # On Python 3.10 `typing_extensions` has an Any of its own.
        return None if (annotation.__module__, annotation.__name__) == ("typing_extensions", "Any") else _build_class(annotation)
    raise PayloadInvalid(f"values of type {annotation!r} cannot be read back")


def _build_generic(annotation: Any, origin: Any, args: tuple[Any, ...]) -> Decoder | None:
    if is_qualifier(origin):
        return decoder_or_none(args[0])
    if origin is typing.Union or origin is types.UnionType:
        return _union(annotation, args)
    if origin is typing.Literal:
        return _literal(annotation, args)
    if origin is tuple:
        return _tuple(args)
    if isinstance(origin, type):
        if is_typed_dict(origin) or hasattr(origin, "_fields"):
            return _build_class(origin, parameters_of(origin, args))
        if issubclass(origin, collections.abc.Mapping):
            return _mapping(origin, *((*args, int) if issubclass(origin, collections.Counter) else args or (Any, Any)))
        if issubclass(origin, collections.abc.Set):
            return _collection(args[0] if args else Any, frozenset if issubclass(origin, frozenset) else set, _SETS)
        if issubclass(origin, (collections.abc.Sequence, collections.abc.Iterable)) and origin.__module__ in (
            "builtins",
            "collections.abc",
        ):
            return _collection(args[0] if args else Any, list, _LISTS)
        if hasattr(annotation, "model_validate"):
            return _pydantic(annotation)
        return _build_class(origin, parameters_of(origin, args))
    raise PayloadInvalid(f"values of type {annotation!r} cannot be read back")


def _union(annotation: Any, args: tuple[Any, ...]) -> Decoder | None:
    decoders = [decoder_or_none(arg) for arg in args]
    if None in decoders:
        return None
    # An exact class first, so that `int | str` and `float | int` keep what was written; before it what has no form of its own: `Color | str`.
    exact = frozenset(arg for arg in args if isinstance(arg, type) and arg in _SCALARS)
    disguised = _disguised(args)
    shaped = [(decoder, _written_names(arg)) for decoder, arg in zip(decoders, args, strict=True)]
    by_shape = sum(names is not None for _, names in shaped) > 0 and len(shaped) > 1

    def read(value: Any) -> Any:
        if disguised is not None:
            found = disguised(value)
            if found is not _NOTHING:
                return found
        if type(value) in exact:
            return value
        candidates = decoders
        if by_shape and isinstance(value, dict):
            # A class that has a place for every field, before one that would drop some.
            candidates = [decoder for decoder, _ in sorted(shaped, key=lambda one: _fit(frozenset(value), one[1]))]  # pyright: ignore[reportUnknownArgumentType]
        for decoder in candidates:
            try:
                return decoder(value)  # pyright: ignore[reportOptionalCall]
            except PayloadInvalid:
                continue
        raise _mismatch(annotation, value)

    return read


def _disguised(args: tuple[Any, ...]) -> Decoder | None:
    """Members of a union that are recorded as a plain text or number: enums, durations, times of day. A value that is exactly what one of them is recorded
    as is read as that one, in whatever order the union names them (to `typing`, unions that differ in it are equal)."""
    members: dict[Any, Any] = {}
    texts: list[tuple[Decoder, Callable[[Any], str]]] = []
    for arg in map(bare, args):
        if isinstance(arg, type) and issubclass(arg, enum.Enum):
            named: Any = [(member.value, member) for member in arg]
        elif typing.get_origin(arg) is typing.Literal:
            named = [(_plain(value), value) for value in typing.get_args(arg)]
        else:
            named = []
            texts += [(parse, write) for kind, parse, write in _TIMES if arg is kind]
        for value, member in named:
            if type(value) in (str, int, float, bool):
                members.setdefault((type(value), value), member)
            if type(value) is float and value.is_integer():
                members.setdefault((int, int(value)), member)
    if not members and not texts:
        return None

    def read(value: Any) -> Any:
        kind = type(value)
        if kind in (str, int, float, bool):
            found = members.get((kind, value), _NOTHING)
            if found is not _NOTHING:
                return found
        if kind is str:
            for parse, write in texts:
                try:
                    moment = parse(value)
                except ValueError:
                    continue
                if write(moment) == value:
                    return moment
        return _NOTHING

    return read


_TIMES: list[tuple[Any, Decoder, Callable[[Any], str]]] = [
    (dt.timedelta, _times.read_duration, _times.write_duration),
    (dt.time, dt.time.fromisoformat, dt.time.isoformat),
]


def _written_names(annotation: Any) -> frozenset[str] | None:
    """The keys under which a class is recorded; None for what is no class with fields."""
    kind: Any = typing.get_origin(annotation) or annotation
    if not isinstance(kind, type):
        return None
    if is_typed_dict(kind):
        return frozenset(typing.get_type_hints(kind))
    if dataclasses.is_dataclass(kind):
        return frozenset(field.name for field in dataclasses.fields(kind))
    fields: Any = getattr(kind, "__pydantic_fields__", None)
    if fields is not None:
        return frozenset(field.serialization_alias or field.alias or name for name, field in fields.items())
    attributes: Any = getattr(kind, "__attrs_attrs__", None)
    return None if attributes is None else frozenset(field.name for field in attributes)


def _fit(keys: frozenset[str], names: frozenset[str] | None) -> int:
    return 2 if names is None else 0 if keys == names else 1 if keys < names else 3


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
        return _made(build, [decoder(element) for element in value])

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
        entries: dict[Any, Any] = _read_dict(value)
        if keys is not None or items is not None:
            pairs = [((keys or identity)(k), (items or identity)(v)) for k, v in entries.items()]
            entries = _made(dict, pairs)
        return entries if build is dict else _made(build, entries)

    return read


def _pydantic(kind: Any) -> Decoder:
    for name, field in getattr(kind, "__pydantic_fields__", {}).items():
        written, alias = field.serialization_alias or field.alias or name, field.validation_alias
        by_name = alias is None or any(kind.model_config.get(setting) for setting in ("populate_by_name", "validate_by_name"))
        if isinstance(alias, (str, type(None))) and written != alias and not (by_name and written == name):
            raise PayloadInvalid(f"{kind.__qualname__} writes its field {name!r} as {written!r} and reads it as {alias or name!r}: give it one alias for both")

    def read(value: Any) -> Any:
        # Never strict: JSON has one kind of list and no enums, and what was recorded was valid then.
        try:
            return kind.model_validate(value, strict=False)
        except Exception as error:
            raise PayloadInvalid(f"{kind.__qualname__}: {_told(error)}") from error

    return read


def _pydantic_scalar(kind: Any) -> Decoder:
    from pydantic import TypeAdapter

    adapter: Any = TypeAdapter(kind)

    def read(value: Any) -> Any:
        try:
            return adapter.validate_python(value)
        except Exception as error:
            raise PayloadInvalid(f"{kind.__qualname__}: {_told(error)}") from error

    return read


def _build_class(kind: type, parameters: dict[Any, Any] | None = None) -> Decoder | None:
    if issubclass(kind, enum.Enum):
        return _enum(kind)
    if is_typed_dict(kind):
        return _typed_dict(kind, parameters)
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
        return _named_tuple(kind, parameters)
    if issubclass(kind, (set, frozenset)) or kind is collections.abc.Set:
        return _collection(Any, frozenset if issubclass(kind, frozenset) else set, _SETS)
    if issubclass(kind, pathlib.PurePath) or kind is os.PathLike:
        path: type = pathlib.Path if kind is os.PathLike else kind
        return _from_text(path, path)
    if kind in (collections.abc.Mapping, collections.abc.MutableMapping):
        return _read_dict
    if kind in (collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection):
        return _exact(list)
    if issubclass(kind, dict):
        return _mapping(kind, Any, Any)
    if hasattr(kind, "__get_pydantic_core_schema__"):  # its types that are no models: HttpUrl
        return _pydantic_scalar(kind)
    for scalar in (str, int, float):
        if issubclass(kind, scalar):
            inner = decoder_of(scalar)
            return lambda value: _made(kind, inner(value))
    raise PayloadInvalid(f"values of type {kind.__qualname__} cannot be read back: use a dataclass, a model, or a plain type")


def _fields(kind: type, names: list[tuple[str, str]], required: set[str], parameters: dict[Any, Any] | None) -> Decoder:
    check_constructor(kind, {argument for _, argument in names})
    hints = annotations_of(kind, parameters)
    plan = [(name, argument, decoder_or_none(hints.get(name, Any)), name in required) for name, argument in names]

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
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
        return _made(kind, **arguments)

    return read


def _enum(kind: Any) -> Decoder:
    values: dict[Any, Any] | None
    try:
        values = {member.value: member for member in kind}
    except TypeError:  # a member whose value has no hash; the class looks for itself
        values = None

    def read(value: Any) -> Any:
        plain = tuple(value) if type(value) is list and values is not None else value
        try:
            return values[plain] if values is not None and plain in values else kind(plain)
        except (TypeError, ValueError):
            raise PayloadInvalid(f"this {type(value).__qualname__} is the value of no {kind.__name__}") from None

    return read


def _typed_dict(kind: Any, parameters: dict[Any, Any] | None = None) -> Decoder:
    hints = annotations_of(kind, parameters)
    decoders = {name: decoder_of(hint) for name, hint in hints.items()}
    required: set[str] = set(kind.__required_keys__)
    for name, hint in hints.items():
        # Under `from __future__ import annotations` the class itself takes the word for a part of a text, and every key for a required one.
        words = qualifiers(hint)
        if words:
            (required.discard if "NotRequired" in words else required.add)(name)

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _mismatch(kind, value)
        entries: dict[str, Any] = value
        missing = required - entries.keys()
        if missing:
            raise PayloadInvalid(f"{kind.__name__}: {', '.join(sorted(missing))} missing")
        return {name: decoders[name](item) if name in decoders else item for name, item in entries.items()}

    return read


def _named_tuple(kind: Any, parameters: dict[Any, Any] | None = None) -> Decoder:
    fields: tuple[str, ...] | None = getattr(kind, "_fields", None)
    if fields is None:
        return lambda value: _made(kind, _sequence(value))
    hints = annotations_of(kind, parameters)
    decoders = [decoder_of(hints.get(name, Any)) for name in fields]

    def read(value: Any) -> Any:
        if isinstance(value, dict):
            entries: dict[str, Any] = value
            return _made(kind, **{name: decoder(entries[name]) for name, decoder in zip(fields, decoders, strict=True) if name in entries})
        items = _sequence(value)
        if len(items) > len(decoders):
            raise PayloadInvalid(f"{kind.__name__}: {len(items)} values for {len(decoders)} fields")
        return _made(kind, *[decoder(item) for decoder, item in zip(decoders, items, strict=False)])

    return read
