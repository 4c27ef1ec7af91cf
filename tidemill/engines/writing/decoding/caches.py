"""Keys and values in slots, one for each row that is being written, whose memory is there from the beginning.

Transformers' own caches grow by a copy of all that is in them at each step, and
leave a row that has ended by another. Here a step writes where a row's next token
belongs, and a slot that becomes free takes what was in the last one.

Shapes: S slots, N of them in use, H heads of keys, C columns of a slot, D a head's size, Q tokens of a forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass
class Place:
    """Where the next forward pass writes: a block of slots from one column on, or each slot at a column of its own."""

    first: int = 0
    stop: int = 0
    column: int = 0
    columns: Tensor | None = None
    slots: Tensor | None = None
    width: int = 0
    """With `columns`: how many columns of every slot are read."""


class SlotLayer(CacheLayerMixin):
    is_sliding = False

    def __init__(self, place: Place, num_slots: int, num_columns: int) -> None:
        super().__init__()
        self.place, self.num_slots, self.num_columns = place, num_slots, num_columns

    def lazy_initialization(self, keys: Tensor, values: Tensor) -> None:
        # Zeros, since what is masked is multiplied by nothing, and so must be a number.
        self.keys, self.values = (self._empty(each) for each in (keys, values))
        self.is_initialized = True

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keep what is new, `NHQD`, and return what attention reads."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        at = self.place
        if at.columns is not None:
            self.keys[at.slots, :, at.columns] = keys[:, :, 0]
            self.values[at.slots, :, at.columns] = values[:, :, 0]
            return self._read(at.width)
        end = at.column + keys.shape[2]
        self.keys[at.first : at.stop, :, at.column : end] = keys
        self.values[at.first : at.stop, :, at.column : end] = values
        return (keys, values) if at.column == 0 else self._read(end)

    def get_seq_length(self) -> int:
        return self.place.column

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.place.column + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def copy(self, source: int, first: int, stop: int, num_columns: int) -> None:
        for each in self._kept():
            each[first:stop, :, :num_columns] = each[source, :, :num_columns]

    def clear(self, slot: int) -> None:
        for each in self._kept():
            each[slot] = 0

    def _kept(self) -> tuple[Tensor, ...]:
        """Nothing in a layer that its model does not use."""
        return (self.keys, self.values) if self.is_initialized else ()

    def resize(self, num_slots: int, num_columns: int, in_use: int) -> None:
        self.num_slots, self.num_columns = num_slots, num_columns
        if self.is_initialized:
            self.keys = self._moved(self.keys, in_use)
            self.values = self._moved(self.values, in_use)

    def _moved(self, before: Tensor, in_use: int) -> Tensor:
        after = self._empty(before)
        width = min(before.shape[2], self.num_columns)
        after[:in_use, :, :width] = before[:in_use, :, :width]
        return after

    def _empty(self, like: Tensor) -> Tensor:
        return like.new_zeros(self.num_slots, like.shape[1], self.num_columns, like.shape[3])

    def _read(self, width: int) -> tuple[Tensor, Tensor]:
        rows = slice(self.place.first, self.place.stop)
        return self.keys[rows, :, :width], self.values[rows, :, :width]


class Slots(Cache):
    """The slots of all layers; those in use are the first ones."""

    def __init__(self, num_layers: int, num_slots: int, num_columns: int) -> None:
        self.place = Place()
        super().__init__(layers=[SlotLayer(self.place, num_slots, num_columns) for _ in range(num_layers)])

    @property
    def num_slots(self) -> int:
        return int(self.layers[0].num_slots)

    @property
    def num_columns(self) -> int:
        return int(self.layers[0].num_columns)

    def at_block(self, first: int, stop: int, column: int) -> None:
        """The next pass is of these slots, whose columns before `column` are filled."""
        self.place.first, self.place.stop, self.place.column = first, stop, column
        self.place.columns = self.place.slots = None

    def at_columns(self, columns: Tensor, width: int) -> None:
        """The next pass is of one token a slot, each in its column; no slot is filled beyond `width`."""
        self.at_block(0, len(columns), width - 1)
        self.place.columns, self.place.width = columns, width
        self.place.slots = torch.arange(len(columns), device=columns.device)

    def copy(self, source: int, first: int, stop: int, num_columns: int) -> None:
        """Fill slots as `source` is, up to `num_columns`."""
        for layer in self.layers:
            layer.copy(source, first, stop, num_columns)

    def clear(self, slot: int) -> None:
        for layer in self.layers:
            layer.clear(slot)

    def resize(self, num_slots: int, num_columns: int, in_use: int) -> None:
        """Layer by layer, so that no more than one is there twice."""
        for layer in self.layers:
            layer.resize(num_slots, num_columns, in_use)


class SourceLayer(CacheLayerMixin):
    """Keys and values of what an encoder has read: computed once, in the slots of their rows."""

    is_sliding = False

    def lazy_initialization(self, keys: Tensor, values: Tensor) -> None:
        self.is_initialized = True

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys, self.values, self.is_initialized = keys, values, True
        return keys, values

    def get_seq_length(self) -> int:
        return int(self.keys.shape[2]) if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length(), 0

    def get_max_length(self) -> int:
        return -1

    def keep(self, in_use: int) -> None:
        if self.is_initialized:
            self.keys, self.values = self.keys[:in_use], self.values[:in_use]

    def copy(self, source: int, slot: int) -> None:
        if self.is_initialized:
            self.keys[slot], self.values[slot] = self.keys[source], self.values[source]


class Sources(Cache):
    def __init__(self, num_layers: int) -> None:
        super().__init__(layers=[SourceLayer() for _ in range(num_layers)])
