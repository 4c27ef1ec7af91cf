"""Arrow's IPC formats: files, Feather of version 2 among them, and streams, as `datasets` saves them.

A group is a record batch, as large as its writer made it. Only the buffers of the
columns asked for are read, and one batch of them is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tidemill.errors import FormatError
from tidemill.formats.columnar.messages import BATCH, DICTIONARY, SCHEMA, Message, damaged, messages
from tidemill.formats.columnar.reader import ColumnarFile, ColumnarReader
from tidemill.formats.streams.source import ByteSource
from tidemill.values.paths import Steps, nested_among
from tidemill.values.types import is_list, is_string

_DECODING_ERRORS = (pa.ArrowException, OSError, ValueError, KeyError)


class ArrowReader(ColumnarReader):
    """Its groups are record batches."""

    def open_file(self, source: ByteSource, names: Sequence[str]) -> ColumnarFile:
        return _ArrowFile(source, names)


class _ArrowFile:
    def __init__(self, source: ByteSource, names: Sequence[str]) -> None:
        self._source, self._names = source, names
        self._messages = messages(source)
        if not self._messages or self._messages[0].kind != SCHEMA:
            raise damaged(source.path, "it does not begin with a schema")
        self._batches = [message for message in self._messages if message.kind == BATCH]
        self.group_starts = list(accumulate((batch.num_rows for batch in self._batches), initial=0))

    @cached_property
    def schema(self) -> pa.Schema:
        try:
            schema = pa.ipc.read_schema(pa.py_buffer(self._head))
            _check_names(schema)
            return schema
        except _DECODING_ERRORS as e:
            raise damaged(self._source.path, e) from e

    @cached_property
    def nested(self) -> Mapping[str, Steps]:
        return nested_among(self._names, self.schema.names)

    def logical_type(self, field: pa.Field) -> pa.DataType:
        return field.type

    def column_bytes(self, group: int, names: Sequence[str]) -> int:
        batch = self._batches[group]
        return sum(self._size(batch, self._buffers(batch, name)) for name in self._roots(names))

    def record_batches(self, group: int, names: Sequence[str], num_rows: int) -> Iterator[pa.RecordBatch]:
        record_batch = self._read(self._batches[group], self._roots(names))
        for start in range(0, record_batch.num_rows, num_rows):
            yield record_batch.slice(start, num_rows)

    def _roots(self, names: Sequence[str]) -> list[str]:
        """The columns that are asked for, or that hold what is."""
        return list(dict.fromkeys(str(self.nested[name][0]) if name in self.nested else name for name in names))

    @cached_property
    def _head(self) -> bytes:
        return self._source.read(self._messages[0].start, self._messages[0].stop)

    def _size(self, batch: Message, buffers: Sequence[tuple[int, int]]) -> int:
        """What a column takes in memory: of compressed buffers the longest is asked for what it says itself."""
        size = sum(length for _, length in buffers)
        if not batch.is_compressed or self._places is None or not size:
            return size
        offset, length = max(buffers, key=lambda buffer: buffer[1])
        at = batch.body + offset
        plain = int.from_bytes(self._source.read(at, min(at + 8, self._source.size)), "little", signed=True)
        return size - length + (plain if plain >= 0 else length)

    @cached_property
    def _places(self) -> Mapping[str, range] | None:
        """Which of a batch's buffers are whose; None where only reading them says how many a column has."""
        places: dict[str, range] = {}
        start = 0
        for field in self.schema:
            num = _num_buffers(field.type)
            if num is None:
                return None
            places.setdefault(field.name, range(start, start + num))
            start += num
        return places

    def _buffers(self, batch: Message, name: str) -> Sequence[tuple[int, int]]:
        if self._places is None:
            return [(0, batch.stop - batch.body)]
        try:
            return [batch.buffers[index] for index in self._places[name]]
        except IndexError as e:
            raise damaged(self._source.path, "a batch has fewer buffers than its columns need") from e

    def _read(self, batch: Message, names: Sequence[str]) -> pa.RecordBatch:
        try:
            options = pa.ipc.IpcReadOptions(included_fields=sorted(map(self.schema.get_field_index, names)))
            stream = pa.ipc.open_stream(pa.py_buffer(self._as_stream(batch, names)), options=options)
            return _checked(stream.read_next_batch().select(list(names)), batch.num_rows)
        except _DECODING_ERRORS as e:
            if isinstance(e, FormatError):
                raise
            raise damaged(self._source.path, e) from e

    def _as_stream(self, batch: Message, names: Sequence[str]) -> npt.NDArray[np.uint8]:
        """A stream of one batch, without what no column asked for has: pages of zeros that take no memory."""
        before = [message for message in self._messages if message.kind == DICTIONARY and message.start < batch.start]
        parts = [self._head, *(self._source.read(message.start, message.stop) for message in before)]
        parts.append(self._source.read(batch.start, batch.body))
        offset = sum(map(len, parts))
        stream = np.zeros(offset + batch.stop - batch.body, np.uint8)
        stream[:offset] = np.frombuffer(b"".join(parts), np.uint8)
        for start, stop in _spans(self._buffers(batch, name) for name in names):
            read = self._source.read(batch.body + start, batch.body + stop)
            stream[offset + start : offset + stop] = np.frombuffer(read, np.uint8)
        return stream


