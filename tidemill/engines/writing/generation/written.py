"""What a model wrote, item by item, as an engine gives it and as an answer holds it.

Shapes: B items of a batch, W ids of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

STOP, LENGTH, FAILED = 0, 1, 2
"""Why an item has no more ids: an end token or a stop string, the limit, or that it has no answer."""

ANSWER = pa.struct(
    [
        pa.field("finish", pa.int8()),
        pa.field("num_prompt_tokens", pa.int32()),
        pa.field("num_new_tokens", pa.int32()),
        pa.field("ids", pa.list_(pa.int32())),
    ]
)
_NUM_FACTS = 3
_NOTHING = -1


@dataclass(frozen=True)
class Written:
    """Of one item: every id after its prompt or the decoder's start, end tokens included and padding not.

    Of one that `FAILED` the ids are the reason's bytes in UTF-8. A count is -1 where nobody knows it.
    """

    ids: Sequence[int]
    finish: int
    num_prompt_tokens: int = _NOTHING
    num_new_tokens: int = _NOTHING


def failed(reason: str) -> Written:
    """Of an item that has no answer: its row goes to quarantine, and the others of the batch do not."""
    return Written(list(reason.encode()), FAILED)


def outputs_of(written: Sequence[Written]) -> NDArray[np.int32]:
    """B×(3+W): how each item ended, its two counts and its ids; -1 behind them."""
    lengths = np.array([len(each.ids) for each in written], dtype=np.int64)
    outputs = np.full((len(written), _NUM_FACTS + int(lengths.max(initial=0))), _NOTHING, dtype=np.int32)
    for row, each in zip(outputs, written, strict=True):
        row[:_NUM_FACTS] = each.finish, each.num_prompt_tokens, each.num_new_tokens
        row[_NUM_FACTS : _NUM_FACTS + len(each.ids)] = each.ids
    return outputs


def answers_of(outputs: NDArray[np.int32]) -> pa.StructArray:
    """One `ANSWER` an item; its counts are null where they are not known."""
    finish_B, num_prompt_B, num_new_B = outputs[:, :_NUM_FACTS].T
    ids_BW = outputs[:, _NUM_FACTS:]
    is_id_BW = ids_BW != _NOTHING
    offsets = np.concatenate([[0], np.cumsum(is_id_BW.sum(axis=1))]).astype(np.int32)
    ids = pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids_BW[is_id_BW], pa.int32()))
    counts = [pa.array(count, pa.int32(), mask=count == _NOTHING) for count in (num_prompt_B, num_new_B)]
    return pa.StructArray.from_arrays([pa.array(finish_B, pa.int8()), *counts, ids], fields=list(ANSWER))
