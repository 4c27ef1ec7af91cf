"""What a run changed in how labels are spread, in one sentence: said only where it is more than the usual."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from tidemill.errors import counted
from tidemill.lake import Cursor
from tidemill.lake.tables import existing_columns, identifier

FEWEST_BEFORE = 3
"""Revisions by which the usual spread of a share is known."""
USUAL_SPREADS = 3.0
MOST_LABELS = 3


@dataclass(frozen=True)
class Moved:
    """A label's share of the rows that a revision brought, and its shares of those of the revisions before."""

    label: str
    share: float
    before: float
    spread: float

    def __str__(self) -> str:
        return f"{self.label} {self.share:.1%}, usually {self.before:.1%} ± {self.spread:.1%}"


def what_changed(cursor: Cursor, pipeline: str, revision: str) -> str | None:
    """Labels whose share of the rows that came with a revision is off their usual one by more than the usual spread.

    None where nothing is, where there are fewer than three revisions before, or where answers are no labels.
    """
    if "label" not in {name for name, _ in existing_columns(cursor, pipeline)}:
        return None
    counts = _counts(cursor, pipeline)
    new, others = counts.pop(revision, {}), [labels for labels in counts.values() if sum(labels.values())]
    if not new or len(others) < FEWEST_BEFORE:
        return None
    moved = sorted(moved_labels(new, others), key=lambda one: -abs(one.share - one.before))
    if not moved:
        return None
    told = "; ".join(map(str, moved[:MOST_LABELS]))
    more = f"; and {len(moved) - MOST_LABELS} more" if len(moved) > MOST_LABELS else ""
    return f"Of the {counted(sum(new.values()), 'new row')}, shares of labels moved more than usual: {told}{more}."


def moved_labels(new: dict[str, int], others: Sequence[dict[str, int]]) -> list[Moved]:
    """The spread of a share is that between revisions, and that of counting so few rows."""
    num_rows, found = sum(new.values()), []
    for label in sorted({*new, *(label for one in others for label in one)}):
        shares = [one.get(label, 0) / sum(one.values()) for one in others]
        before, share = fmean(shares), new.get(label, 0) / num_rows
        spread = math.sqrt(pstdev(shares) ** 2 + max(before * (1 - before), 1 / num_rows) / num_rows)
        if abs(share - before) > USUAL_SPREADS * spread:
            found.append(Moved(label, share, before, spread))
    return found


def _counts(cursor: Cursor, pipeline: str) -> dict[str, dict[str, int]]:
    """Revision → label → rows that came with it."""
    rows = cursor.execute(
        f"SELECT dataset_revision, label::VARCHAR, count(*) FROM {identifier(pipeline)} WHERE label IS NOT NULL "
        "GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    found: dict[str, dict[str, int]] = {}
    for revision, label, num_rows in rows:
        found.setdefault(revision, {})[label] = num_rows
    return found
