"""Whether a loop gives rows of several lengths what each is given alone: asked of every model that is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tidemill.checkpoints.loading import silence
from tidemill.engines import never
from tidemill.engines.writing.decoding.loop import Loop
from tidemill.engines.writing.decoding.rows import Row

LENGTHS = (3, 8)
NUM_STEPS = 2
MOST_APART = {torch.float32: 1e-3}
"""Of scores, as a part of the largest one; of 16 bits, `MOST_APART_IN_16_BITS`."""
MOST_APART_IN_16_BITS = 0.1


class Given:
    """Chooses the same tokens whatever the scores are, and keeps these."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = ids
        self.scores: dict[int, list[Tensor]] = {}

    def choose(self, logits_NV: Tensor, rows: Sequence[Row]) -> list[int]:
        for logits_V, row in zip(logits_NV, rows, strict=True):
            self.scores.setdefault(len(row.prompt), []).append(logits_V.float().cpu())
        return [self._ids[row.num_new] for row in rows]


class Limit:
    """Ends rows at their limit alone."""

    def look_at(self, row: Row) -> None:
        row.finish = 1 if row.num_new == row.limit else None


def is_same(
    open_loop: Callable[[Given, Any], Loop],
    write_alone: Callable[[Given, Any, Sequence[Row]], None],
    *,
    start: Sequence[int] | None,
    vocabulary_size: int,
    dtype: torch.dtype,
) -> bool:
    ids = [int(each) for each in np.random.default_rng(0).integers(vocabulary_size, size=64)]
    together, alone = Given(ids), Given(ids)
    try:
        with torch.inference_mode(), silence():
            _run(open_loop(together, Limit()), _rows(ids, start))
            for row in _rows(ids, start):
                write_alone(alone, Limit(), [row])
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, NotImplementedError):
        return False
    apart = MOST_APART.get(dtype, MOST_APART_IN_16_BITS)
    return all(_is_near(together.scores[length], alone.scores[length], apart) for length in LENGTHS)


def _rows(ids: Sequence[int], start: Sequence[int] | None) -> list[Row]:
    return [Row(np.array(ids[-length:], dtype=np.int64), start=start, limit=NUM_STEPS) for length in LENGTHS]


def _run(loop: Loop, rows: Sequence[Row]) -> None:
    loop.put(rows)
    while any(row.is_open for row in rows):
        loop.step(never)


def _is_near(ours: Sequence[Tensor], theirs: Sequence[Tensor], apart: float) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(bool((one - other).abs().max() <= apart * other.abs().max()) for one, other in pairs)
