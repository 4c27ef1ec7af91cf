"""Parquet: slices come from the footer, rows by range, and only the columns asked for are read.

A row group is decoded in small record batches by an iterator that stays where
it is between slices, so that a row group of any size takes one pass and little
memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, pairwise

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.errors import FileChanged, FormatError
from tidemill.fingerprints import fingerprint
from tidemill.formats.footer import unencoded_bytes
from tidemill.formats.reader import ByteSource
from tidemill.shards import Slice
from tidemill.values.columns import Columns
from tidemill.values.paths import Steps, column_at, nested_among, type_at
from tidemill.values.rows import build_rows, check_columns
from tidemill.values.types import common_type, plain_type

_TAIL_BYTES = 8
_GIANT = 1.5
"""A row group above this many times `shard_bytes` is cut in row ranges."""
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
        return self._schema

    @cached_property
    def _schema(self) -> pa.Schema:
        file = self._file
        if not file.metadata.num_rows:  # what pandas writes of an empty column says nothing of its type
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
        """The source columns that the file has, or has within others."""
        return [name for name in self._columns.sources if name in self._schema.names]

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


def _pack(groups: Iterator[tuple[int, int, int]], shard_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Row groups as slices: small ones together, giant ones in equal row ranges."""
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


class _ParquetFile:
    """An open Parquet file: its footer, and record batches of chosen columns."""

    def __init__(self, source: ByteSource, names: Sequence[str]) -> None:
        self._path = source.path
        self._handle = _SourceHandle(source)
        try:
            self._footer = _read_footer(self._handle, source)
            self.metadata = pq.read_metadata(pa.BufferReader(self._footer))
            self.schema = self.metadata.schema.to_arrow_schema()
            self.nested = nested_among(names, self.schema.names)
            """The names that are no columns but paths within them."""
            self._leaves = _leaves_by_column(self.schema) | self._leaves_within()
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

    def _leaves_within(self) -> dict[str, range]:
        starts = {name: leaves.start for name, leaves in _leaves_by_column(self.schema).items()}
        roots = {name: self.schema.field(steps[0]) for name, steps in self.nested.items()}
        return {name: _leaves_at(root.type, self.nested[name], starts[root.name]) for name, root in roots.items()}

    def logical_type(self, field: pa.Field) -> pa.DataType:
        """What the column holds where pyarrow shows bytes alone: a UUID, or an interval at any depth."""
        if not (pa.types.is_nested(field.type) or pa.types.is_fixed_size_binary(field.type)):
            return field.type
        schema = self.metadata.schema
        stored_as = [schema.column(leaf) for leaf in self._leaves[field.name]]
        if any(column.converted_type == "INTERVAL" for column in stored_as):
            return pa.month_day_nano_interval()
        is_uuid = field.type.equals(pa.binary(16)) and stored_as[0].logical_type.type == "UUID"
        return pa.uuid() if is_uuid else field.type

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
        """One row group in record batches of at most `num_rows`; of nested columns what the paths lead through.

        Raises:
            FormatError: a page cannot be decoded.
        """
        try:
            roots = dict.fromkeys(self.nested[name][0] if name in self.nested else name for name in names)
            columns = [path for name in names for path in self._stored_paths(name)]
            for record_batch in self._file.iter_batches(num_rows, [group], columns=columns, use_threads=False):
                yield record_batch.select(list(roots))
        except _DECODING_ERRORS as e:
            raise self._translated(e) from e

    def _stored_paths(self, name: str) -> list[str]:
        if name not in self.nested:
            return [name]
        return [self.metadata.schema.column(leaf).path for leaf in self._leaves[name]]

    def _translated(self, error: Exception) -> BaseException:
        """What the source itself raised, as it was; else the file is at fault."""
        if self._handle.failure is not None:
            return self._handle.failure
        return FormatError(f"{self._path} is not a sound Parquet file: {error}. Replace the file, or leave it out.")


def _read_footer(handle: _SourceHandle, source: ByteSource) -> bytes:
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


def _leaves_at(type_: pa.DataType, steps: Steps, start: int) -> range:
    """The physical columns of what lies behind the steps within a column that begins at `start`."""
    for step in steps[1:]:
        if isinstance(step, str) and pa.types.is_struct(type_) and step in type_.names:
            place = type_.get_field_index(step)
            start += sum(_num_leaves(type_.field(i).type) for i in range(place))
            type_ = type_.field(place).type
        elif isinstance(step, int) and pa.types.is_nested(type_) and type_.num_fields == 1:
            type_ = type_.field(0).type
    return range(start, start + _num_leaves(type_))


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


class _SourceHandle:
    """A byte source as the file object that pyarrow reads from: no read-ahead of its own.

    Whatever the source raises is kept in `failure`, for pyarrow may wrap it.
    """

    closed = False

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._position = 0
        self.failure: BaseException | None = None

    def read(self, num_bytes: int = -1) -> bytes:
        stop = self._source.size if num_bytes < 0 else min(self._source.size, self._position + num_bytes)
        if stop <= self._position:
            return b""
        self.failure = None
        try:
            read = self._source.read(self._position, stop)
        except BaseException as e:
            self.failure = e
            raise
        self._position = stop
        return read

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, self._source.size)[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True
