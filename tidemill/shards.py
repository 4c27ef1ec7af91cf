"""What a shard is: a slice of one source file, named by its place and its content.

Rows belong to the place (path and slice); computing is keyed by the content, so
the same bytes under another path cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from tidemill.fingerprints import fingerprint

T = TypeVar("T")

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


TOGETHER_BYTES = 2**17
"""Text of small shards that go through the stages together, at most: a second or so of computing."""


def small_together(
    items: Iterable[T], text_bytes: Callable[[T], int], *, most: int, within: int = TOGETHER_BYTES
) -> Iterator[tuple[T, ...]]:
    """Items, such as shards, in their order: small ones in groups of at most `most`, and each other one by itself.

    A group has at most `within` bytes.

    What a stage or a transaction costs however little it does, a group pays once.

    >>> list(small_together([9, 8, 2**20, 7], text_bytes=int, most=64))
    [(9, 8), (1048576,), (7,)]
    """
    group: list[T] = []
    size = 0
    for item in items:
        if group and (len(group) == most or size + text_bytes(item) > within):
            yield tuple(group)
            group, size = [], 0
        group.append(item)
        size += text_bytes(item)
    if group:
        yield tuple(group)
