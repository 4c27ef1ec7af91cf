"""Batches are made of sequences of like length, so that little of a forward pass is padding."""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import SequenceTooLong

Indices = NDArray[np.int64]

Company = Literal["any lengths", "equal lengths", "one row"]
"""Which rows may share a batch."""
ANY_LENGTHS: Company = "any lengths"
EQUAL_LENGTHS: Company = "equal lengths"
ONE_ROW: Company = "one row"


def rounded(lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Lengths up to 32 as they are, longer ones rounded up by less than a 32nd, so that few different ones are left.

    >>> rounded(np.array([7, 32, 33, 300, 512])).tolist()
    [7, 32, 33, 304, 512]
    """
    steps = 2 ** np.maximum(0, np.floor(np.log2(np.maximum(lengths, 1))).astype(np.int64) - 5)
    padded: NDArray[np.int64] = (lengths + steps - 1) // steps * steps
    return padded


def plan_batches(
    lengths: Sequence[int] | NDArray[np.integer], *, token_budget: int, company: Company = ANY_LENGTHS
) -> list[Indices]:
    """Group sequences that may share a batch into batches whose padded size fits `token_budget`.

    A batch holds indices into `lengths`; every index is in exactly one. Longest
    first, so a budget too large for the device fails on a run's first batches and
    not hours into it. Equal lengths keep their order: the same input gives the
    same batches.

    Raises:
        SequenceTooLong: one sequence alone is longer than `token_budget`.

    >>> [batch.tolist() for batch in plan_batches([3, 9, 4, 4], token_budget=12)]
    [[1], [2, 3, 0]]
    >>> [batch.tolist() for batch in plan_batches([3, 9, 4, 4], token_budget=12, company="equal lengths")]
    [[1], [2, 3], [0]]
    """
    by_index = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-by_index, kind="stable")
    widths = by_index[order].tolist()
    if widths and widths[0] > token_budget:
        raise SequenceTooLong(num_tokens=widths[0], token_budget=token_budget)
    batches = []
    start = 0
    while start < len(widths):
        stop = start + (1 if company == ONE_ROW else token_budget // max(widths[start], 1))
        if company == EQUAL_LENGTHS:
            # Widths fall, so the last of this one is where the next smaller would be put.
            stop = min(stop, bisect_right(widths, -widths[start], lo=start, key=operator.neg))
        batches.append(order[start:stop])
        start = stop
    return batches
