"""How groups of rows become slices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

_GIANT = 1.5
"""A group above this many times `shard_bytes` is cut in row ranges."""


def pack(groups: Iterator[tuple[int, int, int]], shard_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Groups, each as (first row, rows, text bytes), as slices: small ones together, giant ones in equal row ranges."""
    first_row, num_rows, text_bytes = 0, 0, 0
    for first, rows, size in groups:
        if num_rows and text_bytes + size > shard_bytes:
            yield first_row, num_rows, text_bytes
            num_rows = 0
        if size > _GIANT * shard_bytes:
            yield from _row_ranges(first, rows, size, shard_bytes)
            continue
        if not num_rows:
            first_row, text_bytes = first, 0
        num_rows += rows
        text_bytes += size
    if num_rows:
        yield first_row, num_rows, text_bytes


def _row_ranges(first: int, num_rows: int, size: int, shard_bytes: int) -> Iterator[tuple[int, int, int]]:
    parts = min(num_rows, math.ceil(size / shard_bytes))
    for start, stop in pairwise(part * num_rows // parts for part in range(parts + 1)):
        yield first + start, stop - start, size * (stop - start) // num_rows
