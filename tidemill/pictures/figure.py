"""A figure: one question about a table, the SQL that answers it, and how the answer is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["bars", "shares", "columns", "histogram", "heatmap", "points", "table"]
"""How rows are drawn: `bars` lie, `columns` stand, `shares` are bars to the whole of each x; all stacked by `series`.

A `heatmap` is by x and y, of `value`; `points` lie at numbers x and y; a `table` is not drawn.
"""

MOST_EXACT = 2**53
"""Whole numbers beyond it are rounded by a browser, and by most readers of JSON: they go there as text."""


@dataclass(frozen=True)
class Axes:
    """Columns of the answer, by what they are in a picture; a title of an axis is its column's name if not given."""

    x: str = ""
    y: str = "num_rows"
    series: str | None = None
    value: str | None = None
    x_title: str = ""
    y_title: str = ""


@dataclass(frozen=True)
class Figure:
    """`sql` reads the lake alone, has no parameters, and gives few rows however many the table has."""

    id: str
    section: str
    title: str
    tells: str
    """One sentence: what a reader sees here."""
    sql: str
    kind: Kind = "table"
    axes: Axes = Axes()
    notes: tuple[str, ...] = ()
    holds_texts: bool = False
    """Whether the answer may hold texts of rows: then it is asked for only with `--texts`."""


@dataclass(frozen=True)
class Picture:
    """A figure with its answer."""

    figure: Figure
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def column(self, name: str) -> list[Any]:
        place = self.columns.index(name)
        return [row[place] for row in self.rows]

    def records(self) -> list[dict[str, Any]]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def to_json(self) -> dict[str, Any]:
        figure = self.figure
        return {
            "id": figure.id,
            "section": figure.section,
            "title": figure.title,
            "tells": figure.tells,
            "notes": list(figure.notes),
            "sql": figure.sql,
            "columns": list(self.columns),
            "rows": exact([list(row) for row in self.rows]),
        }


def exact(value: Any) -> Any:
    """A value with whole numbers beyond 2^53 as text.

    >>> exact({"id": 2**53 + 1, "of": [2**53]})
    {'id': '9007199254740993', 'of': [9007199254740992]}
    """
    if isinstance(value, int) and abs(value) > MOST_EXACT:
        return str(value)
    if isinstance(value, dict):
        return {key: exact(inner) for key, inner in value.items()}
    return (
        [exact(inner) for inner in value]
        if isinstance(value, Sequence) and not isinstance(value, str | bytes)
        else value
    )
