"""The distinct items of a shard, without a Python object per token.

An item is what a model computes at once: a text, one of its windows, a text beside
one of several labels. A row has one item, or a list of them.

Shapes: B items of a batch, T tokens of the longest, R rows, P places of items in rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.encoding.batching import Indices

Arrays = Mapping[str, NDArray[Any]]
"""A batch as a model is given it, by the names of Transformers; axis 0 is the item."""
Named = Callable[[int, int], str]
"""What a row's item is called, of its number in the row, from 1, and how many there are."""
Outputs = NDArray[Any]
"""What a model gives for a batch: BC in float32, or BTC where each token has an answer of its own; of a model that
writes what `written.outputs_of` makes."""

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
TOKEN_IDS, TYPE_IDS = "token_ids", "type_ids"
"""The columns of prepared rows that hold what a model is given."""


@dataclass(frozen=True)
class Items:
    """Distinct items, as slices of `values` (and of `types`, where the model tells types of tokens apart).

    `item_of_place` says for each place which item is there, -1 for a row without any; `counts` how many places
    each row has, None where each has one.
    """

    values: NDArray[np.int32]
    starts: Indices
    lengths: Indices
    item_of_place: Indices
    counts: Indices | None = None
    types: NDArray[np.int8] | None = None

    @classmethod
    def of(cls, prepared: pa.Table, *, deduplicate: bool) -> Items:
        """Of rows' `token_ids`, and their `type_ids` if they have some.

        Two items are one only if all that the model is given is the same, byte by byte; without `deduplicate` each
        place has its own.
        """
        token_ids, counts = _places(prepared[TOKEN_IDS])
        types = None
        if TYPE_IDS in prepared.column_names:
            types = _places(prepared[TYPE_IDS])[0].values.to_numpy(zero_copy_only=False)
        values = token_ids.values.to_numpy(zero_copy_only=False)
        offsets = token_ids.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
        present = np.flatnonzero(token_ids.is_valid().to_numpy(zero_copy_only=False))
        first_places, item_of_present = _distinct(values, types, offsets, present) if deduplicate else _each(present)
        item_of_place = np.full(len(token_ids), -1, dtype=np.int64)
        item_of_place[present] = item_of_present
        lengths = offsets[first_places + 1] - offsets[first_places]
        return cls(values, offsets[first_places], lengths, item_of_place, counts, types)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_places(self) -> int:
        """Items that rows have, those that are the same as often as they are there."""
        return int((self.item_of_place >= 0).sum())

    def with_ids_from(self, vocabulary_size: int) -> Iterator[tuple[int, int]]:
        """Items that hold a token id of `vocabulary_size` or more, each with its largest id."""
        if self.values.max(initial=0) < vocabulary_size:
            return
        for i, (start, length) in enumerate(zip(self.starts, self.lengths, strict=True)):
            largest = int(self.values[start : start + length].max(initial=0))
            if largest >= vocabulary_size:
                yield i, largest

    def collate(self, batch: Indices, *, pad_id: int, width: int | None = None) -> Arrays:
        """A batch's ids, padded at the end to `width` or to its longest item, and its mask if anything is padded."""
        positions_T = np.arange(self.lengths[batch].max() if width is None else width)
        mask_BT = positions_T < self.lengths[batch, None]
        places_N = (self.starts[batch, None] + positions_T)[mask_BT]
        ids_BT = np.full(mask_BT.shape, pad_id, dtype=np.int64)
        ids_BT[mask_BT] = self.values[places_N]
        arrays: dict[str, NDArray[Any]] = {IDS: ids_BT}
        # Without a mask attention takes its faster path, by up to a fifth at 512 tokens.
        if not mask_BT.all():
            arrays[MASK] = mask_BT.astype(np.int64)
        if self.types is not None:
            arrays[TYPES] = np.zeros_like(ids_BT)
            arrays[TYPES][mask_BT] = self.types[places_N]
        return arrays

    def to_rows(
        self, answers: pa.Array, reasons: pa.StringArray, *, named: Named
    ) -> tuple[pa.ListArray, pa.StringArray]:
        """From one answer or reason an item to a list of answers a row, null where one is missing, and why that is.

        A row's reason is that of its first item without an answer, and names it where the row has others.
        """
        place = pa.array(self.item_of_place, mask=self.item_of_place < 0)
        answer_of_place, reason_of_place = answers.take(place), reasons.take(place)
        counts = np.ones(len(place), dtype=np.int64) if self.counts is None else self.counts
        row_of_place = np.repeat(np.arange(len(counts)), counts)
        is_whole = counts > 0
        is_whole[row_of_place[answer_of_place.is_null().to_numpy(zero_copy_only=False)]] = False
        offsets = np.zeros(len(counts) + 1, dtype=np.int32)
        np.cumsum(np.where(is_whole, counts, 0), out=offsets[1:])
        kept = answer_of_place.filter(pa.array(is_whole[row_of_place]))
        rows = pa.ListArray.from_arrays(pa.array(offsets), kept, mask=pa.array(~is_whole))
        return rows, self._reasons(reason_of_place, row_of_place, counts, named)

    def _reasons(
        self, reason_of_place: pa.StringArray, row_of_place: Indices, counts: Indices, named: Named
    ) -> pa.StringArray:
        if self.counts is None:
            return reason_of_place
        reasons: dict[int, str] = {}
        for place in np.flatnonzero(reason_of_place.is_valid().to_numpy(zero_copy_only=False)).tolist():
            row = int(row_of_place[place])
            number, count = place - int(np.searchsorted(row_of_place, row)) + 1, counts[row]
            where = f"{named(number, int(count))}: " if count > 1 else ""
            reasons.setdefault(row, f"{where}{reason_of_place[place]}")
        return pa.array([reasons.get(row) for row in range(len(counts))], pa.string())


