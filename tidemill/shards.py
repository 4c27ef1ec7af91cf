"""What a shard is: a slice of one source file, named by its place and its content.

Rows belong to the place (path and slice); computing is keyed by the content, so
the same bytes under another path cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tidemill.fingerprints import fingerprint

PLACED = ";folders="
QUOTED = ";quote="
READ = ";read="


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a dataset revision.

    `path` is its place (in the repository, or as listed); `url` is what fsspec
    opens; `content` identifies its bytes and, behind `PLACED`, which columns its
    folders give, behind `QUOTED`, with which quote they are read, and behind
    `READ`, by which other options, where those are not the usual ones; `stamp` is
    what a local file's stat said when it was listed, and empty where the content
    cannot change under us.
    """

    path: str
    url: str
    size: int
    content: str
    stamp: str = ""

    @property
    def stored(self) -> str:
        """What identifies its bytes, however they are read."""
        return self.content.partition(PLACED)[0].partition(QUOTED)[0].partition(READ)[0]


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive records of one file.

    `first_row` counts the file's records from 0. `start` and `stop` are byte
    offsets at record boundaries in the (decompressed) file for text formats and
    0 for Parquet, whose slices are rows alone. `text_bytes` is the uncompressed
    size of the text columns, or an estimate from the footer.
    """

    first_row: int
    num_rows: int
    start: int
    stop: int
    content: str
    text_bytes: int


@dataclass(frozen=True, slots=True)
class Shard:
    """A slice at its place: the unit of work, retry, resume and commit."""

    file: SourceFile
    slice: Slice
    shard_id: str = field(init=False, repr=False, compare=False)

    @property
    def label(self) -> str:
        """How it is named to people: `path:first_row`."""
        return f"{self.file.path}:{self.slice.first_row}"

    def __post_init__(self) -> None:
        cut = self.slice
        shard_id = fingerprint(self.file.path, cut.first_row, cut.start, cut.content)[:16]
        object.__setattr__(self, "shard_id", shard_id)
