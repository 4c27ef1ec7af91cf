"""Parquet: slices come from the footer, rows by range, and only the columns asked for are read.

A row group is decoded in small record batches by an iterator that stays where
it is between slices, so that a row group of any size takes one pass and little
memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, pairwise

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.errors import FileChanged, FormatError
from tidemill.fingerprints import fingerprint
from tidemill.formats.columnar.footer import unencoded_bytes
from tidemill.formats.columnar.slicing import pack
from tidemill.formats.streams.source import ByteSource, SourceHandle
from tidemill.shards import Slice
from tidemill.values.columns import Columns
from tidemill.values.rows import build_rows, check_columns
from tidemill.values.types import common_type, plain_type

_TAIL_BYTES = 8
_RECORD_BATCH_BYTES = 2**18
_MOST_RECORD_BATCH_ROWS = 8192
_BUFFER_BYTES = 4 * 2**20
"""What one read fetches of a column; a row group's smaller column takes one read in all."""
_LEAST_BUFFER_BYTES = 2**17
_MOST_BUFFERED_BYTES = 16 * 2**20
"""What the buffers of all columns together may take."""

_DECODING_ERRORS = (pa.ArrowException, OSError, OverflowError, ValueError)


class ParquetReader:
    """Reads `source` by range. Asking for slices out of order rereads their row group from its start."""

    def __init__(self, source: ByteSource, columns: Columns) -> None:
        self._source = source
        self._columns = columns
        self._pass: _RowGroupPass | None = None

    def schema(self) -> pa.Schema:
        return pa.schema([field.with_type(plain_type(field.type)) for field in self._file.schema])

    def common_type(self, a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
        return common_type(a, b)

    def slices(self, *, shard_bytes: int, known: Sequence[Slice] = (), trusted: bool = False) -> Iterator[Slice]:
        del trusted  # the footer is read in any case, and the content says it all
        check_columns(self._file.schema, self._columns, self._source.path)
        row = 0
        for cut in known:
            if cut.first_row != row or not self._holds(cut):
                break
            yield cut
            row += cut.num_rows
        for first_row, num_rows, text_bytes in pack(self._groups_from(row), shard_bytes):
            content = fingerprint(self._source.content, first_row, num_rows)
            yield Slice(first_row, num_rows, 0, 0, content, text_bytes)

    def rows(self, cut: Slice) -> pa.Table:
        check_columns(self._file.schema, self._columns, self._source.path)
        if not self._holds(cut):
            raise FileChanged(
                f"{self._source.path} is not the file that rows {cut.first_row} to "
                f"{cut.first_row + cut.num_rows - 1} were cut from. Run again: the file will be listed anew."
            )
        record_batches = [record_batch for part in self._parts(cut) for record_batch in part]
        names = self._names
        table = pa.Table.from_batches(record_batches, self._file.arrow_schema(names))
        # Pools keep what decoding used: over a giant row group that grows to several slices.
        pa.default_memory_pool().release_unused()
        return build_rows(cut.first_row, table, self._columns, dict(self._columns.types), {})

    def _holds(self, cut: Slice) -> bool:
        fits = cut.first_row + cut.num_rows <= self._file.metadata.num_rows
        return fits and cut.content == fingerprint(self._source.content, cut.first_row, cut.num_rows)

    @cached_property
    def _file(self) -> _ParquetFile:
        return _ParquetFile(self._source, self._columns.sources)

    @cached_property
    def _names(self) -> list[str]:
        """The source columns that the file has."""
        return [name for name in self._columns.sources if name in self._file.schema.names]

    def _groups_from(self, row: int) -> Iterator[tuple[int, int, int]]:
        """First row, rows and text bytes of each row group, from `row` on."""
        for index, (first, after) in enumerate(pairwise(self._file.group_starts)):
            if after > max(first, row):
                text_bytes = self._file.column_bytes(index, self._columns.text)
                begin = max(first, row)
                yield begin, after - begin, text_bytes * (after - begin) // (after - first)

    def _parts(self, cut: Slice) -> Iterator[list[pa.RecordBatch]]:
        """The slice's record batches, row group by row group."""
        stop = cut.first_row + cut.num_rows
        for index, (first, after) in enumerate(pairwise(self._file.group_starts)):
            begin, end = max(first, cut.first_row), min(after, stop)
            if begin < end:
                yield self._taken(index, begin - first, end - begin)

    def _taken(self, group: int, row: int, num_rows: int) -> list[pa.RecordBatch]:
        """Rows of one row group, by the pass that the slice before left there, or by a new one."""
        # Taken off while it works: a pass that raised is not used again.
        current, self._pass = self._pass, None
        if current is None or current.group != group or current.row > row:
            del current  # its buffers go before the next ones come
            current = _RowGroupPass(self._file, group, self._names)
        current.skip(row - current.row)
        record_batches = current.take(num_rows)
        self._pass = current
        return record_batches


class _ParquetFile:
    """An open Parquet file: its footer, and record batches of chosen columns."""

    def __init__(self, source: ByteSource, names: Sequence[str]) -> None:
        self._path = source.path
        self._handle = SourceHandle(source)
        try:
            self._footer = _read_footer(self._handle, source)
            self.metadata = pq.read_metadata(pa.BufferReader(self._footer))
            self.schema = self.metadata.schema.to_arrow_schema()
            self._leaves = _leaves_by_column(self.schema)
            self._file = self._open(sum(len(self._leaves.get(name, ())) for name in names))
        except _DECODING_ERRORS as e:
            raise self._translated(e) from e
        sizes = [self.metadata.row_group(i).num_rows for i in range(self.metadata.num_row_groups)]
        self.group_starts = list(accumulate(sizes, initial=0))

    def _open(self, num_buffers: int) -> pq.ParquetFile:
        return pq.ParquetFile(
            pa.PythonFile(self._handle, "r"),
            metadata=self.metadata,
            pre_buffer=False,
            buffer_size=min(_BUFFER_BYTES, max(_MOST_BUFFERED_BYTES // max(1, num_buffers), _LEAST_BUFFER_BYTES)),
            arrow_extensions_enabled=False,
            page_checksum_verification=True,
        )

    def arrow_schema(self, names: Sequence[str]) -> pa.Schema:
        return pa.schema([self.schema.field(name) for name in names])

    def column_bytes(self, group: int, names: Sequence[str]) -> int:
        """The size of the columns in one row group: uncompressed and, where the writer says it, decoded."""
        chunks = self.metadata.row_group(group)
        size = 0
        for leaf in (leaf for name in names for leaf in self._leaves[name]):
            chunk = chunks.column(leaf)
            decoded = self._decoded_sizes[group][leaf] if chunk.has_dictionary_page else None
            size += max(chunk.total_uncompressed_size, decoded or 0)
        return size

    @cached_property
    def _decoded_sizes(self) -> list[list[int | None]]:
        return unencoded_bytes(self._footer)

    def record_batches(self, group: int, names: Sequence[str], num_rows: int) -> Iterator[pa.RecordBatch]:
        """One row group in record batches of at most `num_rows`, the columns in the order asked for.

        Raises:
            FormatError: a page cannot be decoded.
        """
        try:
            for record_batch in self._file.iter_batches(num_rows, [group], columns=list(names), use_threads=False):
                yield record_batch.select(list(names))
        except _DECODING_ERRORS as e:
            raise self._translated(e) from e

    def _translated(self, error: Exception) -> BaseException:
        """What the source itself raised, as it was; else the file is at fault."""
        if self._handle.failure is not None:
            return self._handle.failure
        return FormatError(f"{self._path} is not a sound Parquet file: {error}. Replace the file, or leave it out.")


def _read_footer(handle: SourceHandle, source: ByteSource) -> bytes:
    """The footer and the tail that says how long it is, by exactly their bytes."""
    if source.size < _TAIL_BYTES + 4:
        raise FormatError(f"{source.path} has {source.size} bytes, too few for a Parquet file. It may be cut short.")
    handle.seek(-_TAIL_BYTES, os.SEEK_END)
    tail = handle.read()
    if tail[4:] == b"PARE":
        raise FormatError(f"{source.path} is an encrypted Parquet file, which cannot be read.")
    footer_start = source.size - _TAIL_BYTES - int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or footer_start < 4:
        raise FormatError(f"{source.path} does not end as a Parquet file does. It is cut short or of another format.")
    handle.seek(footer_start)
    return handle.read(source.size - _TAIL_BYTES - footer_start) + tail


def _leaves_by_column(schema: pa.Schema) -> dict[str, range]:
    """Which of the file's physical columns each column is stored in."""
    leaves, start = {}, 0
    for field in schema:
        leaves[field.name] = range(start, start + _num_leaves(field.type))
        start = leaves[field.name].stop
    return leaves


def _num_leaves(type_: pa.DataType) -> int:
    if isinstance(type_, pa.BaseExtensionType):
        return _num_leaves(type_.storage_type)
    if not pa.types.is_nested(type_):
        return 1
    return sum(_num_leaves(type_.field(i).type) for i in range(type_.num_fields))


class _RowGroupPass:
    """One pass over a row group's rows, forward only. `row` is the next one."""

    def __init__(self, file: _ParquetFile, group: int, names: Sequence[str]) -> None:
        self.group = group
        self.row = 0
        num_rows = file.metadata.row_group(group).num_rows
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
