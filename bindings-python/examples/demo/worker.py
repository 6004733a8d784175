"""One Everstep worker: nothing but the application, launched until it is told to stop."""

from __future__ import annotations

import signal
import threading

from app import app

if __name__ == "__main__":
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    with app:
        stop.wait()
