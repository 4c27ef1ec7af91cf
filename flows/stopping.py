"""SIGTERM as a request: stages are asked to stop, and the run records how far it came.

Prefect raises an exception wherever the main thread happens to be, which may be
the middle of a query or of the run's last write, and a worker that cancels can
send the signal twice.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopping:
    """Sets every event that it was given, once the signal came."""

    def __init__(self) -> None:
        self._asked = False
        self._events: list[threading.Event] = []

    def tell(self, event: threading.Event) -> None:
        self._events.append(event)
        if self._asked:
            event.set()

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        for event in self._events:
            event.set()


_current: Stopping | None = None


@contextmanager
def stopping_gently() -> Iterator[None]:
    """Take SIGTERM so for the length of a block, which runs in the process's main thread."""
    global _current
    _current = Stopping()
    before = signal.signal(signal.SIGTERM, _current)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _current = None


def tell_when_stopping(event: threading.Event) -> None:
    """Set `event` once this process is asked to stop; never, if it does not stop gently."""
    if _current is not None:
        _current.tell(event)
