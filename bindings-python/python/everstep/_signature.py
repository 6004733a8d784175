"""A function's parameters as the one value of the wire, and its result by annotation. Everything is worked out once, at registration or at
first use; nothing inspects at call time."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from . import _codec
from ._decoding import Decoder, decoder_or_none
from ._errors_gen import ConfigInvalid, PayloadInvalid, UnknownWorkflow

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_UNSET: Any = object()


class Signature:
    """`skip`: leading parameters that are not the caller's (a transaction)."""

    def __init__(self, function: Callable[..., Any], *, skip: int = 0, returns: Any = _UNSET) -> None:
        self._function = function
        self._returns = returns
        try:
            parameters = list(inspect.signature(function).parameters.values())[skip:]
        except ValueError:
            raise ConfigInvalid(f"{function!r} does not say what it takes: wrap it in a function of yours") from None
        self.names = tuple(parameter.name for parameter in parameters)
        self.variadic = any(parameter.kind in _VARIADIC for parameter in parameters)
        self._positional = sum(parameter.kind in _POSITIONAL for parameter in parameters)
        self._positional_only = sum(parameter.kind is inspect.Parameter.POSITIONAL_ONLY for parameter in parameters)
        self._required = frozenset(p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in _VARIADIC)
        self._decoders: dict[str, Decoder | None] | None = None
        self._result: Any = _UNSET

    @property
    def name(self) -> str:
        return getattr(self._function, "__qualname__", repr(self._function))

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
        """The wire input, or None where the function takes nothing."""
        if not kwargs and len(args) == 1 and len(self.names) == 1 and not self.variadic:
            return self._encoded(args[0])
        if not args and not kwargs and (not self.names or not self._required):
            return None
        if self.variadic:
            data = self._encoded([list(args), kwargs] if kwargs else list(args))
            if not kwargs and len(args) == 2 and _with_keywords(_codec.decode(data)):
                return self._encoded([list(args), {}])  # a list and an object: read as the arguments and the keywords
            return data
        if len(args) > self._positional:
            raise TypeError(f"{self.name}() takes {self._positional} positional arguments but {len(args)} were given")
        given = dict(zip(self.names, args, strict=False))
        for key, value in kwargs.items():
            if key in given or key not in self.names:
                raise TypeError(f"{self.name}() got {'multiple values for' if key in given else 'an unexpected keyword'} argument {key!r}")
            given[key] = value
        missing = self._required - given.keys()
        if missing:
            raise TypeError(f"{self.name}() missing argument: {', '.join(sorted(missing))}")
        if len(self.names) == 1:
            return self._encoded(given[self.names[0]])
        return self._encoded({name: given[name] for name in self.names if name in given} if kwargs else given)

    def encode_input(self, value: Any) -> bytes | None:
        """The wire input from one value: of the only parameter, or a mapping by parameter name."""
        if len(self.names) > 1:
            if not isinstance(value, Mapping):
                raise PayloadInvalid(f"{self.name} takes several parameters: each input is a mapping by parameter name, not {type(value).__name__!r}")
            return self.encode((), dict(value))  # pyright: ignore[reportUnknownArgumentType]
        return self.encode((value,), {}) if self.names else None

    def _encoded(self, value: Any) -> bytes:
        try:
            return _codec.encode(value)
        except PayloadInvalid as error:
            raise PayloadInvalid(f"argument of {self.name}: {error.message}") from error.__cause__

    def _hints(self) -> dict[str, Any]:
        target: Any = inspect.unwrap(self._function)
        if not inspect.isroutine(target):
            target = type(target).__call__
        try:
            return typing.get_type_hints(target, include_extras=True)
        except NameError as error:
            raise PayloadInvalid(f"an annotation of {self.name} cannot be resolved: {error}. Define the type at module level") from error

    def prepare(self) -> None:
        """Builds the decoders: at launch, so that a type that cannot be read back is found before the first run."""
        if self._decoders is None:
            hints = self._hints()
            self._result = self._decoder("the result", _awaited(hints.get("return", Any)) if self._returns is _UNSET else self._returns)
            self._decoders = {name: self._decoder(f"parameter {name!r}", hints.get(name, Any)) for name in self.names}

    def _decoder(self, what: str, annotation: Any) -> Decoder | None:
        try:
            return decoder_or_none(annotation)
        except PayloadInvalid as error:
            raise PayloadInvalid(f"{what} of {self.name}: {error.message}") from error.__cause__

    def decode(self, data: bytes | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self.prepare()
        decoders: Any = self._decoders
        if self.variadic:
            value = _codec.decode(data) if data else []
            if _with_keywords(value):
                return tuple(value[0]), value[1]
            return tuple(value), {}
        value = _codec.decode(data) if data else None
        if not self.names or (data is None and not self._required):
            return (), {}
        if len(self.names) == 1:
            given = {self.names[0]: value}
        elif isinstance(value, dict):
            given: dict[str, Any] = value
        else:
            raise PayloadInvalid(f"{self.name} takes several parameters: its input is an object keyed by parameter name")
        missing = self._required - given.keys()
        if missing:
            raise PayloadInvalid(f"the input of {self.name} lacks {', '.join(sorted(missing))}")
        out: dict[str, Any] = {}
        for name in self.names:
            if name in given:
                decoder = decoders[name]
                try:
                    out[name] = given[name] if decoder is None else decoder(given[name])
                except PayloadInvalid as error:
                    raise PayloadInvalid(f"parameter {name!r} of {self.name}: {error.message}") from error
        return tuple(out.pop(name) for name in self.names[: self._positional_only]), out

    def result(self, data: bytes | None) -> Any:
        """The decoded result."""
        if self._decoders is None:
            self.prepare()
        return self._read(_codec.decode(data) if data else None)

    def _read(self, value: Any) -> Any:
        decoder = self._result
        if decoder is None:
            return value
        try:
            return decoder(value)
        except PayloadInvalid as error:
            raise PayloadInvalid(f"result of {self.name}: {error.message}") from error

    def returned(self, value: Any, data: bytes) -> Any:
        """What the caller sees of a value just encoded: as decoded. A text or whole number equals its own decoding, so nothing is parsed."""
        kind = type(value)
        if kind is str or value is None or kind is bool or (kind is int and -_codec.MAX_SAFE <= value <= _codec.MAX_SAFE):
            if self._decoders is None:
                self.prepare()
            return self._read(value)
        return self.result(data)


def _with_keywords(value: Any) -> bool:
    """Of a function with `*args` or `**kwargs`: its input is [positional, keywords], or the positional ones alone."""
    return len(value) == 2 and isinstance(value[0], list) and isinstance(value[1], dict)


def _awaited(annotation: Any) -> Any:
    """`Coroutine[Any, Any, T]` and `Awaitable[T]` of a plain function that returns a coroutine."""
    origin = typing.get_origin(annotation)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Coroutine):
        return typing.get_args(annotation)[2]
    return annotation


class ForeignSignature:
    """The input and result of a workflow that is not defined in this program: values as they are, the result by the given type."""

    names: tuple[str, ...] = ()

    def __init__(self, name: str, returns: Any) -> None:
        self.name = name
        self._returns = returns

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
        if args and (kwargs or len(args) > 1):
            raise UnknownWorkflow(f"{self.name} is not defined here: give its one input, or several as keywords")
        return _codec.encode(args[0]) if args else _codec.encode(kwargs) if kwargs else None

    def encode_input(self, value: Any) -> bytes | None:
        return _codec.encode(value)

    def prepare(self) -> None:
        decoder_or_none(self._returns)

    def result(self, data: bytes | None) -> Any:
        value = _codec.decode(data) if data else None
        decoder = decoder_or_none(self._returns)
        return value if decoder is None else decoder(value)
