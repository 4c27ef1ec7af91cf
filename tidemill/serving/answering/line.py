"""The rows that wait for the model. The one that waits longest is next, with others of like length beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tidemill.serving.answering.calls import Call


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

    def __init__(self, budget: Callable[[], int]) -> None:
        self._budget = budget
        self._rows: list[Waiting] = []
        self.weight = 0.0
        """How many rows wait, where one of much text counts as several."""

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._rows)

    def put(self, rows: list[Waiting]) -> None:
        self._rows += rows
        self._weigh()

    def drop(self) -> None:
        """Forget the rows of calls for which nobody waits any more."""
        self._rows = [row for row in self._rows if not row.call.is_over]
        self._weigh()

    @property
    def is_full(self) -> bool:
        """Whether more is waiting than one batch holds."""
        return sum(row.num_items * row.width for row in self._rows) >= self._budget()

    def take(self) -> list[Waiting]:
        """One batch: the oldest row, the next shorter ones, and where these leave room, longer ones.

        A row that alone is more than the budget is a batch by itself.
        """
        self.drop()
        if not self._rows:
            return []
        oldest, budget = self._rows[0], self._budget()
        alike = sorted((row for row in self._rows if row.call.form is oldest.call.form), key=_by_width)
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

    def take_call(self) -> list[Waiting]:
        """The rows of the call that waits longest."""
        self.drop()
        batch = [row for row in self._rows if row.call is self._rows[0].call]
        self._leave(batch)
        return batch

    def _leave(self, batch: list[Waiting]) -> None:
        taken = set(map(id, batch))
        self._rows = [row for row in self._rows if id(row) not in taken]
        self._weigh()

    def _weigh(self) -> None:
        self.weight = sum(row.call.row_weight for row in self._rows)


def _by_width(row: Waiting) -> int:
    return row.width
