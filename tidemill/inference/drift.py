"""How far int8 moves scores from float32's, and what it gains, measured on rows of the run before they are kept."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tidemill.encoding.batching import Indices, plan_batches
from tidemill.encoding.items import Items, are_finite
from tidemill.engines import Engine
from tidemill.errors import LimitExceeded
from tidemill.models.tasks import ModelTask

SAMPLE_ROWS = 256
BATCH_TOKENS = 2_048


@dataclass(frozen=True)
class Drift:
    """Of a sample: the share of rows with the same best class, and the difference of scores at the 99th percentile."""

    num_rows: int
    same_label: float
    drift_p99: float
    times_float32: float
    """As fast as float32 int8 computed these rows, one batch after the other."""

    def notes(self) -> list[str]:
        """For the run's record: that int8 does not pay, where it does not."""
        if self.times_float32 >= 1:
            return []
        return [
            f"int8 is slower than float32 on this processor: {self.times_float32:.2f} times as fast, by "
            f'{self.num_rows} rows of this run. inference.dtype = "auto" takes what is fastest.'
        ]

    def joined(self, other: Drift) -> Drift:
        """Of both samples; the drift is the larger one's."""
        num_rows = self.num_rows + other.num_rows
        same = self.same_label * self.num_rows + other.same_label * other.num_rows
        times = self.times_float32 * self.num_rows + other.times_float32 * other.num_rows
        return Drift(num_rows, same / num_rows, max(self.drift_p99, other.drift_p99), times / num_rows)


def measure_drift(
    engine: Engine,
    items: Items,
    among: Indices,
    *,
    task: ModelTask,
    pad_id: int,
    bound: float,
    before: Drift | None = None,
) -> Drift | None:
    """Compute a sample of items `among` these, evenly over their lengths, in the engine and in its reference.

    None without any. What was measured `before` is added to; once that is a whole sample, it is enough. Items without
    finite outputs in either tell nothing: they are computed in float32 later.

    Raises:
        LimitExceeded: scores drift by more than `bound`.
    """
    if before is not None and before.num_rows >= SAMPLE_ROWS:
        return before
    assert engine.reference is not None
    sample = _evenly(among[np.argsort(items.lengths[among], kind="stable")])
    if not len(sample):
        return before
    ours, theirs, our_seconds, their_seconds = [], [], 0.0, 0.0
    budget = max(BATCH_TOKENS, int(items.lengths[sample].max()))
    for batch in plan_batches(items.lengths[sample], token_budget=budget, company=engine.company):
        inputs = items.collate(sample[batch], pad_id=pad_id)
        lengths = items.lengths[sample[batch]]
        started = time.perf_counter()
        our_outputs = engine.submit(inputs).result()
        between = time.perf_counter()
        their_outputs = engine.reference.submit(inputs).result()
        our_seconds, their_seconds = our_seconds + between - started, their_seconds + time.perf_counter() - between
        finite_B = are_finite(our_outputs, lengths) & are_finite(their_outputs, lengths)
        ours.append(task.answers(our_outputs[finite_B], lengths[finite_B]))
        theirs.append(task.answers(their_outputs[finite_B], lengths[finite_B]))
    our_answers, their_answers = pa.concat_arrays(ours), pa.concat_arrays(theirs)
    if not len(our_answers):
        return before
    drift = _compare(task, our_answers, their_answers, times_float32=their_seconds / our_seconds)
    if not drift.drift_p99 <= bound:
        raise LimitExceeded(
            f"In int8 this model's scores drift by {drift.drift_p99:.3f} from float32's at the 99th percentile of "
            f"{drift.num_rows} rows, and {drift.same_label:.1%} keep their label: more than inference.max_drift = "
            f'{bound:g}. Set inference.dtype = "auto", or raise the bound if that is good enough.'
        )
    return drift if before is None else before.joined(drift)


def _evenly(rows: Indices) -> Indices:
    if len(rows) <= SAMPLE_ROWS:
        return rows
    return rows[np.linspace(0, len(rows) - 1, SAMPLE_ROWS).astype(np.int64)]


def _compare(task: ModelTask, ours: pa.Array, theirs: pa.Array, *, times_float32: float) -> Drift:
    return Drift(
        num_rows=len(ours),
        same_label=float(task.same(ours, theirs).mean()),
        drift_p99=float(np.quantile(task.drift(ours, theirs), 0.99)),
        times_float32=times_float32,
    )
