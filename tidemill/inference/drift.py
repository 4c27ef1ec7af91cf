"""How far int8 moves scores from float32's, and what it gains, measured on rows of the run before they are kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidemill.encoding.batching import Indices, plan_batches
from tidemill.encoding.sequences import Sequences
from tidemill.engines import Engine, Logits
from tidemill.errors import LimitExceeded

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
    sequences: Sequences,
    rows: Indices,
    *,
    scores: Callable[[Logits], NDArray[np.float32]],
    pad_id: int,
    bound: float,
    before: Drift | None = None,
) -> Drift | None:
    """Compute a sample of `rows`, evenly over their lengths, in the engine and in its reference; None without rows.

    What was measured `before` is added to; once that is a whole sample, it is enough. Rows without finite scores in
    either tell nothing: they are computed in float32 later.

    Raises:
        LimitExceeded: scores drift by more than `bound`.
    """
    if before is not None and before.num_rows >= SAMPLE_ROWS:
        return before
    assert engine.reference is not None
    sample = _evenly(rows[np.argsort(sequences.lengths[rows], kind="stable")])
    if not len(sample):
        return before
    ours, theirs, our_seconds, their_seconds = [], [], 0.0, 0.0
    budget = max(BATCH_TOKENS, int(sequences.lengths[sample].max()))
    for batch in plan_batches(sequences.lengths[sample], token_budget=budget, company=engine.company):
        inputs = sequences.padded(sample[batch], pad_id=pad_id)
        started = time.perf_counter()
        our_logits_BC = engine.submit(*inputs).result()
        between = time.perf_counter()
        their_logits_BC = engine.reference.submit(*inputs).result()
        our_seconds, their_seconds = our_seconds + between - started, their_seconds + time.perf_counter() - between
        ours.append(scores(our_logits_BC))
        theirs.append(scores(their_logits_BC))
    ours_BC, theirs_BC = np.concatenate(ours), np.concatenate(theirs)
    finite_B = np.isfinite(ours_BC).all(axis=1) & np.isfinite(theirs_BC).all(axis=1)
    if not finite_B.any():
        return before
    drift = _compare(ours_BC[finite_B], theirs_BC[finite_B], times_float32=their_seconds / our_seconds)
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


def _compare(ours_BC: NDArray[np.float32], theirs_BC: NDArray[np.float32], *, times_float32: float) -> Drift:
    differences = np.abs(ours_BC - theirs_BC).max(axis=1)
    return Drift(
        num_rows=len(ours_BC),
        same_label=float((ours_BC.argmax(axis=1) == theirs_BC.argmax(axis=1)).mean()),
        drift_p99=float(np.quantile(differences, 0.99)),
        times_float32=times_float32,
    )
