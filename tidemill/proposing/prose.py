"""Which column reads like prose: that with the most distinct words in the same rows.

Long cells have many words and boilerplate repeats them, so that one number holds
both; codes, addresses and hashes have none. What the columns are called decides
only between those that are about equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

CELLS_READ = 500
CHARACTERS_READ = 2_000
"""Of one cell."""
ABOUT_EQUAL = 0.9
"""Of the most distinct words; columns with more are told apart by name."""
LEAST_WORDS = 2.0
"""A cell on average, in a column that reads like prose."""
TEXT_NAMES = (
    *("text", "content", "body", "comment", "review", "message", "description", "sentence", "document", "tweet"),
    *("post", "abstract", "article", "answer", "question", "prompt", "instruction", "utterance", "title"),
)
"""The likeliest first."""

_NO_WORDS = re.compile(r"\S+://\S+|\S{41,}")
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts that put no blanks between words: a character counts as one."""
_LONG_RUN = re.compile(rf"[{_SPACELESS}]")
_WORD = re.compile(rf"[{_SPACELESS}]|(?:(?![{_SPACELESS}])[^\W\d_]){{2,}}")


@dataclass(frozen=True)
class Prose:
    """How a column reads: of the cells that hold something, and of all."""

    column: str
    num_distinct_words: int
    words_per_cell: float
    characters_per_cell: float
    filled: float
    """The share of cells that hold something."""

    @property
    def score(self) -> float:
        return self.num_distinct_words * self.filled

    @property
    def reads_like_prose(self) -> bool:
        return self.words_per_cell >= LEAST_WORDS


def words_of(text: str) -> list[str]:
    """The words of a text, folded, as far as they are of letters; none of its addresses and long codes."""
    text = text[:CHARACTERS_READ]
    if not _LONG_RUN.search(text):
        text = _NO_WORDS.sub(" ", text)
    return [word.casefold() for word in _WORD.findall(text)]


def read_column(column: str, cells: Sequence[str | None]) -> Prose:
    """How a column reads, by its first cells."""
    cells = cells[:CELLS_READ]
    filled = [cell for cell in cells if cell and not cell.isspace()]
    words = [words_of(cell) for cell in filled]
    count = max(1, len(filled))
    return Prose(
        column,
        num_distinct_words=len({word for found in words for word in found}),
        words_per_cell=sum(map(len, words)) / count,
        characters_per_cell=sum(map(len, filled)) / count,
        filled=len(filled) / max(1, len(cells)),
    )


def choose_text(columns: Mapping[str, Sequence[str | None]]) -> tuple[Prose, list[Prose]] | None:
    """The column that reads most like prose, and the others, the nearest first; None if there is no column."""
    read = sorted((read_column(name, cells) for name, cells in columns.items()), key=lambda prose: -prose.score)
    if not read:
        return None
    best = [prose for prose in read if prose.score >= ABOUT_EQUAL * read[0].score]
    chosen = min(best, key=lambda prose: _rank_of_name(prose.column))
    return chosen, [prose for prose in read if prose is not chosen]


def _rank_of_name(column: str) -> int:
    """By the likeliest word in the name's last part; names without one come last."""
    words: Iterable[str] = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", column).lower())
    return min((TEXT_NAMES.index(word) for word in words if word in TEXT_NAMES), default=len(TEXT_NAMES))
