"""Plain tables that fit a terminal."""

from __future__ import annotations

import shutil
import textwrap
import unicodedata
from collections.abc import Sequence

WIDEST_CELL = 60
NARROWEST_CELL = 16
"""Down to which long cells are cut, to spare a table its columns."""
GAP = "  "


def terminal_width() -> int:
    """Of the terminal, or what `COLUMNS` says; 80 where there is neither."""
    return shutil.get_terminal_size().columns


def fitted(
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    *,
    width: int,
    empty: Sequence[str] = (),
    unneeded: Sequence[str] = (),
) -> str:
    """The cells under their columns' names.

    Where they are wider than `width`, the columns that are named in `empty` go, one
    after the other, until the rest fits; then those of `unneeded`, until it would
    fit with its long cells cut.
    """
    kept = list(range(len(columns)))
    natural = [max([width_of(name), *(width_of(row[i]) for row in cells)]) for i, name in enumerate(columns)]
    least = [max(width_of(name), min(most, NARROWEST_CELL)) for name, most in zip(columns, natural, strict=True)]
    for names, asked in ((empty, natural), (unneeded, least)):
        for name in names:
            if _total([asked[i] for i in kept]) > width:
                kept = [i for i in kept if columns[i] != name]
    widths = _cut([natural[i] for i in kept], [least[i] for i in kept], width)
    lines = [[columns[i] for i in kept], ["─" * each for each in widths], *([row[i] for i in kept] for row in cells)]
    return "\n".join(
        GAP.join(_padded(text, each) for text, each in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def wrapped(text: str, width: int) -> str:
    """Lines that are wider broken between words, but for commands, which are to be copied."""
    return "\n".join(
        line if width_of(line) <= width or line.startswith("  tidemill ") else _wrapped_line(line, width)
        for line in text.split("\n")
    )


def _wrapped_line(line: str, width: int) -> str:
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line.strip(),
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def width_of(text: str) -> int:
    """How many places of a terminal it takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _cut(natural: Sequence[int], least: Sequence[int], width: int) -> list[int]:
    """Column by column how wide: the widest lose first."""
    widths = list(natural)
    while _total(widths) > width:
        wide = [i for i in range(len(widths)) if widths[i] > least[i]]
        if not wide:
            break
        widths[max(wide, key=lambda i: widths[i])] -= 1
    return widths


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * max(0, len(widths) - 1)


def _padded(text: str, width: int) -> str:
    if width_of(text) > width:
        while width_of(text) > width - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (width - width_of(text))