def prepared_rows(token_ids: pa.ListArray | pa.ChunkedArray) -> pa.Table:
    """Rows of which nothing but the token ids is known."""
    return pa.table({TOKEN_IDS: token_ids})


def are_finite(outputs: Outputs, lengths: Indices) -> NDArray[np.bool_]:
    """Whether all of each item's outputs are numbers; what a token of padding has does not count."""
    finite = np.isfinite(outputs)
    if outputs.ndim < 3:
        return np.asarray(finite.all(axis=1))
    is_padding_BT = np.arange(outputs.shape[1]) >= lengths[:, None]
    return np.asarray((finite.all(axis=tuple(range(2, outputs.ndim))) | is_padding_BT).all(axis=1))


def _places(column: pa.ChunkedArray) -> tuple[pa.ListArray, Indices | None]:
    """A list of ids a place, and how many places each row has; None where each has one."""
    combined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(combined, pa.ChunkedArray):
        combined = pa.concat_arrays(combined.chunks)
    if not pa.types.is_list(combined.type.value_type):
        return combined, None
    counts = pc.fill_null(pc.list_value_length(combined), 0)
    return combined.flatten(), counts.to_numpy(zero_copy_only=False).astype(np.int64)


def _each(places: Indices) -> tuple[Indices, Indices]:
    return places, np.arange(len(places))


def _distinct(
    values: NDArray[np.int32], types: NDArray[np.int8] | None, offsets: Indices, places: Indices
) -> tuple[Indices, Indices]:
    """The first place of each distinct item, and for each of `places` which one it is."""
    seen: dict[bytes | tuple[bytes, bytes], int] = {}
    first_places = []
    item_of_place = []
    for place in places.tolist():
        start, stop = offsets[place], offsets[place + 1]
        ids = values[start:stop].tobytes()
        key = ids if types is None else (ids, types[start:stop].tobytes())
        if key not in seen:
            seen[key] = len(seen)
            first_places.append(place)
        item_of_place.append(seen[key])
    return np.array(first_places, dtype=np.int64), np.array(item_of_place, dtype=np.int64)
