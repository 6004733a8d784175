"""Errors as documents (`core/docs/payload.md`, "Errors") and back. The caller sees the error rebuilt from the document, the first time too."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import traceback
import typing
import unicodedata
from typing import Any

from . import _codec
from ._decoding import decoder_of
from ._error_base import EverstepError
from ._errors_gen import BY_CODE, AlreadyRegistered, ConfigInvalid, IdInvalid, InternalError, PayloadInvalid, RunCancelled, RunFailed, StepError
from ._options import text

_MAX_MESSAGE = 8 * 1024
_MAX_STACK = 16 * 1024
_MAX_CAUSES = 8
_OWN_FRAMES = __file__.rsplit("/", 1)[0]


class Stopped(BaseException):
    """This execution has ended (released, taken over, drained): the engine unwinds a thread it does not own. Let it pass; nothing done from
    here on is recorded."""


class Cancelled(asyncio.CancelledError):
    """The run was asked to cancel. In asyncio this is the loop's own `CancelledError`; threads see the same class."""

    def __init__(self, by: str = "", why: str = "") -> None:
        super().__init__(f"cancelled by {by}: {why}" if why else f"cancelled by {by}" if by else "cancelled")
        self.by = by
        self.why = why


def error_of(code: str, message: str) -> EverstepError:
    """An answer `[code, message]` of the engine."""
    kind = BY_CODE.get(code)
    return InternalError(f"{code}: {message}", error_code=code) if kind is None else kind(message)


class _Declared:
    """An error type that keeps its class across records: its fields are recorded, and it is rebuilt from them."""

    def __init__(self, code: str, kind: type[Exception]) -> None:
        self.code = code
        self.kind = kind
        if dataclasses.is_dataclass(kind):
            self.fields = tuple(field.name for field in dataclasses.fields(kind) if field.init)
        elif kind.__init__ in (Exception.__init__, BaseException.__init__) or ("__init__" not in kind.__dict__ and kind.__init__ is Exception.__init__):
            self.fields = ()
        else:
            parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
            names = [p.name for p in parameters if p.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)]
            self.fields = tuple(names)
        self._decoders: dict[str, Any] | None = None

    def details(self, error: BaseException) -> dict[str, Any]:
        missing = [name for name in self.fields if not hasattr(error, name)]
        if missing:
            raise PayloadInvalid(f"{self.kind.__name__} declares {', '.join(missing)} in __init__ but has no attribute of that name: it cannot be rebuilt")
        return {name: getattr(error, name) for name in self.fields}

    def rebuild(self, message: str, details: Any) -> Exception:
        if not self.fields:
            return self.kind(*([message] if message else []))
        if self._decoders is None:
            target: Any = self.kind if dataclasses.is_dataclass(self.kind) else self.kind.__init__
            hints = typing.get_type_hints(target, include_extras=True)
            self._decoders = {name: decoder_of(hints.get(name, Any)) for name in self.fields}
        given: dict[str, Any] = details if isinstance(details, dict) else {}
        return self.kind(**{name: self._decoders[name](given[name]) for name in self.fields if name in given})


class DeclaredErrors:
    """The error types of one application, by name and by class."""

    def __init__(self) -> None:
        self._by_code: dict[str, _Declared] = {}
        self._by_kind: dict[type, _Declared] = {}

    def add(self, code: str, kind: type[Exception]) -> None:
        if not 0 < len(text("the code of an error", code).encode("utf-8")) <= 255 or any(unicodedata.category(letter) == "Cc" for letter in code):
            raise IdInvalid("the code of an error must be 1 to 255 bytes of UTF-8 without control characters")
        if not isinstance(kind, type) or not issubclass(kind, Exception):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigInvalid(f"app.error declares an exception type, not {kind!r}")
        known = self._by_code.get(code)
        if (known is not None and known.kind is not kind) or code in BY_CODE:
            raise AlreadyRegistered(f"the error code {code!r} is taken by {known.kind.__qualname__ if known else 'the engine'}")
        self._by_code[code] = self._by_kind[kind] = _Declared(code, kind)

    def of(self, error: BaseException) -> _Declared | None:
        """The nearest declared class: a subclass that is not declared itself comes back as its declared base."""
        for kind in type(error).__mro__:
            found = self._by_kind.get(kind)
            if found is not None:
                return found
        return None

    def named(self, code: str | None) -> _Declared | None:
        return self._by_code.get(code) if code else None


