"""How far a run is, in a notebook's output or on stderr: one line that is written over."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tidemill.masking import message_of
from tidemill.progress import Expected, Progress, Quiet


@contextmanager
def shown_progress(asked: bool | Progress | None) -> Iterator[Progress]:
    """The progress that was asked for, or one line where a notebook shows it."""
    if isinstance(asked, bool) or asked is None:
        if not (in_notebook() if asked is None else asked):
            yield Quiet()
            return
        # What goes to stderr, notebooks show as a fault.
        line = Line(sys.stdout, over=True) if in_notebook() else Line(sys.stderr, over=sys.stderr.isatty())
        try:
            yield line
        finally:
            line.end()
    else:
        yield asked


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this, whose output its reader sees grow."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


class Line(Quiet):
    """A line of shards, rows and rows a second; `over` writes it over the one before. Called from several threads."""

    def __init__(self, stream: TextIO, *, over: bool) -> None:
        self._stream, self._over, self._lock = stream, over, threading.Lock()
        self._expected: Expected | None = None
        self._shards = self._rows = self._width = 0
        self._started = time.monotonic()

    def planned(self, expected: Expected) -> None:
        with self._lock:
            self._expected, self._shards, self._rows, self._started = expected, 0, 0, time.monotonic()
            self._show()

    def committed(self, path: str, *, shards: int, rows: int, tokens: int, quarantined: int) -> None:
        with self._lock:
            self._shards += shards
            self._rows += rows + quarantined
            self._show()

    def failed(self, path: str, error: BaseException) -> None:
        self.note(f"failed  {path}: {message_of(error)}")

    def retried(self, what: str, error: BaseException) -> None:
        self.note(f"retrying {what}: {message_of(error)}")

    def note(self, message: str) -> None:
        with self._lock:
            self._write(message, ends=True)
            if self._over and self._expected:
                self._show()

    def end(self) -> None:
        """Leave the line as it is."""
        with self._lock:
            if self._over and self._width:
                self._stream.write("\n")
                self._width = 0

    def _show(self) -> None:
        assert self._expected is not None
        expected = self._expected
        shards = _of(self._shards, expected.num_shards, more=expected.more)
        rows = _of(self._rows, expected.num_rows, more=expected.more)
        rate = self._rows / max(time.monotonic() - self._started, 1e-3)
        told = f"{expected.pipeline}: {shards} shards, {rows} rows, {rate:,.0f} rows/s"
        self._write(told, ends=not self._over)

    def _write(self, text: str, *, ends: bool) -> None:
        flat = " ".join(text.split())
        before = f"\r{' ' * self._width}\r" if self._width else ""
        self._width = 0 if ends else len(flat)
        self._stream.write(f"{before}{flat}" + ("\n" if ends else ""))
        self._stream.flush()


def _of(done: int, expected: int, *, more: bool) -> str:
    return f"{done:,}/{max(expected, done):,}{'+' if more else ''}"
