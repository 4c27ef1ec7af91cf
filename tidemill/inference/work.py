"""What became of each distinct item of a shard so far, and what is told of it in the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.encoding.batching import Indices
from tidemill.encoding.items import Items
from tidemill.engines import Answer
from tidemill.progress import StageProgress


@dataclass
class Stats:
    """`num_items` are of rows that have tokens, and `num_distinct` of these are computed: `num_tokens`, while
    `num_padded_tokens` is what the device saw.

    `num_in_float32` of the distinct were computed once more in float32: the engine gave no number, or int8 nearly the
    same for two classes. `num_new_tokens` were written for the distinct; None of a model that writes none, or where
    nobody counts them.
    """

    num_rows: int = 0
    num_items: int = 0
    num_distinct: int = 0
    num_tokens: int = 0
    num_padded_tokens: int = 0
    seconds: float = 0.0
    oom_halvings: int = 0
    num_in_float32: int = 0
    num_new_tokens: int | None = None

    def plus(self, other: Stats) -> Stats:
        """Of both; where nobody counts what one of them wrote, nobody does."""
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        sums: dict[str, Any] = {name: None if None in pair else sum(pair) for name, pair in pairs.items()}
        return Stats(**sums)

    def shares(self, weights: Sequence[int], written: Sequence[int] | None = None) -> list[Stats]:
        """What falls to each of several parts by its weight; whole numbers, which add up to these.

        Of a model that writes, `written` weighs what follows from that: the new tokens, and the time.

        >>> [share.num_distinct for share in Stats(num_distinct=10).shares([1, 1, 1])]
        [3, 4, 3]
        """
        names = {field.name for field in fields(self)}
        of_written = {"num_new_tokens", "seconds"} if written is not None else set()
        shares = [self._share(names - of_written, *part) for part in _parts(weights)]
        if written is None:
            return [Stats(**share) for share in shares]
        others = (self._share(of_written, *part) for part in _parts(written))
        return [Stats(**share, **other) for share, other in zip(shares, others, strict=True)]

    def _share(self, names: Collection[str], start: float, end: float) -> dict[str, Any]:
        def between(name: str) -> Any:
            amount = getattr(self, name)
            if amount is None:
                return None
            return amount * (end - start) if name == "seconds" else round(amount * end) - round(amount * start)

        return {name: between(name) for name in names}


def _parts(weights: Sequence[int]) -> Iterable[tuple[float, float]]:
    """Where the part of each weight begins and ends, of a whole of 1."""
    total = sum(weights)
    return pairwise([0.0, *(end / total if total else 1.0 for end in accumulate(weights))])


@dataclass(frozen=True)
class Predictions:
    """One value per row, in order.

    `columns` has the task's result columns, null where there is no prediction;
    `reason` says why there is none, and is null for rows without token ids. `notes`
    are what the run's record says of the way they were made, and `resolved` is what
    `auto` had come to when the last batch was started. `written` has what the model wrote for each row, a list of its
    items' answers, null where there is none; None of a model that does not write.
    """

    columns: pa.Table
    reason: pa.StringArray
    stats: Stats
    notes: tuple[str, ...] = ()
    resolved: Mapping[str, Any] = field(default_factory=dict)
    written: pa.ListArray | None = None


class Every:
    """Calls somebody when it is called itself, but not more often than every so many seconds."""

    def __init__(self, seconds: float = math.inf, call: Callable[[], None] = lambda: None) -> None:
        self._seconds, self._call, self._last = seconds, call, time.monotonic()
        self._is_new = False
        """Whether it was called since it has called."""

    def __call__(self) -> None:
        self._is_new = True
        if time.monotonic() - self._last >= self._seconds:
            self.at_the_end()

    def at_the_end(self) -> None:
        """Call now, unless nothing is new."""
        if self._is_new:
            self._call()
            self._last, self._is_new = time.monotonic(), False


@dataclass
class Work:
    """What became of each distinct item of a shard so far: `answers` of the `computed`, `reasons` of the failed."""

    prepared: pa.Table
    items: Items
    stats: Stats
    reasons: dict[int, str] = field(default_factory=dict)
    alone: set[int] = field(default_factory=set)
    """What ran out of memory by itself, perhaps for what else was on its way: it is tried once more, beside nothing."""
    unpadded: set[int] = field(default_factory=set)
    """What had no finite logits beside others or with padding: it is tried once more, as it is."""
    computed: list[Indices] = field(default_factory=list)
    """Items, some of them twice."""
    answers: list[pa.Array] = field(default_factory=list)
    progress: StageProgress = field(default_factory=StageProgress)
    num_tokens: int = 0
    """Of what can be computed, before anything is."""
    notes: list[str] = field(default_factory=list)
    resolved: dict[str, Any] = field(default_factory=dict)
    tell: Every = field(default_factory=Every)
    """Told of each batch."""
    started: Callable[[Answer], object] = lambda _: None
    """Given each batch that is on its way."""

    @classmethod
    def on(cls, prepared: pa.Table, *, deduplicate: bool) -> Work:
        items = Items.of(prepared, deduplicate=deduplicate)
        stats = Stats(num_rows=prepared.num_rows, num_items=items.num_places, num_distinct=len(items))
        return cls(prepared, items, stats)

    def is_alone(self, batch: Indices) -> bool:
        return len(batch) == 1 and int(batch[0]) in self.alone

    def is_unpadded(self, batch: Indices) -> bool:
        return len(batch) == 1 and int(batch[0]) in self.unpadded

    def by_itself(self) -> Indices:
        """What goes into no batch with others."""
        return np.array(sorted(self.alone | self.unpadded), dtype=np.int64)

    def left(self) -> Indices:
        """What has neither an answer nor a reason for having none."""
        is_left = np.ones(len(self.items), dtype=bool)
        is_left[list(self.reasons)] = False
        for batch in self.computed:
            is_left[batch] = False
        return np.flatnonzero(is_left)

    def num_tokens_left(self) -> int:
        return int(self.items.lengths[self.left()].sum())

    def begin(self, progress: StageProgress) -> None:
        self.progress, self.num_tokens = progress, self.num_tokens_left()
        progress.worked(0, self.num_tokens)

    def record(self, batch: Indices, answers: pa.Array, *, num_padded: int | None) -> None:
        """`num_padded` is None where nothing is padded."""
        self.computed.append(batch)
        self.answers.append(answers)
        self.count(batch, num_padded=num_padded)

    def replace(self, batch: Indices, answers: pa.Array) -> None:
        """By those that float32 gave, of what was recorded before: the last answer of an item is the one it has."""
        self.computed.append(batch)
        self.answers.append(answers)
        self.stats.num_in_float32 += len(batch)

    def count(self, batch: Indices, *, num_padded: int | None) -> None:
        """Of a batch that was computed, whatever came of it."""
        num_tokens = int(self.items.lengths[batch].sum())
        self.stats.num_tokens += num_tokens
        self.stats.num_padded_tokens += num_tokens if num_padded is None else num_padded
        self.progress.worked(self.stats.num_tokens, self.num_tokens)

    def answer_column(self, answer_type: pa.DataType) -> pa.Array:
        """One answer an item, null where it has none."""
        index = np.full(len(self.items), -1, dtype=np.int64)
        computed = np.concatenate([np.zeros(0, dtype=np.int64), *self.computed])
        index[computed] = np.arange(len(computed))
        answers = pa.concat_arrays(self.answers) if self.answers else pa.array([], answer_type)
        return answers.take(pa.array(index, mask=index < 0))

    def reason_column(self) -> pa.StringArray:
        return pa.array([self.reasons.get(i) for i in range(len(self.items))], pa.string())
