"""How the scores of a row's windows become the row's.

Shapes: R rows, W windows, S scored sequences, C outputs of the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.config import Aggregate
from tidemill.encoding.batching import Indices


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


@dataclass(frozen=True)
class Windows:
    """A column of rows of windows, flat: the windows of all rows, in order, and how many each row has; null has 0."""

    token_ids: pa.ListArray
    num_windows: Indices
    pooling: Pooling

    @classmethod
    def of(cls, token_ids: pa.ListArray | pa.ChunkedArray, pooling: Pooling) -> Windows:
        if isinstance(token_ids, pa.ChunkedArray):
            token_ids = token_ids.combine_chunks()
        counts = pc.fill_null(pc.list_value_length(token_ids), 0)
        return cls(token_ids.flatten(), counts.to_numpy(zero_copy_only=False).astype(np.int64), pooling)

    def to_rows(
        self, scores_SC: NDArray[np.float32], index_W: pa.Array, reason_W: pa.Array
    ) -> tuple[NDArray[np.float32], pa.Array, pa.Array]:
        """From windows to rows: scores of the rows that have them, which of those is each row's, and each row's reason.

        `index_W` says which scores are a window's, and is null for a window that
        failed: its row then has none. The reason is the first such window's.
        """
        row_W = np.repeat(np.arange(len(self.num_windows)), self.num_windows)
        whole_R = self.num_windows > 0
        whole_R[row_W[index_W.is_null().to_numpy(zero_copy_only=False)]] = False
        counts = self.num_windows[whole_R]
        lengths_W = pc.list_value_length(self.token_ids).to_numpy(zero_copy_only=False)
        of_whole_W = whole_R[row_W]
        scores_RC = self.pooling.pool(
            scores_SC[index_W.filter(pa.array(of_whole_W)).to_numpy(zero_copy_only=False)],
            lengths_W[of_whole_W],
            np.cumsum(counts) - counts,
        )
        index_R = np.full(len(whole_R), -1, dtype=np.int64)
        index_R[whole_R] = np.arange(len(scores_RC))
        return scores_RC, pa.array(index_R, mask=~whole_R), self._reasons(reason_W, row_W)

    def _reasons(self, reason_W: pa.Array, row_W: Indices) -> pa.Array:
        reasons: dict[int, str] = {}
        for window in np.flatnonzero(reason_W.is_valid().to_numpy(zero_copy_only=False)).tolist():
            row = int(row_W[window])
            number, count = window - int(np.searchsorted(row_W, row)) + 1, self.num_windows[row]
            where = f"window {number} of {count}: " if count > 1 else ""
            reasons.setdefault(row, f"{where}{reason_W[window]}")
        return pa.array([reasons.get(row) for row in range(len(self.num_windows))], pa.string())
