"""Two long texts on a terminal: within its width, from where they differ, and with no commands to it."""

from __future__ import annotations

import pytest

from tidemill.cli.side_by_side import MOST_LINES, side_by_side
from tidemill.cli.table import width_of

SAME = "It begins as the other one does, and goes on like that for a while. " * 4


def shown(first: str, second: str, width: int = 80) -> list[str]:
    return side_by_side(("text 33ed8d4b", "310e0959"), (first, second), width=width)


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("text", ["word " * 500, "日本語" * 300, "x" * 2000, "😀 " * 300, ""])
def test_it_is_never_wider_than_the_terminal_nor_higher_than_some_lines(text, width):
    lines = shown(text, "no", width)
    assert max(map(width_of, lines)) <= width
    assert len(lines) <= MOST_LINES + 1


def test_what_is_left_out_is_marked():
    lines = shown("word " * 500, "word")
    assert lines[-1].partition("│")[0].rstrip().endswith("…")
    assert "…" not in "".join(shown("word", "other"))


def test_texts_that_begin_alike_are_shown_from_where_they_differ():
    lines = "\n".join(shown(SAME + "Yes.", SAME + "No."))
    assert "Yes." in lines
    assert "No." in lines
    assert "It begins" not in lines


def test_a_text_gives_the_terminal_no_commands():
    lines = "\n".join(shown("\x1b]0;title\x07 red \x1b[31m", "a\u202eb\x9b31m\r\x08"))
    assert not set(lines) & {"\x1b", "\x07", "\x08", "\x9b", "\r", "\u202e"}
    assert "\\x1b[31m" in lines


def test_line_breaks_are_shown_and_break_no_line():
    lines = shown("a\nb\r\nc", "a b c")
    assert len(lines) == 2
    assert "a↵b↵c" in lines[1]
