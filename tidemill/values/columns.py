"""Which columns are read of a source, and what they become in the table of rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import pyarrow as pa

HEAD_BYTES = 2**20
"""How much of a text file's front says which columns it has, and of which types."""
KEPT_PREFIX = "kept."
"""Before the name of a key or kept column in the table of rows, so that it may be called `text` or `reason`."""


TEXTS = ("text", "text_pair")
"""The columns of the table of rows that hold what the model reads; the second where a row is a pair of texts."""


def part_name(column: str) -> str:
    """Where a format puts a column's parts of texts, in JSON, beside the column as it is kept."""
    return f"part.{column}"


class JoinedText(NamedTuple):
    """The columns that the model reads, joined by a separator into one text a row, or into two that are a pair."""

    columns: tuple[str, ...]
    separator: str
    pair: tuple[str, ...] = ()
    """Those of the second text."""
    as_parts: bool = False
    """Whether the columns stay apart: the text is then the JSON of their values, in order."""


@dataclass(frozen=True)
class Columns:
    """Which columns are read, and what they become.

    `kept` pairs a source column with its name in the table, the `num_keys` keys
    first. `types` gives source columns' Arrow types where they are settled: by
    the pipeline file, or by what the dataset's files show, so that all files
    agree. Cells of the source columns in `converted` become their type as well
    as they can; those of the others must come back as they were written.
    """

    text: tuple[str, ...]
    separator: str = "\n"
    pair: tuple[str, ...] = ()
    """The second text's, where a row is a pair of texts."""
    as_parts: bool = False
    """Whether the text is the JSON of its columns' values, each a string or a list of messages."""
    kept: tuple[tuple[str, str], ...] = ()
    types: tuple[tuple[str, pa.DataType], ...] = ()
    converted: tuple[str, ...] = ()
    num_keys: int = 0
    delimiter: str = ","
    quote: str = '"'
    """Empty where no character quotes."""
    escape: str = ""
    """Takes its meaning from the character behind it; empty where none does."""
    header: bool = True
    """Whether the first record of a CSV file names the columns."""
    names: tuple[str, ...] = ()
    """What a CSV file's columns are called, in place of what its header says."""
    encoding: str = "utf-8"
    """Of text files; a byte order mark wins."""
    field: str | None = None
    """Where the array of records is within a JSON file's objects, dotted; None where it is the file's value."""
    head_bytes: int = HEAD_BYTES

    @property
    def texts(self) -> tuple[str, ...]:
        """The source columns that the model reads, of both texts where there are two."""
        return (*self.text, *self.pair)

    @property
    def sources(self) -> tuple[str, ...]:
        """The distinct source columns, in the order first asked for."""
        return tuple(dict.fromkeys((*self.texts, *(source for source, _ in self.kept))))

    @property
    def kept_sources(self) -> tuple[str, ...]:
        return tuple(source for source, _ in self.kept)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(source for source, _ in self.kept[: self.num_keys])

    @property
    def needed(self) -> Columns:
        """The columns without which no row of a file can be read, whatever other files show."""
        return replace(self, kept=self.kept[: self.num_keys], types=())

    @property
    def required(self) -> tuple[str, ...]:
        """The source columns that every file must have; any other kept one is null in a file without it."""
        settled = dict(self.types)
        return tuple(name for name in self.sources if name in (*self.texts, *self.keys) or name not in settled)
