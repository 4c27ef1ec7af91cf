"""The tokens of rows' texts, one behind the other, each with the answer that counts for it.

Shapes: R rows, I items, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.encoding.batching import Indices


@dataclass(frozen=True)
class Tokens:
    """Tokens of texts, without special ones, in the texts' order; offsets count code points.

    `rows` says of which row each is, and never falls. `answers` has one value a token.
    """

    rows: Indices
    ids: NDArray[np.int32]
    starts: NDArray[np.int32]
    ends: NDArray[np.int32]
    answers: pa.Array

    @classmethod
    def of(cls, answers: pa.ListArray, prepared: pa.Table) -> Tokens:
        """Of the rows that have answers: for each a list of its items' answers, which are one value a token.

        `prepared` says which tokens of an item count for the row: the others are special, or a neighbouring window
        decides them.
        """
        has_answers = answers.is_valid()
        rows = np.flatnonzero(has_answers.to_numpy(zero_copy_only=False))
        columns = {name: one_array(prepared[name].filter(has_answers)) for name in _COLUMNS}
        items = columns["token_ids"]
        items = items.flatten() if pa.types.is_list(items.type.value_type) else items
        lengths_I = pc.list_value_length(items).to_numpy(zero_copy_only=False).astype(np.int64)
        firsts_I, counts_I = _values(columns["firsts"]), _values(columns["counts"])
        places_N = ranges(np.cumsum(lengths_I) - lengths_I + firsts_I, counts_I)
        num_of_row = pc.list_value_length(columns["starts"]).to_numpy(zero_copy_only=False)
        return cls(
            rows=np.repeat(rows, num_of_row),
            ids=_values(items)[places_N],
            starts=_values(columns["starts"]),
            ends=_values(columns["ends"]),
            answers=answers.flatten().flatten().take(pa.array(places_N)),
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def are_first(self) -> NDArray[np.bool_]:
        """Whether each is the first of its text."""
        return np.asarray(np.diff(self.rows, prepend=-1) != 0)


_COLUMNS = ("token_ids", "starts", "ends", "firsts", "counts")


def ranges(starts: NDArray[np.integer], counts: NDArray[np.integer]) -> Indices:
    """So many numbers from each start on, one range behind the other.

    >>> ranges(np.array([7, 0, 3]), np.array([2, 0, 3])).tolist()
    [7, 8, 3, 4, 5]
    """
    counts = counts.astype(np.int64)
    before = np.cumsum(counts) - counts
    return np.repeat(starts.astype(np.int64) - before, counts) + np.arange(counts.sum())


def _values(lists: pa.ListArray) -> NDArray[np.int32]:
    values: NDArray[np.int32] = lists.flatten().to_numpy(zero_copy_only=False)
    return values


def one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)
