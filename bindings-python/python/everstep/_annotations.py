"""What an annotation says beyond its type: qualifiers, names for other types, the type parameters of generic classes and of their bases."""

from __future__ import annotations

import inspect
import typing
from typing import Any

from ._errors_gen import PayloadInvalid


def bare(annotation: Any) -> Any:
    """Without `Annotated` and the name of a `NewType` or alias."""
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        else:
            return annotation


def is_qualifier(origin: Any) -> bool:
    """Of `typing` or, on older Pythons, of `typing_extensions`."""
    return origin is typing.Annotated or getattr(origin, "_name", None) in ("Required", "NotRequired", "ReadOnly")


def qualifiers(hint: Any) -> set[str]:
    words: set[str] = set()
    origin: Any = typing.get_origin(hint)
    while origin is not None and is_qualifier(origin):
        words.add(getattr(origin, "_name", None) or "")
        hint = typing.get_args(hint)[0]
        origin = typing.get_origin(hint)
    return words & {"Required", "NotRequired"}


def is_typed_dict(kind: Any) -> bool:
    """That of `typing_extensions` is a class of its own before Python 3.13, which `typing.is_typeddict` does not know."""
    return isinstance(kind, type) and issubclass(kind, dict) and hasattr(kind, "__required_keys__")


def _hints(kind: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except (NameError, TypeError) as error:  # the second: Python 3.10 on an `InitVar` written as text
        raise PayloadInvalid(f"an annotation of {kind.__qualname__} cannot be resolved: {error}") from error


def _substituted(annotation: Any, parameters: dict[Any, Any] | None) -> Any:
    if not parameters:
        return annotation
    if annotation in parameters:
        return parameters[annotation]
    inner = getattr(annotation, "__parameters__", ())
    return annotation[tuple(parameters.get(name, name) for name in inner)] if inner else annotation


def parameters_of(kind: Any, args: tuple[Any, ...]) -> dict[Any, Any]:
    return dict(zip(getattr(kind, "__parameters__", ()), args, strict=False))


def annotations_of(kind: Any, parameters: dict[Any, Any] | None) -> dict[str, Any]:
    """The annotation of each field, with what this class and its bases say their type parameters are: `class Colors(Box[Color])`."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__dict__.get("__orig_bases__", kind.__bases__)):
        origin: Any = typing.get_origin(base) or base
        if isinstance(origin, type) and origin not in (object, typing.Generic, tuple, dict):
            args = tuple(_substituted(arg, parameters) for arg in typing.get_args(base))
            found |= annotations_of(origin, parameters_of(origin, args))
    hints = _hints(kind)
    for name in inspect.get_annotations(kind):
        # A TypedDict lists those of its bases among its own.
        if name in hints and not (name in found and is_typed_dict(kind)):
            found[name] = _substituted(hints[name], parameters)
    return found


def check_constructor(kind: Any, given: set[str]) -> None:
    """Found at launch: what the constructor asks for and no field has recorded, an `InitVar` for example."""
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (ValueError, TypeError):
        return
    wanted = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    missing = [p.name for p in parameters if p.kind in wanted and p.default is p.empty and p.name not in given]
    if missing:
        raise PayloadInvalid(f"{kind.__qualname__} cannot be built from its fields: its constructor also takes {', '.join(missing)}")


def is_local(definition: Any) -> bool:
    """Whether this function or class is defined inside a function, which makes a new one each time it runs."""
    return "<locals>" in str(getattr(definition, "__qualname__", ""))
