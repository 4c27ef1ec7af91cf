"""Text from elsewhere on a terminal, which takes some characters for commands: to move, to retitle, to paste."""

from __future__ import annotations

import re

COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but for tab and newline, and what turns the direction of writing."""


def printable(text: str) -> str:
    """The text with such characters spelled out."""
    return COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
