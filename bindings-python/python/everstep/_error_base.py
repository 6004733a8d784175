"""The base of every error, apart from the generated classes so that both can import it."""

from __future__ import annotations

from typing import Any, ClassVar


class EverstepError(Exception):
    """Base of all errors of Everstep. `code` is stable; the text is not."""

    code: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str = "",
        *,
        error_code: str | None = None,
        error_type: str | None = None,
        details: Any = None,
        stack: str | None = None,
        run: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        #: The declared name of an error this program does not declare, else `code`.
        self.error_code: str = error_code or type(self).code
        #: Type of the original error in the language that raised it.
        self.error_type = error_type
        #: Fields of a declared error.
        self.details = details
        #: Stack of the original error.
        self.stack = stack
        #: Key of the run this is about.
        self.run = run

    def __str__(self) -> str:
        return f"[{self.error_code}] {self.message}" if self.message else f"[{self.error_code}]"


class SetupError(EverstepError):
    """A person must act: configuration, credentials, schema."""


class UsageError(EverstepError):
    """The program is wrong."""


class RunError(EverstepError):
    """About one run."""
