"""Parquet: slices come from the footer, rows by range, and only the columns asked for are read.

A row group is decoded page by page, so that one of any size takes little memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.errors import FormatError
from tidemill.formats.columnar.footer import unencoded_bytes
from tidemill.formats.columnar.reader import ColumnarFile, ColumnarReader
from tidemill.formats.streams.source import ByteSource, SourceHandle
from tidemill.values.paths import Steps, nested_among

_TAIL_BYTES = 8
_BUFFER_BYTES = 4 * 2**20
"""What one read fetches of a column; a row group's smaller column takes one read in all."""
_LEAST_BUFFER_BYTES = 2**17
_MOST_BUFFERED_BYTES = 16 * 2**20
"""What the buffers of all columns together may take."""

_DECODING_ERRORS = (pa.ArrowException, OSError, OverflowError, ValueError)


class ParquetReader(ColumnarReader):
    """Its groups are row groups."""

    def open_file(self, source: ByteSource, names: Sequence[str]) -> ColumnarFile:
        return _ParquetFile(source, names)


class _ParquetFile:
    """An open Parquet file: its footer, and record batches of chosen columns."""

    def __init__(self, source: ByteSource, names: Sequence[str]) -> None:
        self._path = source.path
        self._handle = SourceHandle(source)
        try:
            self._footer = _read_footer(self._handle, source)
            self.metadata = pq.read_metadata(pa.BufferReader(self._footer))
            self.schema = self.metadata.schema.to_arrow_schema()
            self.nested = nested_among(names, self.schema.names)
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
