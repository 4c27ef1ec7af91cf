"""A picture where no script runs, as in Markdown: a table with bars made of block characters."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from tidemill.pictures.figures.figure import Picture

MOST_ROWS = 30
WIDTH = 24
MARKUP = "|\\`*[]~"
EIGHTHS = " ▏▎▍▌▋▊▉"


def in_markdown(picture: Picture) -> str:
    figure, axes = picture.figure, picture.figure.axes
    counts = picture.column(axes.value or axes.y)
    largest = max((count for count in counts if count is not None), default=0)
    header = [name.strip("_").replace("_", " ") for name in picture.columns]
    lines = [f"### {_cell(figure.title)}", _cell(figure.tells), "", _line([*map(_cell, header), ""])]
    lines.append(_line(["---"] * (len(header) + 1)))
    for row, count in list(zip(picture.rows, counts, strict=True))[:MOST_ROWS]:
        lines.append(_line([*map(_cell, row), bar(count, largest)]))
    if len(picture.rows) > MOST_ROWS:
        lines += ["", f"The first {MOST_ROWS} of {len(picture.rows)} lines."]
    return "\n".join(lines)


def bar(count: float | None, largest: float) -> str:
    """
    >>> bar(3, 4), bar(0, 0)
    ('██████████████████', '')
    """
    eighths = round(max(count or 0, 0) / largest * WIDTH * 8) if largest > 0 else 0
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8]).strip()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    """A value of which nothing is markup, nor ends a cell. Prefect's pages show entities as they are written: no more
    letters are escaped than have to be, and the underscore of a label is none of them.
    """
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    escaped = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"&#{ord(letter)};" if letter in MARKUP else letter for letter in escaped)
