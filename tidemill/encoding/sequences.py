"""The distinct token sequences of a shard, without a Python object per token.

Shapes: B rows of a batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.encoding.batching import Indices


@dataclass(frozen=True)
class Sequences:
    """Distinct sequences, as slices of `values`, and for each row which one it is; -1 for a null row."""

    values: NDArray[np.int32]
    starts: Indices
    lengths: Indices
    sequence_of_row: Indices

    @classmethod
    def of(cls, token_ids: pa.ListArray | pa.ChunkedArray, *, deduplicate: bool) -> Sequences:
        """Rows are the same only if their ids are, byte by byte; without `deduplicate`, each is its own sequence."""
        if isinstance(token_ids, pa.ChunkedArray):
            token_ids = token_ids.combine_chunks()
        values = token_ids.values.to_numpy(zero_copy_only=False)
        offsets = token_ids.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
        present = np.flatnonzero(token_ids.is_valid().to_numpy(zero_copy_only=False))
        first_rows, sequence_of_present = _distinct(values, offsets, present) if deduplicate else _each(present)
        sequence_of_row = np.full(len(token_ids), -1, dtype=np.int64)
        sequence_of_row[present] = sequence_of_present
        return cls(values, offsets[first_rows], offsets[first_rows + 1] - offsets[first_rows], sequence_of_row)

    def __len__(self) -> int:
        return len(self.lengths)

    def with_ids_from(self, vocabulary_size: int) -> Iterator[tuple[int, int]]:
        """Sequences that hold a token id of `vocabulary_size` or more, each with its largest id."""
        if self.values.max(initial=0) < vocabulary_size:
            return
        for i, (start, length) in enumerate(zip(self.starts, self.lengths, strict=True)):
            largest = int(self.values[start : start + length].max(initial=0))
            if largest >= vocabulary_size:
                yield i, largest

    def padded(
        self, batch: Indices, *, pad_id: int, width: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """ids_BT, padded at the end, and its attention mask; None for the mask where nothing is padded.

        T is `width`, or that of the longest sequence.
        """
        positions_T = np.arange(self.lengths[batch].max() if width is None else width)
        mask_BT = positions_T < self.lengths[batch, None]
        ids_BT = np.full(mask_BT.shape, pad_id, dtype=np.int64)
        ids_BT[mask_BT] = self.values[(self.starts[batch, None] + positions_T)[mask_BT]]
        # Without a mask attention takes its faster path, by up to a fifth at 512 tokens.
        return ids_BT, None if mask_BT.all() else mask_BT.astype(np.int64)

    def spread(self, values: pa.Array) -> pa.Array:
        """From one value per sequence to one per row; null for null rows."""
        return values.take(pa.array(self.sequence_of_row, mask=self.sequence_of_row < 0))


def _each(rows: Indices) -> tuple[Indices, Indices]:
    return rows, np.arange(len(rows))


def _distinct(values: NDArray[np.int32], offsets: Indices, rows: Indices) -> tuple[Indices, Indices]:
    """The first row of each distinct sequence, and for each of `rows` which one it is."""
    seen: dict[bytes, int] = {}
    first_rows = []
    sequence_of_row = []
    for row in rows.tolist():
        sequence = values[offsets[row] : offsets[row + 1]].tobytes()
        if sequence not in seen:
            seen[sequence] = len(seen)
            first_rows.append(row)
        sequence_of_row.append(seen[sequence])
    return np.array(first_rows, dtype=np.int64), np.array(sequence_of_row, dtype=np.int64)
