"""The rows that wait for the model. The one that waits longest is next, with others of like length beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from tidemill.serving.answering.calls import Call


@dataclass(frozen=True, eq=False)
class Prepared:
    """Rows of calls that were tokenized together, as a run's rows, and what was made of them."""

    rows: pa.Table
    tokens: pa.Table


@dataclass(frozen=True, eq=False)
class Waiting:
    """A row of a call that is tokenized: how many items it has, how wide the longest is, and since when it waits.

    It is the one at `place` of what was `prepared`.
    """

    call: Call
    row: int
    num_items: int
    width: int
    since: float = 0.0
    prepared: Prepared | None = None
    place: int = 0


class Line:
    """One thread at a time. `budget` is asked when a batch is made: memory may have lowered it."""

    def __init__(self, budget: Callable[[], int], *, batch_cost: float = math.inf) -> None:
        """A batch costs `batch_cost` tokens beside its own; infinite where fewer batches always cost less."""
        self._budget, self._batch_cost = budget, batch_cost
        self._rows: list[Waiting] = []
        self._num_tokens = 0
        self.weight = 0.0
        """How many rows wait, where one of much text counts as several."""

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, rows: list[Waiting]) -> None:
        self._rows += rows
        self._count(rows)

    def drop(self) -> None:
        """Forget the rows of calls for which nobody waits any more."""
        self._keep([row for row in self._rows if not row.call.is_over])

    @property
    def oldest(self) -> Waiting:
        return self._rows[0]

    @property
    def is_full(self) -> bool:
        """Whether more is waiting than one batch holds."""
        return self._num_tokens >= self._budget()

    def take(self) -> list[Waiting]:
        """One batch: the oldest row, the next shorter ones, and where these leave room, longer ones.

        Only those join that share a batch with the oldest where all that waits is computed at the least cost. A row
        that alone is more than the budget is a batch by itself.
        """
        self.drop()
        if not self._rows:
            return []
        oldest, budget = self.oldest, self._budget()
        alike = sorted((row for row in self._rows if row.call.form is oldest.call.form), key=_by_width)
        narrowest, widest = self._range_of(oldest, alike)
        alike = [row for row in alike if narrowest <= row.width <= widest]
        at = alike.index(oldest)
        batch, num_items, width = [oldest], oldest.num_items, oldest.width
        for row in [*alike[:at][::-1], *alike[at + 1 :]]:
            wider = max(width, row.width)
            if (num_items + row.num_items) * wider > budget:
                break
            batch.append(row)
            num_items, width = num_items + row.num_items, wider
        self._leave(batch)
        return batch

    def _range_of(self, oldest: Waiting, rows: list[Waiting]) -> tuple[float, float]:
        if math.isinf(self._batch_cost):
            return 0, math.inf
        num_items: Counter[int] = Counter()
        for row in rows:
            num_items[row.width] += row.num_items
        ranges = cheapest_ranges(num_items, budget=self._budget(), batch_cost=self._batch_cost)
        return next(each for each in ranges if each[0] <= oldest.width <= each[1])

    def take_call(self) -> list[Waiting]:
        """The rows of the call that waits longest."""
        self.drop()
        batch = [row for row in self._rows if row.call is self.oldest.call]
        self._leave(batch)
        return batch

    def _leave(self, batch: list[Waiting]) -> None:
        taken = set(map(id, batch))
        self._keep([row for row in self._rows if id(row) not in taken])

    def _keep(self, rows: list[Waiting]) -> None:
        self._rows, self._num_tokens, self.weight = rows, 0, 0.0
        self._count(rows)

    def _count(self, rows: list[Waiting]) -> None:
        self._num_tokens += sum(row.num_items * row.width for row in rows)
        self.weight += sum(row.call.row_weight for row in rows)


def _by_width(row: Waiting) -> int:
    return row.width


def cheapest_ranges(num_items: Mapping[int, int], *, budget: int, batch_cost: float) -> list[tuple[int, int]]:
    """Ranges of widths whose items share batches, so that all together cost the least; the narrowest first.

    `num_items` has how many there are of each width. A batch costs `batch_cost` and its padded tokens.

    >>> cheapest_ranges({10: 8, 11: 8, 40: 8}, budget=1_000, batch_cost=40)
    [(10, 11), (40, 40)]
    """
    widths = sorted(num_items)
    least, first = [0.0], [0]
    for end, width in enumerate(widths):
        best, start, count = math.inf, end, 0
        for begin in range(end, -1, -1):
            count += num_items[widths[begin]]
            tokens = count * width
            cost = least[begin] + tokens + batch_cost * max(1, math.ceil(tokens / budget))
            if cost < best:
                best, start = cost, begin
        least.append(best)
        first.append(start)
    ranges, end = [], len(widths)
    while end:
        start = first[end]
        ranges.append((widths[start], widths[end - 1]))
        end = start
    return ranges[::-1]
