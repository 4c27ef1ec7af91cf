"""Long texts that are summarised in rounds: what was written of the windows is read again, until one answer is left.

A row's answers of all rounds lie behind each other. Which of them are of which
round follows from what each round reads, so a row that was begun goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.encoding.items import TOKEN_IDS
from tidemill.inference.work import Predictions, Stats
from tidemill.models.task import ModelTask, Preparer

Keep = Callable[[Predictions], None]
Answers = list[Mapping[str, Any]]


@dataclass
class _Row:
    """One that has no answer yet: `num_windows` are those of this round, and their answers stand from `start` on."""

    place: int
    answers: Answers
    num_windows: int
    start: int = 0

    @property
    def is_written(self) -> bool:
        return len(self.answers) >= self.end

    @property
    def end(self) -> int:
        return self.start + self.num_windows

    def with_round(self, written: Answers) -> Answers:
        """Its answers with those of this round."""
        return [*self.answers[: self.start], *written]


class Rounds:
    """Of one call of `predict_in_rounds`, whose rows are `prepared`."""

    def __init__(self, prepared: pa.Table, begun: pa.Array | None, keep: Keep) -> None:
        self._num_rows, self._keep = prepared.num_rows, keep
        self.reasons: dict[int, str] = {}
        self.done: dict[int, Answers] = {}
        self.computed: Predictions | None = None
        so_far = [None] * prepared.num_rows if begun is None else begun.to_pylist()
        counts = pc.list_value_length(prepared[TOKEN_IDS]).to_pylist()
        self.open = [_Row(i, so_far[i] or [], count) for i, count in enumerate(counts) if count]

    def compute(self, table: pa.Table, predict: Callable[[pa.Table, Keep], Predictions]) -> None:
        """Have this round written of the open rows, which `table` has in order, unless it was before."""
        missing = [row for row in self.open if not row.is_written]
        if not missing:
            return
        of_missing = table.filter(pa.array([not row.is_written for row in self.open]))
        found = predict(of_missing, lambda so_far: self._keep(self._begun(missing, so_far)))
        reasons, written = found.reason.to_pylist(), _lists(found)
        for row, reason, answers in zip(missing, reasons, written, strict=True):
            row.answers = row.with_round(answers or [])
            if reason is not None:
                self.reasons[row.place] = reason
        self._keep(self._begun(missing, found))
        before = self.computed
        self.computed = found if before is None else replace(found, stats=before.stats.plus(found.stats))

    def close(self) -> list[_Row]:
        """The open rows that are to be read again; the others have their answer, or none."""
        left = [row for row in self.open if row.place not in self.reasons]
        self.done |= {row.place: row.answers[: row.end] for row in left if row.num_windows == 1}
        return [row for row in left if row.num_windows > 1]

    def read_again(self, rows: Sequence[_Row], again: pa.Table) -> pa.Table:
        """Open the rows as they were prepared `again`; what is left of that without those that cannot go on."""
        self.open = []
        reasons, counts = again["reason"].to_pylist(), pc.list_value_length(again[TOKEN_IDS]).to_pylist()
        for row, reason, count in zip(rows, reasons, counts, strict=True):
            if reason is None and (count or 0) < row.num_windows:
                self.open.append(_Row(row.place, row.answers, count, row.end))
            else:
                self.reasons[row.place] = _why_not(row, reason)
        kept = {row.place for row in self.open}
        return again.filter(pa.array([row.place in kept for row in rows]))

    def predictions(self, task: ModelTask, prepared: pa.Table) -> Predictions:
        written = pa.array([self.done.get(i) for i in range(self._num_rows)], pa.list_(task.answer_type))
        columns, refused = task.rows(written, prepared)
        reason = pc.coalesce(pa.array([self.reasons.get(i) for i in range(self._num_rows)], pa.string()), refused)
        computed = self.computed or Predictions(columns, reason, Stats(num_rows=0))
        return replace(computed, columns=columns, reason=reason, written=written)

    def _begun(self, rows: Sequence[_Row], so_far: Predictions) -> Predictions:
        """What there is of all rows, with what was found of these so far."""
        assert so_far.written is not None
        answers: list[Answers | None] = [None] * self._num_rows
        for row, written in zip(rows, _lists(so_far), strict=True):
            if written is not None:
                answers[row.place] = row.with_round(written)
        nothing = pa.nulls(self._num_rows, pa.string())
        return Predictions(pa.table({}), nothing, Stats(), written=pa.array(answers, so_far.written.type))


def predict_in_rounds(
    prepared: pa.Table,
    task: Callable[[], ModelTask],
    *,
    preparer: Preparer,
    predict: Callable[[pa.Table, Keep], Predictions],
    begun: pa.Array | None = None,
    keep: Keep = lambda _: None,
) -> Predictions:
    """One value a row, as `ModelRunner.predict_round` gives it, of texts that are read in windows and then in rounds.

    `predict` computes rows, and is told whom it has to give what it has until then. `begun` has what was written of
    each row before, as `keep` was given it; null where nothing was. A row fails whose texts do not get shorter.
    """
    rounds, table = Rounds(prepared, begun, keep), prepared.filter(_has_items(prepared))
    while rounds.open:
        rounds.compute(table, predict)
        left = rounds.close()
        if not left:
            break
        texts = pa.array([task().joined(row.answers[row.start : row.end]) for row in left], pa.string())
        table = rounds.read_again(left, preparer.prepare(pa.table(dict.fromkeys(preparer.reads, texts))))
    return rounds.predictions(task(), prepared)


def _has_items(prepared: pa.Table) -> pa.Array:
    return pc.greater(pc.fill_null(pc.list_value_length(prepared[TOKEN_IDS]), 0), 0)


def _lists(found: Predictions) -> list[Answers | None]:
    """What was written of each row, None of one that is not through or has a reason."""
    assert found.written is not None
    reasons = found.reason.to_pylist()
    pairs = zip(found.written.to_pylist(), reasons, strict=True)
    return [written if reason is None else None for written, reason in pairs]


def _why_not(row: _Row, reason: str | None) -> str:
    if reason is not None:
        return f"what was written of its windows cannot be read again: {reason}"
    return (
        f"what was written of its {row.num_windows} windows is no shorter than they are: lower "
        "model.options.max_new_tokens, or raise tokenizer.max_length"
    )