def _spans(columns: Iterator[Sequence[tuple[int, int]]]) -> Iterator[tuple[int, int]]:
    """Where the buffers of each column lie, one range a column: its buffers follow each other."""
    for buffers in columns:
        filled = [(offset, offset + length) for offset, length in buffers if length]
        if filled:
            yield min(start for start, _ in filled), max(stop for _, stop in filled)


def _num_buffers(type_: pa.DataType) -> int | None:
    """How many buffers a column of the type has; None where each batch says it, or has none of validity."""
    if isinstance(type_, pa.BaseExtensionType):
        return _num_buffers(type_.storage_type)
    if pa.types.is_dictionary(type_):
        return 2
    if pa.types.is_null(type_):
        return 0
    if pa.types.is_union(type_) or pa.types.is_run_end_encoded(type_) or _is_view(type_):
        return None
    children = [_num_buffers(type_.field(i).type) for i in range(type_.num_fields)]
    if None in children:
        return None
    offsets = 0 if pa.types.is_struct(type_) or pa.types.is_fixed_size_list(type_) else 1
    own = 3 if is_string(type_) or pa.types.is_binary(type_) or pa.types.is_large_binary(type_) else 1 + offsets
    return own + sum(num for num in children if num is not None)


def _is_view(type_: pa.DataType) -> bool:
    views = (pa.types.is_string_view, pa.types.is_binary_view, pa.types.is_list_view, pa.types.is_large_list_view)
    return any(is_view(type_) for is_view in views)


def _checked(record_batch: pa.RecordBatch, num_rows: int) -> pa.RecordBatch:
    """The batch, if nothing in it points beyond it."""
    if record_batch.num_rows != num_rows:
        raise ValueError(f"a batch has {record_batch.num_rows} rows where its header says {num_rows}")
    for column in record_batch.columns:
        _check(column)
    return record_batch


def _check(values: pa.Array) -> None:
    """As a full validation, but for whether strings are UTF-8: that is looked at row by row, elsewhere."""
    values.validate()
    type_ = values.type
    if isinstance(type_, pa.BaseExtensionType):
        _check(values.storage)
    elif is_string(type_):
        values.view(pa.binary() if pa.types.is_string(type_) else pa.large_binary()).validate(full=True)
    elif pa.types.is_string_view(type_):
        values.view(pa.binary_view()).validate(full=True)
    elif pa.types.is_dictionary(type_):
        pa.DictionaryArray.from_arrays(values.indices, pa.nulls(len(values.dictionary)))
        _check(values.dictionary)
    elif pa.types.is_struct(type_):
        for index in range(type_.num_fields):
            _check(values.field(index))
    elif is_list(type_) or pa.types.is_map(type_):
        of_offsets = pa.LargeListArray if pa.types.is_large_list(type_) else pa.ListArray
        of_offsets.from_arrays(values.offsets, pa.nulls(_num_children(values))).validate(full=True)
        for child in (values.keys, values.items) if pa.types.is_map(type_) else (values.values,):
            _check(child)
    elif pa.types.is_fixed_size_list(type_):
        _check(values.values)
    else:
        values.validate(full=True)


def _num_children(values: pa.Array) -> int:
    return len(values.keys if pa.types.is_map(values.type) else values.values)


def _check_names(type_: pa.Schema | pa.DataType) -> None:
    """Raises UnicodeDecodeError where a name, at any depth, is not UTF-8."""
    fields = list(type_) if isinstance(type_, pa.Schema) else [type_.field(i) for i in range(type_.num_fields)]
    for field in fields:
        str(field.name)
        _check_names(field.type)
