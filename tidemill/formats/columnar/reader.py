"""What columnar formats share: slices come from the index, rows by range, and only the columns asked for are read.

A file's rows lie in groups. One is decoded in small record batches by an
iterator that stays where it is between slices, so that a group of any size
takes one pass.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import pyarrow as pa

from tidemill.errors import FileChanged
from tidemill.fingerprints import fingerprint
from tidemill.formats.streams.source import ByteSource
from tidemill.shards import Slice
from tidemill.values.columns import Columns
from tidemill.values.paths import Steps, column_at, type_at
from tidemill.values.rows import build_rows, check_columns
from tidemill.values.types import common_type, plain_type

_GIANT = 1.5
"""A group above this many times `shard_bytes` is cut in row ranges."""
_RECORD_BATCH_BYTES = 2**18
_MOST_RECORD_BATCH_ROWS = 8192


class ColumnarFile(Protocol):
    """An open file: its index, and record batches of chosen columns, some of which may be paths within others."""

    group_starts: list[int]
    """The first row of each group of rows, and the number of all rows."""

    @property
    def schema(self) -> pa.Schema: ...

    @property
    def nested(self) -> Mapping[str, Steps]:
        """The names that are no columns but paths within them."""
        ...

    def logical_type(self, field: pa.Field) -> pa.DataType:
        """What a column holds, where pyarrow shows bytes alone."""
        ...

    def column_bytes(self, group: int, names: Sequence[str]) -> int:
        """The size of the columns in one group, about as large as they are in memory."""
        ...

    def record_batches(self, group: int, names: Sequence[str], num_rows: int) -> Iterator[pa.RecordBatch]:
        """One group in record batches of at most `num_rows`; of nested columns at least what the paths lead through.

        Raises:
            FormatError: it cannot be decoded.
        """
        ...


class ColumnarReader(ABC):
    """Reads `source` by range. Asking for slices out of order rereads their group of rows from its start."""

    def __init__(self, source: ByteSource, columns: Columns) -> None:
        self._source = source
        self._columns = columns
        self._pass: _GroupPass | None = None

    def schema(self) -> pa.Schema:
        return self._schema

    @cached_property
    def _schema(self) -> pa.Schema:
        file = self._file
        if not file.group_starts[-1]:  # what pandas writes of an empty column says nothing of its type
            return pa.schema([(name, pa.null()) for name in (*file.schema.names, *file.nested)])
        own = [field.with_type(plain_type(file.logical_type(field))) for field in file.schema]
        within = [(name, type_at(file.schema.field(steps[0]).type, steps)) for name, steps in file.nested.items()]
        return pa.schema([*own, *(pa.field(name, plain_type(type_)) for name, type_ in within if type_ is not None)])

    def common_type(self, a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
        return common_type(a, b)

    def gives_back(self, name: str, to: pa.DataType) -> bool:
        del name, to  # only reading tells, row by row
        return True

    def slices(self, *, shard_bytes: int, known: Sequence[Slice] = (), trusted: bool = False) -> Iterator[Slice]:
        del trusted  # the footer is read in any case, and the content says it all
        check_columns(self.schema(), self._columns, self._source.path)
        row = 0
        for cut in known:
            if cut.first_row != row or not self._holds(cut):
                break
            yield cut
            row += cut.num_rows
        for first_row, num_rows, text_bytes in _pack(self._groups_from(row), shard_bytes):
            content = fingerprint(self._source.content, first_row, num_rows)
            yield Slice(first_row, num_rows, 0, 0, content, text_bytes)

    def rows(self, cut: Slice) -> pa.Table:
        check_columns(self.schema(), self._columns, self._source.path)
        if not self._holds(cut):
            raise FileChanged(
                f"{self._source.path} is not the file that rows {cut.first_row} to "
                f"{cut.first_row + cut.num_rows - 1} were cut from. Run again: the file will be listed anew."
            )
        record_batches = [record_batch for part in self._parts(cut) for record_batch in part]
        table = pa.Table.from_batches(record_batches)
        for name in self._names:
            if name in self._file.nested:
                steps = self._file.nested[name]
                table = table.append_column(name, column_at(table[steps[0]], steps))
        # Pools keep what decoding used: over a giant group that grows to several slices.
        pa.default_memory_pool().release_unused()
        return build_rows(cut.first_row, table, self._columns, dict(self._columns.types), {})

    def reads_apart(self, cut: Slice) -> bool:
        """Not what begins within a group, which is decoded from its start."""
        return cut.first_row in self._file.group_starts

    def _holds(self, cut: Slice) -> bool:
        fits = cut.first_row + cut.num_rows <= self._file.group_starts[-1]
        return fits and cut.content == fingerprint(self._source.content, cut.first_row, cut.num_rows)

    @abstractmethod
    def open_file(self, source: ByteSource, names: Sequence[str]) -> ColumnarFile:
        """The file's index; of its columns these will be read."""

    @cached_property
    def _file(self) -> ColumnarFile:
        return self.open_file(self._source, self._columns.sources)

    @cached_property
    def _names(self) -> list[str]:
        """The source columns that the file has, or has within others."""
        return [name for name in self._columns.sources if name in self._schema.names]

    def _groups_from(self, row: int) -> Iterator[tuple[int, int, int]]:
        """First row, rows and text bytes of each group, from `row` on."""
        for index, (first, after) in enumerate(pairwise(self._file.group_starts)):
            if after > max(first, row):
                text_bytes = self._file.column_bytes(index, self._columns.texts)
                begin = max(first, row)
                yield begin, after - begin, text_bytes * (after - begin) // (after - first)

    def _parts(self, cut: Slice) -> Iterator[list[pa.RecordBatch]]:
        """The slice's record batches, group by group."""
        stop = cut.first_row + cut.num_rows
        for index, (first, after) in enumerate(pairwise(self._file.group_starts)):
            begin, end = max(first, cut.first_row), min(after, stop)
            if begin < end:
                yield self._taken(index, begin - first, end - begin)

    def _taken(self, group: int, row: int, num_rows: int) -> list[pa.RecordBatch]:
        """Rows of one group, by the pass that the slice before left there, or by a new one."""
        # Taken off while it works: a pass that raised is not used again.
        current, self._pass = self._pass, None
        if current is None or current.group != group or current.row > row:
            del current  # its buffers go before the next ones come
            current = _GroupPass(self._file, group, self._names)
        current.skip(row - current.row)
        record_batches = current.take(num_rows)
        self._pass = current
        return record_batches


