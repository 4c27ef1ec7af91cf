"""A value in a cell of a plain table: one line, and of lists and vectors as much as can be read at a glance."""

from __future__ import annotations

from typing import Any

from tidemill.cli.table import WIDEST_CELL

BETWEEN = "; "
"""Elements of a list; a struct's values and a map's pairs have a blank between them."""


def cell(value: Any) -> str:
    """A value as text of at most `WIDEST_CELL` places.

    >>> cell([{"entity": "PER", "score": 0.99812, "start": 0}, {"entity": "LOC", "score": 0.9, "start": 16}])
    'PER 0.9981 0; LOC 0.9000 16'
    >>> cell([0.25] * 384)
    '0.2500; 0.2500; 0.2500; 0.2500; 0.2500; 0.2500; … 378 more'
    """
    if isinstance(value, list | tuple) and value:
        return _listed([_flat(element) for element in value])
    if isinstance(value, dict):
        return _listed([_flat(pair) for pair in value.items()])
    return _cut(_flat(value), WIDEST_CELL)


def _listed(elements: list[str]) -> str:
    """All elements, or as many as fit with the number of the others, at least a part of the first."""
    whole = BETWEEN.join(elements)
    if len(whole) <= WIDEST_CELL or len(elements) == 1:
        return _cut(whole, WIDEST_CELL)
    num_shown, used = 0, len(f"… {len(elements):,} more")
    for element in elements:
        used += len(element) + len(BETWEEN)
        if used > WIDEST_CELL:
            break
        num_shown += 1
    rest = f"{BETWEEN}… {len(elements) - max(1, num_shown):,} more"
    return _cut(BETWEEN.join(elements[: max(1, num_shown)]), WIDEST_CELL - len(rest)) + rest


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(map(_flat, value.values()))
    if isinstance(value, list | tuple):
        return " ".join(map(_flat, value))
    text = "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
    return " ".join(text.split())


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
