"""Two texts side by side, as wide as the terminal and a few lines high, from where they begin to differ."""

from __future__ import annotations

from itertools import zip_longest

from tidemill.cli.table import width_of
from tidemill.cli.terminal import printable

MOST_LINES = 6
INDENT, BETWEEN = "  ", " │ "
CUT = "…"
LINE_BREAK = "↵"


def side_by_side(names: tuple[str, str], texts: tuple[str, str], *, width: int) -> list[str]:
    """The names, and below them the texts in two columns; what is left out has a mark in its place."""
    half = max(1, (width - len(INDENT) - len(BETWEEN)) // 2)
    shown = _from_difference(_shown(texts[0]), _shown(texts[1]), half=half)
    columns = ([_cut(name, half), *_lines(text, half)] for name, text in zip(names, shown, strict=True))
    rows = zip_longest(*columns, fillvalue="")
    return [f"{INDENT}{left}{' ' * (half - width_of(left))}{BETWEEN}{right}".rstrip() for left, right in rows]


def _shown(text: str | None) -> str:
    """One line, in which nothing is a command to a terminal."""
    return printable((text or "").replace("\r\n", "\n").replace("\n", LINE_BREAK).replace("\t", " "))


def _from_difference(first: str, second: str, *, half: int) -> tuple[str, str]:
    """Without what both begin with, where that would fill more than the first line."""
    shorter = min(len(first), len(second))
    num_same = next((i for i in range(shorter) if first[i] != second[i]), shorter)
    if width_of(first[:num_same]) <= half or first == second:
        return first, second
    start = max(0, num_same - half // 2)
    return CUT + first[start:], CUT + second[start:]


def _lines(text: str, width: int) -> list[str]:
    """At most `MOST_LINES`, broken between words where they have some; the last one says that there is more."""
    lines: list[str] = []
    while text and len(lines) < MOST_LINES:
        line = _fitting(text, width)
        if " " not in text[len(line) : len(line) + 1] and len(line) < len(text) and (end := line.rfind(" ")) > 0:
            line = line[:end]
        lines.append(line)
        text = text[len(line) :].lstrip(" ")
    if text:
        lines[-1] = _fitting(lines[-1], width - len(CUT)) + CUT
    return lines


def _fitting(text: str, width: int) -> str:
    """As many of the first characters as have room, and one at least."""
    used = 0
    for i, char in enumerate(text):
        used += width_of(char)
        if used > width and i:
            return text[:i]
    return text


def _cut(text: str, width: int) -> str:
    return text if width_of(text) <= width else _fitting(text, width - len(CUT)) + CUT
