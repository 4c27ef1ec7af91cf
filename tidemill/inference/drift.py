"""How far int8 moves answers from float32's, and what it gains, measured on rows of the run before they are kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tidemill.encoding.batching import Indices, plan_batches
from tidemill.encoding.items import Arrays, Items, Outputs, are_finite
from tidemill.engines import Engine, never
from tidemill.engines.feeding import outputs_of_each
from tidemill.errors import LimitExceeded
from tidemill.models.tasks import ModelTask

SAMPLE_ROWS = 256
SAMPLE_TEXTS = 64
"""Of a model that writes: each of its rows takes as long as hundreds of others."""
TURN_BATCHES = 16
"""So many are computed in either type before the other has its turn: noise of the machine hits both."""


@dataclass(frozen=True)
class Drift:
    """Of a sample: the share of rows with the same best class, and the difference of scores at the 99th percentile."""

    num_rows: int
    same_label: float
    drift_p99: float
    times_float32: float
    """As fast as float32 int8 computed these rows."""

    def notes(self) -> list[str]:
        return _notes(self)

    def joined(self, other: Drift) -> Drift:
        """Of both samples; the drift is the larger one's."""
        return Drift(
            self.num_rows + other.num_rows,
            _mean(self, other, "same_label"),
            max(self.drift_p99, other.drift_p99),
            _mean(self, other, "times_float32"),
        )

    def beyond(self, bound: float) -> str | None:
        """What to say where it is more than that."""
        if self.drift_p99 <= bound:
            return None
        return (
            f"In int8 this model's scores drift by {self.drift_p99:.3f} from float32's at the 99th percentile of "
            f"{self.num_rows} rows, and {self.same_label:.1%} keep their label: more than inference.max_drift = "
            f'{bound:g}. Set inference.dtype = "auto", or raise the bound if that is good enough.'
        )


@dataclass(frozen=True)
class TextDrift:
    """Of a sample of what a model wrote: the share of rows of which it wrote the same."""

    num_rows: int
    same_text: float
    times_float32: float

    def notes(self) -> list[str]:
        return _notes(self)

    def joined(self, other: TextDrift) -> TextDrift:
        return TextDrift(
            self.num_rows + other.num_rows, _mean(self, other, "same_text"), _mean(self, other, "times_float32")
        )

    def beyond(self, bound: float) -> str | None:
        """What to say where more rows than that share of them differ."""
        if 1 - self.same_text <= bound:
            return None
        return (
            f"In int8 this model writes another text than in float32 for {1 - self.same_text:.1%} of {self.num_rows} "
            f'rows: more than inference.max_drift = {bound:g}. Set inference.dtype = "auto", or raise the bound to '
            "the share of rows that may differ."
        )


Measured = Drift | TextDrift


def _notes(drift: Measured) -> list[str]:
    """For the run's record: that int8 does not pay, where it does not."""
    if drift.times_float32 >= 1:
        return []
    return [
        f"int8 is slower than float32 on this processor: {drift.times_float32:.2f} times as fast, by "
        f'{drift.num_rows} rows of this run. inference.dtype = "auto" takes what is fastest.'
    ]


def _mean(one: Measured, other: Measured, name: str) -> float:
    """Of both samples' rows."""
    total = getattr(one, name) * one.num_rows + getattr(other, name) * other.num_rows
    return float(total / (one.num_rows + other.num_rows))


def measure_drift(
    engine: Engine,
    items: Items,
    among: Indices,
    *,
    task: ModelTask,
    collate: Callable[[Indices], Arrays],
    bound: float,
    token_budget: int,
    before: Measured | None = None,
    keep: Callable[[Indices, Outputs], object] = lambda _, __: None,
    should_stop: Callable[[], bool] = never,
) -> Measured | None:
    """Compute a sample of items `among` these, evenly over their lengths, in the engine and in its reference.

    None without any. What was measured `before` is added to; once that is a whole sample, it is enough. Items without
    finite outputs in either tell nothing: they are computed in float32 later. `collate` makes a batch of items, and
    `keep` is given what the engine answered for each, once that is found to be within the bound.

    Raises:
        LimitExceeded: answers drift by more than `bound`.
        Stopped: `should_stop` said so.
    """
    most = SAMPLE_TEXTS if task.writes else SAMPLE_ROWS
    if before is not None and before.num_rows >= most:
        return before
    assert engine.reference is not None
    sample = _evenly(among[np.argsort(items.lengths[among], kind="stable")], most)
    if not len(sample):
        return before
    costs = items.lengths[sample] + task.num_written
    budget = max(token_budget, int(costs.max()))
    batches = [sample[batch] for batch in plan_batches(costs, token_budget=budget, company=engine.company)]
    inputs = [collate(batch) for batch in batches]
    our_outputs: list[Outputs] = []
    their_outputs: list[Outputs] = []
    our_seconds, their_seconds = 0.0, 0.0
    for start in range(0, len(inputs), TURN_BATCHES):
        turn = inputs[start : start + TURN_BATCHES]
        our_seconds += _compute(engine, turn, our_outputs, should_stop)
        their_seconds += _compute(engine.reference, turn, their_outputs, should_stop)
    ours, theirs = [], []
    for batch, our_output, their_output in zip(batches, our_outputs, their_outputs, strict=True):
        lengths = items.lengths[batch]
        finite_B = are_finite(our_output, lengths) & are_finite(their_output, lengths)
        ours.append(task.answers(our_output[finite_B], lengths[finite_B]))
        theirs.append(task.answers(their_output[finite_B], lengths[finite_B]))
    our_answers, their_answers = pa.concat_arrays(ours), pa.concat_arrays(theirs)
    if not len(our_answers):
        return before
    drift = _compare(task, our_answers, their_answers, times_float32=their_seconds / our_seconds)
    if before is not None:
        drift = drift.joined(before)  # type: ignore[arg-type]
    if why := drift.beyond(bound):
        raise LimitExceeded(why)
    for batch, our_output in zip(batches, our_outputs, strict=True):
        keep(batch, our_output)
    return drift


def _compute(
    engine: Engine, inputs: Sequence[Arrays], outputs: list[Outputs], should_stop: Callable[[], bool]
) -> float:
    """Append what the engine answers to `outputs`; returns how many seconds it took."""
    started_at = time.perf_counter()
    outputs += outputs_of_each(engine, inputs, should_stop=should_stop)
    return time.perf_counter() - started_at


def _evenly(rows: Indices, most: int) -> Indices:
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _compare(task: ModelTask, ours: pa.Array, theirs: pa.Array, *, times_float32: float) -> Measured:
    same = float(task.same(ours, theirs).mean())
    if task.writes:
        return TextDrift(len(ours), same, times_float32)
    return Drift(len(ours), same, float(np.quantile(task.drift(ours, theirs), 0.99)), times_float32)