def _pack(groups: Iterator[tuple[int, int, int]], shard_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Groups, each as (first row, rows, text bytes), as slices: small ones together, giant ones in equal row ranges."""
    first_row, num_rows, text_bytes = 0, 0, 0
    for first, rows, size in groups:
        if num_rows and text_bytes + size > shard_bytes:
            yield first_row, num_rows, text_bytes
            num_rows = 0
        if size > _GIANT * shard_bytes:
            yield from _row_ranges(first, rows, size, shard_bytes)
            continue
        if not num_rows:
            first_row, text_bytes = first, 0
        num_rows += rows
        text_bytes += size
    if num_rows:
        yield first_row, num_rows, text_bytes


def _row_ranges(first: int, num_rows: int, size: int, shard_bytes: int) -> Iterator[tuple[int, int, int]]:
    parts = min(num_rows, math.ceil(size / shard_bytes))
    for start, stop in pairwise(part * num_rows // parts for part in range(parts + 1)):
        yield first + start, stop - start, size * (stop - start) // num_rows


class _GroupPass:
    """One pass over the rows of a group, forward only. `row` is the next one."""

    def __init__(self, file: ColumnarFile, group: int, names: Sequence[str]) -> None:
        self.group = group
        self.row = 0
        num_rows = file.group_starts[group + 1] - file.group_starts[group]
        bytes_per_row = file.column_bytes(group, names) / num_rows
        fitting = max(1, int(_RECORD_BATCH_BYTES / max(bytes_per_row, 1)))
        self._record_batches = file.record_batches(group, names, min(fitting, _MOST_RECORD_BATCH_ROWS))
        self._rest: pa.RecordBatch | None = None

    def skip(self, num_rows: int) -> None:
        for _ in self._next(num_rows):
            pass

    def take(self, num_rows: int) -> list[pa.RecordBatch]:
        return list(self._next(num_rows))

    def _next(self, num_rows: int) -> Iterator[pa.RecordBatch]:
        while num_rows:
            record_batch = self._rest if self._rest is not None else next(self._record_batches)
            taken = record_batch.slice(0, num_rows)
            self._rest = record_batch.slice(num_rows) if record_batch.num_rows > num_rows else None
            num_rows -= taken.num_rows
            self.row += taken.num_rows
            yield taken
