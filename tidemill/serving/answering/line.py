"""The rows that wait for the model. The one that waits longest is next, with others of like length beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tidemill.serving.answering.calls import Call

ALIKE = 0.75
"""Of a batch's width, a row that is narrower is computed as padding for more than a quarter."""


@dataclass(frozen=True, eq=False)
class Waiting:
    """A row of a call that is tokenized: how many items it has, how wide the longest is, and since when it waits."""

    call: Call
    row: int
    num_items: int
    width: int
    since: float = 0.0


class Line:
    """One thread at a time. `budget` is asked when a batch is made: memory may have lowered it."""

    def __init__(self, budget: Callable[[], int], *, worthwhile: float = math.inf) -> None:
        """`worthwhile` tokens keep the engine as busy as more would; infinite where nothing is padded."""
        self._budget, self._worthwhile = budget, worthwhile
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

        A row that alone is more than the budget is a batch by itself. Once a batch has `worthwhile` tokens, none joins
        that is much shorter, or would make it much wider: where padding is computed, two batches take less time.
        """
        self.drop()
        if not self._rows:
            return []
        oldest, budget = self.oldest, self._budget()
        alike = sorted((row for row in self._rows if row.call.form is oldest.call.form), key=_by_width)
        at = alike.index(oldest)
        batch, num_items, width = [oldest], oldest.num_items, oldest.width
        for row in [*alike[:at][::-1], *alike[at + 1 :]]:
            wider = max(width, row.width)
            if (num_items + row.num_items) * wider > budget:
                break
            if num_items * width >= self._worthwhile and min(width, row.width) < ALIKE * wider:
                continue
            batch.append(row)
            num_items, width = num_items + row.num_items, wider
        self._leave(batch)
        return batch

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
