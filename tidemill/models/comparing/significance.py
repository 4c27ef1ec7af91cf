"""Whether two versions differ on rows whose right answer is known, or only by chance."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

Z = 1.959964
"""Of the normal distribution, for 95%."""


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p-value that rows which only one of two has right fall so unevenly by chance: McNemar's test,
    by the binomial distribution.

    >>> round(mcnemar(2, 12), 4), mcnemar(3, 3), mcnemar(0, 0)
    (0.0129, 1.0, 1.0)
    """
    num, fewer = only_first + only_second, min(only_first, only_second)
    if not num:
        return 1.0
    logs = (math.lgamma(num + 1) - math.lgamma(k + 1) - math.lgamma(num - k + 1) for k in range(fewer + 1))
    tail = sum(math.exp(log - num * math.log(2)) for log in logs)
    return min(1.0, 2 * tail)


def difference(only_first: int, only_second: int, num: int) -> dict[str, float]:
    """By how much the second's share of right rows is above the first's, with its 95% interval.

    Half a row is added to each cell, so that few rows give no interval of no width: Agresti and Min 2005, Simple
    improved confidence intervals for comparing matched proportions.
    """
    value = (only_second - only_first) / num
    first, second, total = only_first + 0.5, only_second + 0.5, num + 2
    middle = (second - first) / total
    half = Z * math.sqrt(first + second - (second - first) ** 2 / total) / total
    return {"value": value, "low": max(-1.0, middle - half), "high": min(1.0, middle + half)}


def macro_f1(counts: Iterable[tuple[Any, Any, int]]) -> float:
    """Of (said, right answer, rows): the mean of the labels' F1, over those that are said or right.

    >>> macro_f1([("a", "a", 1), ("a", "b", 1), ("b", "b", 1)])
    0.6666666666666666
    """
    right: dict[Any, int] = {}
    others: dict[Any, int] = {}
    for said, truth, rows in counts:
        if said == truth:
            right[said] = right.get(said, 0) + rows
        else:
            for label in (said, truth):
                others[label] = others.get(label, 0) + rows
    scores = [
        2 * right.get(label, 0) / (2 * right.get(label, 0) + others.get(label, 0)) for label in right.keys() | others
    ]
    return math.fsum(scores) / len(scores) if scores else 0.0
