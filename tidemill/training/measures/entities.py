"""Measures of what is said of tokens: of each, and of the entities that they make, by B- and I- tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tidemill.training.measures.intervals import bootstrap, measured, wilson

Entity = tuple[int, int, str]
"""First token, the one behind the last, and its type."""


def entities(tags: Sequence[str]) -> list[Entity]:
    """
    >>> entities(["O", "B-PER", "I-PER", "B-PER", "ORG", "ORG"])
    [(1, 3, 'PER'), (3, 4, 'PER'), (4, 6, 'ORG')]
    """
    found: list[Entity] = []
    for at, tag in enumerate(tags):
        begins, kind = (tag[0] == "B", tag[2:]) if tag[:2] in ("B-", "I-") else (False, tag)
        if tag == "O":
            continue
        if found and not begins and found[-1][1] == at and found[-1][2] == kind:
            found[-1] = (found[-1][0], at + 1, kind)
        else:
            found.append((at, at + 1, kind))
    return found


def measures(said: Sequence[Sequence[str]], right: Sequence[Sequence[str]], *, seed: int) -> dict[str, Any]:
    """Of rows of tags: F1 of entities, each right only as a whole and by its type, and the share of right tags."""
    per_row = [_counted(entities(ours), entities(theirs)) for ours, theirs in zip(said, right, strict=True)]
    num_tags = sum(map(len, right))
    num_right = sum(a == b for ours, theirs in zip(said, right, strict=True) for a, b in zip(ours, theirs, strict=True))
    f1 = _f1(per_row)
    return {
        "rows": len(right),
        "f1": measured(f1, bootstrap(lambda rows: _f1([per_row[row] for row in rows]), len(per_row), seed=seed)),
        "token_accuracy": measured(num_right / max(1, num_tags), wilson(num_right, num_tags)),
        "labels": _by_type(per_row),
        "slices": [],
    }


def quick_measures(said: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> dict[str, float]:
    per_row = [_counted(entities(ours), entities(theirs)) for ours, theirs in zip(said, right, strict=True)]
    return {"f1": _f1(per_row)}


Counts = tuple[Counter[str], Counter[str], Counter[str]]
"""By type: entities said rightly, said, and there."""


def _counted(said: list[Entity], right: list[Entity]) -> Counts:
    both = set(said) & set(right)
    return tuple(Counter(kind for *_, kind in found) for found in (both, said, right))  # type: ignore[return-value]


def _f1(per_row: Sequence[Counts]) -> float:
    """Over all entities, each counting alike."""
    right, said, there = (sum(sum(counts[i].values()) for counts in per_row) for i in range(3))
    return 2 * right / (said + there) if said + there else 0.0


def _by_type(per_row: Sequence[Counts]) -> list[dict[str, Any]]:
    right, said, there = (sum((counts[i] for counts in per_row), Counter[str]()) for i in range(3))
    return [
        {
            "label": kind,
            "rows": there[kind],
            "precision": right[kind] / said[kind] if said[kind] else None,
            "recall": right[kind] / there[kind] if there[kind] else None,
            "f1": float(np.divide(2 * right[kind], said[kind] + there[kind])),
        }
        for kind in sorted(said.keys() | there.keys())
    ]
