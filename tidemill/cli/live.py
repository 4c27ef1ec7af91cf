"""Progress on stderr: a live line on a terminal, lines now and then when piped."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tidemill.cli.meter import Meter
from tidemill.cli.silence import break_silence
from tidemill.cli.terminal import printable
from tidemill.errors import counted
from tidemill.masking import message_of
from tidemill.progress import Expected, Progress, Quiet

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

TICK_SECONDS = 0.25
LINE_SECONDS, MOST_LINE_SECONDS = 2.0, 60.0
"""Between two lines about how far a run is: at first, and of one that takes an hour."""
TOLD_ONE_BY_ONE = 20
"""Commits that have a line each; of those that follow fast upon each other, later ones share it."""
LINE_WIDTH = 78


@contextmanager
def live_progress() -> Iterator[Progress]:
    break_silence()
    with LiveProgress() if sys.stderr.isatty() else LineProgress() as progress:
        yield progress


class LineProgress(Quiet):
    """For logs: a line an event, and in between how far the run is, the less often the longer it takes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.meter, self._clock = Meter(clock), clock
        self._last_line = clock()
        self._what = ""
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick_until_the_end, name="progress", daemon=True)

    def __enter__(self) -> LineProgress:
        self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._ticker.join()

    def tick(self) -> None:
        """Say how far the run is, if that is due."""
        if self.meter.is_at_work and self._clock() - self._last_line >= self._seconds_between():
            self._say(f"  {self.meter.text(LINE_WIDTH)}")

    def doing(self, what: str) -> None:
        self.meter.doing(what)
        if what != self._what:
            self._what = what
            self._say(what)

    def planned(self, expected: Expected) -> None:
        self.meter.planned(expected)
        self._say(plan_line(expected))

    def worked(self, label: str, stage: str, *, done: int, total: int, rows: int) -> None:
        self.meter.worked(label, stage, done=done, total=total, rows=rows)

    def wrote(self, tokens: int) -> None:
        self.meter.wrote(tokens)

    def committed(self, path: str, *, shards: int, rows: int, tokens: int, quarantined: int) -> None:
        meter = self.meter
        meter.committed(shards=shards, rows=rows, tokens=tokens, quarantined=quarantined)
        if meter.shards > TOLD_ONE_BY_ONE and self._clock() - self._last_line < self._seconds_between():
            return
        known = meter.expected.num_shards if meter.expected is not None else 0
        of = f"/{known:,}" if known >= meter.shards else ""
        also = f", {quarantined:,} quarantined" if quarantined else ""
        self._say(f"shard {meter.shards:,}{of}  {path or 'copied'}  {counted(rows, 'row')}{also}  ({meter.rates()})")

    def failed(self, path: str, error: BaseException) -> None:
        self.meter.failed(path)
        self._say(f"failed  {path}: {message_of(error)}")

    def retried(self, what: str, error: BaseException) -> None:
        self._say(f"retrying {what}: {message_of(error)}")

    def note(self, message: str) -> None:
        self._say(message)

    def _seconds_between(self) -> float:
        return min(MOST_LINE_SECONDS, max(LINE_SECONDS, self.meter.elapsed_seconds / 60))

    def _say(self, line: str) -> None:
        self._last_line = self._clock()
        _say(line)

    def _tick_until_the_end(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            self.tick()


class LiveProgress(Quiet):
    """One line at the foot of the terminal: a bar, rows, shards, tokens a second and the time left."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self.meter = Meter(clock)
        self._console = console or Console(stderr=True)
        self._live = Live(
            console=self._console, get_renderable=self.line, refresh_per_second=8, transient=True, redirect_stdout=False
        )

    def __enter__(self) -> LiveProgress:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def line(self) -> RenderableType:
        """How far the run is, as wide as the terminal at most."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        expected, share = self.meter.expected, self.meter.share
        if expected is None or share is None:
            return Text(printable(self.meter.text(self._console.width - 1)), no_wrap=True)
        name, percent = printable(expected.pipeline)[:20], f"{share:4.0%}"
        bar = max(8, min(30, self._console.width - 70))
        grid: Any = Table.grid(padding=(0, 1))
        room = self._console.width - len(name) - bar - len(percent) - 4
        cells = (name, ProgressBar(1.0, share, width=bar), percent, Text(self.meter.text(room), no_wrap=True))
        grid.add_row(*cells)
        return grid  # type: ignore[no-any-return]

    def doing(self, what: str) -> None:
        self.meter.doing(what)

    def planned(self, expected: Expected) -> None:
        self.meter.planned(expected)
        self.note(plan_line(expected))

    def worked(self, label: str, stage: str, *, done: int, total: int, rows: int) -> None:
        self.meter.worked(label, stage, done=done, total=total, rows=rows)

    def wrote(self, tokens: int) -> None:
        self.meter.wrote(tokens)

    def committed(self, path: str, *, shards: int, rows: int, tokens: int, quarantined: int) -> None:
        self.meter.committed(shards=shards, rows=rows, tokens=tokens, quarantined=quarantined)

    def failed(self, path: str, error: BaseException) -> None:
        self.meter.failed(path)
        self.note(f"failed  {path}: {message_of(error)}")

    def retried(self, what: str, error: BaseException) -> None:
        self.note(f"retrying {what}: {message_of(error)}")

    def note(self, message: str) -> None:
        self._console.print(printable(message), markup=False, highlight=False)


def plan_line(expected: Expected) -> str:
    """What is to be done, once it is known."""
    if not expected.more:
        work = f"{counted(expected.num_shards, 'shard')}, {counted(expected.num_rows, 'row')}"
    else:  # Text files are cut into shards while they are read.
        work = f"{f'{expected.num_shards:,}+ shards, ' if expected.num_shards else ''}~{expected.num_rows:,} rows"
    return f"{expected.pipeline} at {expected.revision[:12]}, version {expected.version}: {work}"


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)  # noqa: T201
