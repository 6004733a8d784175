"""A process that is nothing but a worker: works until it is asked to stop, then drains. Orchestrators stop a process with SIGTERM, a terminal with SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import signal
import threading
from collections.abc import Generator
from typing import Any

from ._errors_gen import ConfigInvalid

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def check_main_thread() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise ConfigInvalid("serve waits for signals, which only the main thread gets: use launch() and close() on this one")


@contextlib.contextmanager
def asked_to_stop() -> Generator[queue.SimpleQueue[int], None, None]:
    """Signals that come inside, in their order. From the end on a signal, whichever, does what it did before: it cuts the drain short."""
    check_main_thread()
    # An Event is no place to put them: its lock may be held by the very code the handler interrupts. This queue's `put` may be called anywhere.
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()
    before: list[tuple[int, Any]] = []
    try:
        for number in _SIGNALS:
            before.append((number, signal.signal(number, lambda number, _: asked.put(number))))
        yield asked
    finally:
        for number, handler in before:
            # None: set by something that is not Python, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def asked_to_stop_async() -> Generator[asyncio.Event, None, None]:
    """The same on the running loop."""
    check_main_thread()
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    # `asyncio.run` has a handler of its own for SIGINT, which the loop's would replace by the default one.
    before = [(number, signal.getsignal(number)) for number in _SIGNALS]
    try:
        for number in _SIGNALS:
            loop.add_signal_handler(number, asked.set)
        yield asked
    finally:
        for number, handler in before:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
