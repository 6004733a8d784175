"""A function as the engine knows it: name, kind, how to call it, with which defaults."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import inspect
from collections.abc import Callable
from typing import Any

from ._errors_gen import ConfigInvalid
from ._ops_gen import RETRY
from ._options import Retry, RunOptions, policy_record, text
from ._signature import Signature
from ._times import milliseconds

_NO_METHOD = "this is a method without its object: declare the bound one, app.step(service.method), once the object exists"


class Registered:
    """`kind`: workflow | step. A transaction is a step whose first parameter is not the caller's."""

    #: Whether the engine is told of it: a transaction cannot be started by itself.
    startable = True

    def __init__(
        self,
        function: Callable[..., Any],
        kind: str,
        name: str | None,
        *,
        defaults: RunOptions | None = None,
        retry: Retry | None = None,
        version: str | None = None,
        policy: tuple[Any, ...] | None = None,
        skip: int = 0,
        is_async: bool | None = None,
    ) -> None:
        if isinstance(function, (classmethod, staticmethod)):
            raise ConfigInvalid(_NO_METHOD)
        if not callable(function):
            raise ConfigInvalid(f"decorate a function, not {type(function).__name__}")  # pyright: ignore[reportUnreachable]
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigInvalid("a generator function has no result to record: return a list")
        named = getattr(function, "__name__", "") if name is None else name
        if name is None and named in ("", "<lambda>"):
            raise ConfigInvalid("this function has no name of its own: give one, name=")
        self.function = function
        self.kind = kind
        self.name = text("the name of a function", named)
        if is_async is None:
            # An object with `async def __call__` is async too.
            is_async = asyncio.iscoroutinefunction(function) or (
                not isinstance(function, type) and asyncio.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
            )
        self.is_async = is_async
        self.signature = Signature(function, skip=skip)
        if inspect.isfunction(function) and self.signature.names[:1] == ("self",) and not skip:
            raise ConfigInvalid(_NO_METHOD)
        if kind == "workflow" and isinstance(function, type):
            raise ConfigInvalid(f"a workflow is a function, not the class {named!r}")
        self.defaults = defaults or RunOptions()
        self.retry = retry
        self.version = version
        self.policy = policy
        if kind == "workflow" and self.signature.variadic:
            raise ConfigInvalid(f"workflow {named!r}: *args and **kwargs have no form on the wire; name the parameters")

    @property
    def registration(self) -> dict[str, Any]:
        """What the engine is told beyond the name: the defaults of runs started here."""
        out: dict[str, Any] = {}
        if self.policy is not None:
            out["retry"] = {name: value for name, value in zip(RETRY, self.policy, strict=False) if value is not None}
        if self.defaults.deadline is not None:
            out["deadline_ms"] = milliseconds(self.defaults.deadline)
        for name in ("on_finish", "label"):
            if getattr(self.defaults, name) is not None:
                out[name] = getattr(self.defaults, name)
        return out

    def with_policy(self, retry: Retry | None, timeout: dt.timedelta | None) -> Registered:
        """The same function, with what one call says about attempts laid over what the declaration says."""
        out = copy.copy(self)
        out.retry = self.retry if retry is None else retry.over(self.retry)
        out.policy = policy_record(out.retry, self.defaults.timeout if timeout is None else timeout, self.defaults.at_most_once)
        return out

    @property
    def where(self) -> str:
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(self.function)

    def retryable(self, error: BaseException) -> bool:
        return self.retry is None or self.retry.allows(error)
