"""A page of a table as HTML, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from html import escape

from tidemill.app.rows import cells
from tidemill.app.rows.browsing import Page
from tidemill.app.rows.filters import Filter
from tidemill.errors import counted
from tidemill.lake.records.marks import Place

MOST_DIGITS = 18
"""Of a number of a row."""


def name_of(place: Place) -> str:
    """What a page calls a row. A shard is named after its content, so no other row ever has that name."""
    return f"{place.shard_id}/{place.row_number}"


def place_named(name: str) -> Place | None:
    """
    >>> place_named("0a1b/7"), place_named("0a1b/seven")
    (Place(shard_id='0a1b', row_number=7), None)
    """
    shard_id, _, number = name.partition("/")
    return Place(shard_id, int(number)) if number.isdecimal() and len(number) <= MOST_DIGITS else None


def told(page: Page, asked: Filter) -> str:
    """How many rows there are, and how far they were looked at."""
    if not page.num_rows:
        return "The table has no rows."
    found = counted(len(page.rows), "row")
    if asked.is_empty:
        return f"{found} of {page.num_rows:,}."
    if page.next is None:
        return f"{found}, to the end of {page.num_rows:,}." if page.rows else f"None of {page.num_rows:,} rows."
    if len(page.rows) == 0 and page.num_looked_at < page.num_rows:
        return f"None of the first {page.num_looked_at:,} rows of {page.num_rows:,}: the next page goes on from there."
    return f"{found}; {page.num_looked_at:,} of {page.num_rows:,} looked at."


def cut(page: Page) -> Page:
    """The page as it stays with the visitor: no more of a text than is shown."""
    return replace(page, rows=[tuple(cells.cut_text(v) if isinstance(v, str) else v for v in row) for row in page.rows])


def shown_page(page: Page, told: str) -> str:
    if not page.rows:
        return cells.message(told)
    openers = [
        f'<button type="button" class="tm-open" data-place="{escape(name_of(place))}" '
        f'aria-label="open row {place.row_number} of {escape(path)}">{place.row_number}</button>'
        for place, path in zip(page.places, page.paths, strict=True)
    ]
    rows = [
        (page.marks.get(place), path, *row) if page.marks else (path, *row)
        for place, path, row in zip(page.places, page.paths, page.rows, strict=True)
    ]
    columns = [*(["mark"] if page.marks else []), "file", *page.columns]
    return cells.table(told, columns, rows, first=openers)
