"""A figure: one question about a table, the SQL that answers it, and how the answer is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["bars", "pairs", "shares", "columns", "histogram", "heatmap", "points", "spans", "texts", "table"]
"""How rows are drawn: `bars` lie, `columns` stand, `shares` are bars to the whole of each x; all stacked by `series`.

`pairs` are bars beside each other, one a series. A `heatmap` is by x and y, of `value`; `points` lie at numbers x and
y, coloured by any of `columns`; `spans` are the texts x with the places of `value` marked in them; `texts` are
`columns` side by side; a `table` is not drawn.
"""

OTHERS = "others"
MOST_EXACT = 2**53
"""Whole numbers beyond it are rounded by a browser, and by most readers of JSON: they go there as text."""


@dataclass(frozen=True)
class Axes:
    """Columns of the answer, by what they are in a picture; a title of an axis is its column's name if not given."""

    x: str = ""
    y: str = "num_rows"
    series: str | None = None
    value: str | None = None
    columns: tuple[str, ...] = ()
    x_title: str = ""
    y_title: str = ""
    is_share: bool = False
    """Whether `y` is a share, from 0 to 1."""


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
    of_others: str = ""
    """What is said where the answer counts some values together as `others`."""
    most: int | None = None
    """Lines that the answer has at most; where it has as many, it is said that there may be more."""
    worked_out: Callable[[Picture], Picture] | None = None
    """What is made of the answer where SQL cannot make it, such as a map of vectors."""


@dataclass(frozen=True)
class Picture:
    """A figure with its answer."""

    figure: Figure
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    @property
    def is_of_rows(self) -> bool:
        """Whether single rows are in it."""
        return self.figure.kind in ("table", "points", "spans", "texts")

    def column(self, name: str) -> list[Any]:
        place = self.columns.index(name)
        return [row[place] for row in self.rows]

    def records(self) -> list[dict[str, Any]]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    @property
    def notes(self) -> tuple[str, ...]:
        figure = self.figure
        of_others = figure.of_others if any(OTHERS in row for row in self.rows) else ""
        of_most = f"The first {figure.most} by rows; there may be more." if len(self.rows) == figure.most else ""
        return tuple(filter(None, (of_others, of_most, *figure.notes)))

    def to_json(self) -> dict[str, Any]:
        figure = self.figure
        return {
            "id": figure.id,
            "section": figure.section,
            "title": figure.title,
            "tells": figure.tells,
            "notes": list(self.notes),
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
