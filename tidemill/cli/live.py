"""Progress on stderr: a live line on a terminal, single lines when piped."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tidemill.cli.terminal import printable
from tidemill.masking import message_of
from tidemill.progress import Expected, Progress, Quiet


@contextmanager
def live_progress() -> Iterator[Progress]:
    if sys.stderr.isatty():
        with LiveProgress() as live:
            yield live
    else:
        yield LineProgress()


class Counts:
    """What was done since the start, and the rates that follow."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.shards = self.rows = self.tokens = self.quarantined = 0

    def add(self, shards: int, rows: int, tokens: int, quarantined: int) -> None:
        self.shards += shards
        self.rows += rows
        self.tokens += tokens
        self.quarantined += quarantined

    def rates(self) -> str:
        seconds = max(time.monotonic() - self.started, 1e-9)
        return f"{self.rows / seconds:,.0f} rows/s, {self.tokens / seconds:,.0f} tokens/s"


class LineProgress(Quiet):
    """One line an event, for logs."""

    def __init__(self) -> None:
        self._counts, self._num_shards = Counts(), 0

    def planned(self, expected: Expected) -> None:
        self._counts, self._num_shards = Counts(), expected.num_shards
        more = ", more found by reading" if expected.more else ""
        known = f"{expected.num_shards:,} shards, {expected.num_rows:,} rows{more}"
        _say(f"{expected.pipeline} at {expected.revision[:12]}, version {expected.version}: {known}")

    def committed(self, path: str, *, shards: int, rows: int, tokens: int, quarantined: int) -> None:
        self._counts.add(shards, rows, tokens, quarantined)
        of = f"/{self._num_shards}" if self._num_shards >= self._counts.shards else ""
        also = f", {quarantined:,} quarantined" if quarantined else ""
        _say(f"shard {self._counts.shards}{of}  {path or 'copied'}  {rows:,} rows{also}  ({self._counts.rates()})")

    def failed(self, path: str, error: BaseException) -> None:
        _say(f"failed  {path}: {message_of(error)}")

    def retried(self, what: str, error: BaseException) -> None:
        _say(f"retrying {what}: {message_of(error)}")

    def note(self, message: str) -> None:
        _say(message)


class LiveProgress(Quiet):
    """A bar over the rows, with rates and the time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rows  {task.fields[shards]} shards  {task.fields[rates]}  left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._counts, self._lock = Counts(), threading.Lock()
        self._bar: Any = None
        self._num_shards = 0

    def __enter__(self) -> LiveProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def planned(self, expected: Expected) -> None:
        self._counts, self._num_shards = Counts(), expected.num_shards
        total: Any = expected.num_rows or None
        shards = f"0/{expected.num_shards or '?'}"
        self._bar = self._bars.add_task(expected.pipeline, total=total, shards=shards, rates="")

    def committed(self, path: str, *, shards: int, rows: int, tokens: int, quarantined: int) -> None:
        with self._lock:
            self._counts.add(shards, rows, tokens, quarantined)
            if self._bar is not None:
                self._bars.update(
                    self._bar,
                    advance=rows + quarantined,
                    shards=f"{self._counts.shards}/{self._num_shards or '?'}",
                    rates=self._counts.rates(),
                )

    def failed(self, path: str, error: BaseException) -> None:
        self.note(f"failed  {path}: {message_of(error)}")

    def retried(self, what: str, error: BaseException) -> None:
        self.note(f"retrying {what}: {message_of(error)}")

    def note(self, message: str) -> None:
        self._bars.console.print(printable(message), markup=False, highlight=False)


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)  # noqa: T201
