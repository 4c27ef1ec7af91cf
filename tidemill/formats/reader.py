"""What every format's reader takes and gives; which columns it reads is in `values.columns`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import pyarrow as pa

from tidemill.shards import Slice


class Reader(Protocol):
    """One open file of one format. Not for several threads at once."""

    def schema(self) -> pa.Schema:
        """All the file's columns; reads the footer or the first records only.

        Types are those of `plain_type`, and null where no value shows one. An
        empty text file has no columns.

        Raises:
            FormatError: the file is not of this format, is truncated or corrupt.
        """
        ...

    def common_type(self, a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
        """The type of a column that one file shows as `a` and another as `b`; None if they do not agree."""
        ...

    def gives_back(self, name: str, to: pa.DataType) -> bool:
        """Whether the first records of a text file fit a column of the type that all files' types have in common."""
        ...

    def slices(self, *, shard_bytes: int, known: Sequence[Slice] = (), trusted: bool = False) -> Iterator[Slice]:
        """Cut the file from its front into slices of about `shard_bytes` of text.

        The same bytes and `shard_bytes` give the same slices. `known` are
        slices cut before, from row 0 on: those whose content still stands at
        their place are given again whatever `shard_bytes` says, except the last
        one of a text file, which may have grown and is cut again from its start.
        `trusted` says that the file is the one they were cut from: then all of
        them stand, unread, and cutting goes on behind the last.

        Raises:
            SchemaError: a column asked for is missing, or a text column holds no strings.
            FormatError: as for `schema`.
        """
        ...

    def rows(self, cut: Slice) -> pa.Table:
        """The rows of one slice. Reading slices in order costs one pass over the file.

        Raises:
            FileChanged: the file no longer holds this slice.
        """
        ...

    def reads_apart(self, cut: Slice) -> bool:
        """Whether the rows of a slice are read without what lies before it in the file."""
        ...
