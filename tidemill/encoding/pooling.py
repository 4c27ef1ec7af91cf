"""How the scores of a row's windows become the row's.

Shapes: R rows, W windows, C scores of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.config import Aggregate
from tidemill.encoding.batching import Indices
from tidemill.encoding.items import TOKEN_IDS


@dataclass(frozen=True)
class Pooling:
    """How the scores of a row's windows become the row's.

    `mean` is of each class over the windows; `length_weighted` is a mean in which
    a window weighs as many tokens as it has of the text, which are all but
    `num_special`; `max` is each class's largest score, so that scores of one label
    among several no longer sum to one.
    """

    aggregate: Aggregate
    num_special: int

    def pool(self, scores_WC: NDArray[np.float32], lengths_W: Indices, firsts_R: Indices) -> NDArray[np.float32]:
        """`firsts_R` is where each row's windows begin; every row has one. A row's scores depend on no other row."""
        if self.aggregate == "max":
            return np.asarray(np.maximum.reduceat(scores_WC, firsts_R, axis=0), dtype=np.float32)
        # The only window of an empty text has no text, and still counts.
        weights_W = np.ones(len(lengths_W)) if self.aggregate == "mean" else np.maximum(lengths_W - self.num_special, 1)
        sums_RC = np.add.reduceat(scores_WC * weights_W[:, None].astype(np.float64), firsts_R, axis=0)
        return np.asarray(sums_RC / np.add.reduceat(weights_W, firsts_R)[:, None], dtype=np.float32)


def pooled(
    scores_WC: NDArray[np.float32], answers: pa.ListArray, prepared: pa.Table, pooling: Pooling | None
) -> NDArray[np.float32]:
    """Scores RC of the rows that have answers: `scores_WC` are those of all their windows, in order.

    Without `pooling` each of these rows has one window.
    """
    if pooling is None or not len(scores_WC):
        return scores_WC
    has_answers = answers.is_valid()
    counts_R = pc.list_value_length(answers.filter(has_answers)).to_numpy(zero_copy_only=False).astype(np.int64)
    windows = pc.list_flatten(prepared[TOKEN_IDS].filter(has_answers))
    lengths_W = pc.list_value_length(windows).to_numpy().astype(np.int64)
    return pooling.pool(scores_WC, lengths_W, np.cumsum(counts_R) - counts_R)
