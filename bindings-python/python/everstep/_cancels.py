"""Cancels of asyncio tasks: those the engine sends itself, and those that come from outside a run.

asyncio does not say who cancelled a task. A signal of the engine, a `timeout` of the program and the end of `asyncio.run` all arrive as `CancelledError`,
and mean three things: go on without this step, raise here, and this process no longer runs it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

_HAS_UNCANCEL = sys.version_info >= (3, 11)


class RunTask(asyncio.Task[None]):
    """The task of an execution: it notes a cancel that neither the run's own code nor the engine sent.

    `timeout`, `TaskGroup` and their like cancel from callbacks, which keep the context of the code that made them; the end of `asyncio.run`, or another
    task that ends everything, has a context of its own. `cancelling()` would not do: 3.10 has none, and a task that cancels itself counts there too.
    """

    def __init__(self, work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop, inside: Callable[[], bool]) -> None:
        self._inside = inside
        self.cancelled_from_outside = False
        super().__init__(work, loop=loop)

    def cancel(self, msg: Any = None) -> bool:
        if not self._inside():
            self.cancelled_from_outside = True
        return super().cancel(msg)


def send_cancel(task: asyncio.Task[Any]) -> None:
    """A cancel of the engine's own."""
    if isinstance(task, RunTask):
        asyncio.Task.cancel(task)
    else:
        task.cancel()


async def take_back(task: asyncio.Task[Any], stopped: Callable[[], bool]) -> None:
    """After the function that a cancel of the engine's was for, however it ended: raised by the cancel, in spite of it, or before it arrived. It must
    neither reach the workflow's own code nor count against a `timeout` or `TaskGroup` around it."""
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        if stopped():
            raise
    if _HAS_UNCANCEL:
        task.uncancel()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
