"""How far a run is, how fast, and how long it still takes: what its events come to at a moment."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tidemill.errors import counted
from tidemill.progress import Expected

WINDOW_SECONDS = 30.0
"""Over which the rate is measured: long enough for several batches, and short enough for what lies behind to fade."""
MEASURED_SECONDS = 3.0
"""Of inference, before there is a word about what is left."""
MEASURED_BATCHES = 3


@dataclass
class _Shard:
    """A shard in a stage: of `infer`, how many of its distinct tokens are computed."""

    stage: str
    done: int
    total: int
    rows: int

    @property
    def rows_done(self) -> float:
        return self.rows * self.done / self.total if self.total else self.rows


class Meter:
    """What is known of a run so far. Threads may tell it, and ask it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.RLock()
        self._began = self._doing_since = clock()
        self._what = ""
        self.expected: Expected | None = None
        self._start_over()

    def _start_over(self) -> None:
        self._planned_at = self._clock()
        self.shards = self.rows = self.tokens = self.quarantined = self.new_tokens = 0
        self._working: dict[str, _Shard] = {}
        self._in_the_model: set[str] = set()
        """Shards that were in mid-inference when something else was begun."""
        self._tokens_before = self._shard_tokens = self._shard_rows = self._rows_computed = 0
        self._measured: deque[tuple[float, int]] = deque()

    def doing(self, what: str) -> None:
        with self._lock:
            self._what, self._doing_since = what, self._clock()
            self._in_the_model = {label for label, one in self._working.items() if one.stage == "infer" and one.done}
            self._measured.clear()

    def planned(self, expected: Expected) -> None:
        with self._lock:
            self.expected, self._what = expected, ""
            self._start_over()

    def worked(self, label: str, stage: str, *, done: int, total: int, rows: int) -> None:
        with self._lock:
            before = self._working.get(label)
            self._working[label] = _Shard(stage, done, total, rows)
            if stage != "infer":
                if done >= total:
                    del self._working[label]
                return
            if done and label not in self._in_the_model:  # The last batches of the shard before say nothing of it.
                self._what = ""
            if before is None or before.stage != stage:
                self._shard_tokens += total
                self._shard_rows += rows
            if done >= total:
                del self._working[label]
                self._tokens_before += total
                self._rows_computed += rows
            self._measure()

    def wrote(self, tokens: int) -> None:
        with self._lock:
            self.new_tokens += tokens

    def committed(self, *, shards: int, rows: int, tokens: int, quarantined: int) -> None:
        with self._lock:
            self.shards += shards
            self.rows += rows
            self.tokens += tokens
            self.quarantined += quarantined

    def failed(self, path: str) -> None:
        with self._lock:
            self._working = {label: one for label, one in self._working.items() if not label.startswith(f"{path}:")}

    @property
    def elapsed_seconds(self) -> float:
        return self._clock() - self._began

    @property
    def is_at_work(self) -> bool:
        return bool(self._what) or self.expected is not None

    @property
    def share(self) -> float | None:
        """Of the expected rows, how many are computed; None where reading will find more than that."""
        if self.expected is None or not self.expected.num_rows or self._num_rows() > self.expected.num_rows:
            return None
        return self._num_rows() / self.expected.num_rows

    def rates(self) -> str:
        """Of what is committed, since the plan was made."""
        seconds = max(self._clock() - self._planned_at, 1e-9)
        rows, tokens = round(self.rows / seconds), round(self.tokens / seconds)
        return f"{counted(rows, 'row')}/s, {counted(tokens, 'token')}/s"

    def text(self, width: int) -> str:
        """The state in one line of at most so many characters, the less important left out first."""
        with self._lock:
            parts = self._inference() or self._tokenization() or [self._what or self._between(), self._elapsed()]
        while len("  ".join(parts)) > width and len(parts) > 2:
            del parts[1]
        line = "  ".join(parts)
        return line if len(line) <= width else line[: width - 1] + "…"

    def seconds_left(self) -> float | None:
        """By the tokens of the shards that are known and the rows of those that are not; None until there is a measure.

        A shard whose text is not read yet is taken to have as many tokens a row as those before it.
        """
        rate = self._tokens_per_second()
        if rate is None or rate <= 0 or self.expected is None or not self._shard_rows:
            return None
        unseen = self.expected.num_rows - self._shard_rows
        begun = sum(one.total - one.done for one in self._working.values() if one.stage == "infer")
        left = begun + max(0, unseen) * self._shard_tokens / self._shard_rows
        return left / rate

    def _measure(self) -> None:
        done = self._tokens_before + sum(one.done for one in self._working.values() if one.stage == "infer")
        if done:  # Until the first batch is through, the engine is tried and compiled.
            self._measured.append((self._clock(), done))
        while len(self._measured) > MEASURED_BATCHES and self._clock() - self._measured[0][0] > WINDOW_SECONDS:
            self._measured.popleft()

    def _tokens_per_second(self) -> float | None:
        """Until now, so that a batch that takes long lowers it while it lasts."""
        if len(self._measured) < MEASURED_BATCHES:
            return None
        (since, before), (_, after) = self._measured[0], self._measured[-1]
        seconds = self._clock() - since
        return (after - before) / seconds if seconds >= MEASURED_SECONDS else None

    def _num_rows(self) -> int:
        """Computed or copied: what is committed without having been computed here is not told of by batches."""
        begun = sum(one.rows_done for one in self._working.values() if one.stage == "infer")
        return int(max(self._rows_computed, self.rows + self.quarantined) + begun)

    def _inference(self) -> list[str]:
        if self._what or not any(one.stage == "infer" for one in self._working.values()):
            return []
        expected, left, rate = self.expected, self.seconds_left(), self._tokens_per_second()
        known = f"/{expected.num_rows:,}" if expected is not None and self.share is not None else ""
        shards = (
            f"{self.shards}/{counted(expected.num_shards, 'shard')}" if expected and expected.num_shards > 1 else ""
        )
        speed = f"{rate:,.0f} tokens/s" if rate is not None else ""
        last = f"~{duration(left)} left" if left is not None else self._elapsed()
        new = counted(self.new_tokens, "new token") if self.new_tokens else ""
        return [part for part in (f"{self._num_rows():,}{known} rows", shards, speed, new, last) if part]

    def _tokenization(self) -> list[str]:
        found = [one for one in self._working.values() if one.stage == "tokenize"]
        if not found:
            return []
        done, total = sum(one.done for one in found), sum(one.total for one in found)
        return [f"tokenizing {done:,}/{total:,} rows", self._elapsed()]

    def _between(self) -> str:
        if self._rows_computed > self.rows + self.quarantined:
            return "committing"
        return "finishing" if self.share == 1.0 else "reading"

    def _elapsed(self) -> str:
        return f"{self._clock() - (self._doing_since if self._what else self._began):.0f} s"


def duration(seconds: float) -> str:
    """Rounded up, the more the longer: an estimate is no measure."""
    if seconds < 100:
        return f"{max(5, 5 * math.ceil(seconds / 5))} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