@dataclasses.dataclass
class Failure:
    """One error document."""

    type: str
    message: str
    code: str | None = None
    stack: str | None = None
    cause: Failure | None = None
    details: Any = None
    retryable: bool = True

    @classmethod
    def of(cls, error: BaseException, declared: DeclaredErrors, *, retryable: bool = True, depth: int = 0) -> Failure:
        try:
            return cls._read_from(error, declared, retryable, depth)
        except Exception as problem:
            # A class of the program's own that never called `super().__init__`, a property that raises. The failure must be recorded, or the run never ends.
            return cls(type(error).__qualname__, f"<reading it raised {type(problem).__name__}>", retryable=retryable)

    @classmethod
    def _read_from(cls, error: BaseException, declared: DeclaredErrors, retryable: bool, depth: int) -> Failure:
        following = error.__cause__ or _first_inside(error) or (None if error.__suppress_context__ else error.__context__)
        cause = cls.of(following, declared, depth=depth + 1) if following is not None and depth < _MAX_CAUSES else None
        stack = _stack_of(error)
        if isinstance(error, EverstepError):
            code: Any = error.error_code
            return cls(
                str(error.error_type or type(error).__name__),
                str(error.message)[:_MAX_MESSAGE],
                None if code is None else str(code),
                error.stack or stack,
                cause,
                error.details,
                retryable,
            )
        known = declared.of(error)
        message, details = _message_of(error), None
        if known is not None:
            try:
                details = known.details(error)
            except Exception as problem:
                # The failure itself must be recorded, or the run would never end.
                message, known = f"{message} ({getattr(problem, 'message', problem)})", None
        return cls(type(error).__qualname__, message, known.code if known else None, stack, cause, details, retryable)

    @classmethod
    def read(cls, data: bytes | None) -> Failure:
        value = _codec.decode(data) if data else {}
        return cls._from(value, 0)

    @classmethod
    def _from(cls, value: Any, depth: int) -> Failure:
        if not isinstance(value, dict):
            return cls("Error", str(value))
        given: dict[str, Any] = value
        cause: Any = given.get("cause")
        return cls(
            type=str(given.get("type") or "Error"),
            message=str(given.get("message") or ""),
            code=given.get("code"),
            stack=given.get("stack"),
            cause=cls._from(cause, depth + 1) if cause is not None and depth < _MAX_CAUSES else None,
            details=given.get("details"),
            retryable=given.get("retryable") is not False,
        )

    def document(self) -> dict[str, Any]:
        cause = self.cause.document() if self.cause is not None else None
        return {
            "type": self.type,
            "code": self.code,
            "message": self.message,
            "stack": self.stack,
            "cause": cause,
            "details": self.details,
            "retryable": self.retryable,
        }

    def encode(self) -> bytes:
        try:
            return _codec.encode(self.document())
        except PayloadInvalid as error:
            # The details cannot be stored; the error itself must be, or the failure would be lost.
            plain = dataclasses.replace(self, details=None, message=_printable(f"{self.message} ({error.message})"), stack=None, cause=None)
            return _codec.encode(plain.document())

    def exception(self, declared: DeclaredErrors) -> Exception:
        """The error a workflow sees for a failed step."""
        known = declared.named(self.code)
        out: Exception | None = None
        if known is not None:
            try:
                out = known.rebuild(self.message, self.details)
            except Exception as error:
                note = f" (the declared {known.kind.__name__} could not be rebuilt: {error})"
                out = StepError(self.message + note, error_code=self.code, error_type=self.type, details=self.details, stack=self.stack)
        if out is None:
            kind = BY_CODE.get(self.code or "", StepError)
            own_name = kind.__name__ == self.type
            out = kind(self.message, error_code=self.code, error_type=None if own_name else self.type, details=self.details, stack=self.stack)
        if self.cause is not None:
            out.__cause__ = self.cause.exception(declared)
        return out

    def of_run(self, run: str, declared: DeclaredErrors) -> Exception:
        """The error a caller of `result()` sees: `RunFailed` with the run's own error as its cause."""
        if self.code == RunCancelled.code:
            return RunCancelled(self.message, run=run)
        inner = self.exception(declared)
        text = f"{self.type}: {self.message}" if self.message else self.type
        out = RunFailed(text, error_type=None, details=self.details, stack=self.stack, run=run)
        out.__cause__ = inner
        return out


def _message_of(error: BaseException) -> str:
    try:
        text = "\n".join([str(error), *getattr(error, "__notes__", ())])
    except Exception as broken:
        text = f"<its text raised {type(broken).__name__}>"
    return _printable(text)[:_MAX_MESSAGE]


def _first_inside(error: BaseException) -> BaseException | None:
    """Of an exception group (a `TaskGroup` raises one) the first error: its own text names none of them."""
    inside: Any = getattr(error, "exceptions", None)
    return inside[0] if isinstance(inside, tuple) and inside and isinstance(inside[0], BaseException) else None


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _stack_of(error: BaseException) -> str | None:
    if error.__traceback__ is None:
        return None
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_OWN_FRAMES)]
    return _printable("".join(traceback.format_list(frames)))[-_MAX_STACK:] or None
