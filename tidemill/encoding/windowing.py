"""A long text is read in windows: how it is cut into them.

Shapes: R rows, W windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.encoding.batching import Indices

MAX_ROW_TOKENS = 2**24
"""Most tokens in one row's windows, 64 MiB of them: this bounds memory, whatever one text is."""


@dataclass(frozen=True)
class Windowing:
    """Windows of at most `room` tokens of text, with `prefix` before and `suffix` after each.

    They are those of Transformers with `return_overflowing_tokens=True` and
    `stride=overlap`: neighbours share `overlap` tokens, the first is what
    truncation would keep, and the last, at the text's other end, may be shorter.
    """

    prefix: list[int]
    suffix: list[int]
    room: int
    overlap: int
    from_the_end: bool = False

    def num_windows(self, num_tokens: Indices) -> Indices:
        """Of texts that have so many tokens with one prefix and one suffix."""
        beyond_first = np.maximum(num_tokens - len(self.prefix) - len(self.suffix) - self.room, 0)
        return 1 + -(-beyond_first // (self.room - self.overlap))

    def num_window_tokens(self, num_tokens: int) -> int:
        """Tokens in all windows together, of a text that has so many with one prefix and one suffix."""
        num_windows = int(self.num_windows(np.array([num_tokens]))[0])
        return num_tokens + (num_windows - 1) * (self.overlap + len(self.prefix) + len(self.suffix))

    def cut(self, token_ids: pa.ListArray) -> pa.ListArray:
        """A list of windows for each list of ids, which has one prefix and one suffix; null stays null."""
        present = token_ids.is_valid().to_numpy(zero_copy_only=False)
        lengths_R = np.diff(token_ids.offsets.to_numpy())
        counts_R = np.where(present, self.num_windows(lengths_R), 0)
        ends_R = np.cumsum(counts_R)
        row_W = np.repeat(np.arange(len(token_ids)), counts_R)
        number_W = np.arange(len(row_W)) - (ends_R - counts_R)[row_W]
        starts_W, text_lengths_W = self._spans(number_W, lengths_R[row_W] - len(self.prefix) - len(self.suffix))
        starts_W += token_ids.offsets.to_numpy()[row_W] + len(self.prefix)
        windows = self._copied(token_ids.values.to_numpy(), starts_W, text_lengths_W)
        offsets = np.concatenate([[0], ends_R]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), windows, mask=pa.array(~present))

    def decided(self, num_text_R: Indices) -> tuple[Indices, Indices, Indices]:
        """Which tokens each window decides, of texts of so many: where in the window they begin, and how many they are.

        A token is decided in the window in which it stands farther from where that cuts the text: of an overlap the
        first half in the one, the second in the other. The third array says how many windows each text has.
        """
        assert not self.from_the_end, "a text is put together from windows in its order"
        counts_R = self.num_windows(num_text_R + len(self.prefix) + len(self.suffix))
        ends_R = np.cumsum(counts_R)
        row_W = np.repeat(np.arange(len(num_text_R)), counts_R)
        number_W = np.arange(len(row_W)) - (ends_R - counts_R)[row_W]
        starts_W, lengths_W = self._spans(number_W, num_text_R[row_W])
        from_W = starts_W.copy()
        from_W[1:] = np.where(number_W[1:] > 0, (starts_W[1:] + (starts_W + lengths_W)[:-1] + 1) // 2, starts_W[1:])
        to_W = np.append(from_W[1:], 0)
        to_W[ends_R - 1] = num_text_R
        return from_W - starts_W + len(self.prefix), to_W - from_W, counts_R

    def _spans(self, number_W: Indices, text_lengths_W: Indices) -> tuple[Indices, Indices]:
        """Where in its text each window starts, and how much of the text it has."""
        steps_W = number_W * (self.room - self.overlap)
        if not self.from_the_end:
            return steps_W, np.minimum(self.room, text_lengths_W - steps_W)
        stops_W = text_lengths_W - steps_W
        starts_W = np.maximum(stops_W - self.room, 0)
        return starts_W, stops_W - starts_W

    def _copied(self, values: NDArray[np.int32], starts_W: Indices, text_lengths_W: Indices) -> pa.ListArray:
        num_before, num_after = len(self.prefix), len(self.suffix)
        offsets = np.zeros(len(starts_W) + 1, dtype=np.int64)
        np.cumsum(text_lengths_W + num_before + num_after, out=offsets[1:])
        copied = np.empty(offsets[-1], dtype=np.int32)
        copied[offsets[:-1, None] + np.arange(num_before)] = self.prefix
        copied[offsets[1:, None] - num_after + np.arange(num_after)] = self.suffix
        # Slices, for an index of all tokens would take four times the memory of the tokens.
        places = (offsets[:-1] + num_before).tolist()
        for place, start, length in zip(places, starts_W.tolist(), text_lengths_W.tolist(), strict=True):
            copied[place : place + length] = values[start : start + length]
        return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(copied))


def are_windows(token_ids: pa.Array | pa.ChunkedArray) -> bool:
    """Whether each row of the column is a list of windows, and not one sequence."""
    return bool(pa.types.is_list(token_ids.type.value_type))


def sequences(token_ids: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """What a model is given: every window, or every row where there are none."""
    return pc.list_flatten(token_ids) if are_windows(token_ids) else token_ids


def num_tokens(token_ids: pa.Array | pa.ChunkedArray) -> int:
    """Tokens of all rows, those that windows share as often as they are read."""
    return int(pc.sum(pc.list_value_length(sequences(token_ids))).as_py() or 0)
