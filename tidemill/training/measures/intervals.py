"""Intervals in which a measure lies with 95% confidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z = 1.959964
"""Of the normal distribution, for 95%."""
NUM_RESAMPLES = 500
Interval = tuple[float, float]


def wilson(num_right: int, num: int) -> Interval:
    """Of a share: Wilson's score interval, which stays within 0 and 1 for few rows.

    >>> [round(bound, 3) for bound in wilson(9, 10)]
    [0.596, 0.982]
    """
    if not num:
        return 0.0, 1.0
    share, square = num_right / num, Z * Z
    middle = share + square / (2 * num)
    half = Z * math.sqrt(share * (1 - share) / num + square / (4 * num * num))
    return max(0.0, (middle - half) / (1 + square / num)), min(1.0, (middle + half) / (1 + square / num))


def bootstrap(measure: Callable[[NDArray[np.int64]], float], num: int, *, seed: int = 0) -> Interval:
    """Of any measure of `num` rows, given as row numbers: percentiles over rows drawn with replacement."""
    random = np.random.default_rng(seed)
    values: list[float] = [measure(random.integers(0, num, num)) for _ in range(NUM_RESAMPLES)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def measured(value: float, interval: Interval) -> dict[str, Any]:
    return {"value": value, "low": interval[0], "high": interval[1]}
