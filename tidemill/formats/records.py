"""Files of records: cut in one pass, at record boundaries, into slices named by their own bytes.

What a format adds is where records end, what a file begins with before its first
record, and what a run of records says as rows.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.errors import FileChanged, FormatError
from tidemill.formats.streams.encodings import is_utf8
from tidemill.formats.streams.source import ByteSource
from tidemill.formats.streams.stream import SourceBytes, Stream
from tidemill.shards import Slice
from tidemill.values.columns import Columns
from tidemill.values.rows import check_columns

MAX_RECORD_BYTES = 256 * 2**20
"""A longer record is taken for damage: most often a quote that is never closed."""
_MOST_SHARD_BYTES = 2**30
_SCAN_BYTES = 2**20
_NOT_UTF8 = r"(not valid UTF-8 at byte \d+)(:|$)"
_NOT_ENCODED = r"not valid UTF-8 at byte \d+( \(a lone surrogate\))?"
"""Of text in another encoding: bytes that are none are read as surrogates."""
_WAY_OUT = "dataset.encoding says how the files are encoded"
BOM = b"\xef\xbb\xbf"
_LF, _CR = 10, 13

Buffer = bytes | bytearray | memoryview
Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Held:
    """A slice's bytes, kept from cutting to reading."""

    cut: Slice
    data: bytes


class RecordReader(ABC):
    """Reads `source` forward. Slices that were just cut or come next in the file are not read again."""

    def __init__(self, source: ByteSource, columns: Columns) -> None:
        self.path = source.path
        self.columns = columns
        self._bytes = SourceBytes(source, columns.encoding, head_bytes=columns.head_bytes)
        self._held: _Held | None = None
        self._onward: Stream | None = None

    @abstractmethod
    def schema(self) -> pa.Schema: ...

    @abstractmethod
    def ends(self, data: Buffer, *, last: bool) -> Offsets:
        """Where each record ends, terminator included, in bytes that begin at a record.

        `last` says that the file ends with them; else a record without its
        terminator is not counted.
        """

    @abstractmethod
    def parse(self, cut: Slice, data: bytes) -> pa.Table:
        """The table of rows of a slice's bytes."""

    @property
    @abstractmethod
    def content_seed(self) -> str:
        """What gives the same bytes another meaning, beside the columns asked for."""

    @abstractmethod
    def changed_seed(self, data: bytes) -> str:
        """The content seed where these bytes make other records than they once did; else the same."""

    @property
    def body_start(self) -> int:
        """Where the first record begins."""
        return len(BOM) if self.head(len(BOM)) == BOM else 0

    def slices(self, *, shard_bytes: int, known: Sequence[Slice] = (), trusted: bool = False) -> Iterator[Slice]:
        if self.is_empty:
            return
        self._check_columns()
        row = 0
        if trusted and known:
            yield from known
            row = known[-1].first_row + known[-1].num_rows
            stream = self.stream(known[-1].stop)
        else:
            stream = self.stream(self.body_start)
            for cut in known[:-1]:
                if not self._stands(cut, row, stream):
                    break
                yield cut
                row += cut.num_rows
        yield from self._cut(stream, row, min(shard_bytes, _MOST_SHARD_BYTES))

    def rows(self, cut: Slice) -> pa.Table:
        self._check_columns()
        held = self._held
        data = held.data if held is not None and held.cut == cut else self._reread(cut)
        return self._with_way_out(self.parse(cut, data))

    def reads_apart(self, cut: Slice) -> bool:
        """None is, since a file may be one compressed stream."""
        del cut
        return False

    def _with_way_out(self, rows: pa.Table) -> pa.Table:
        """The same rows; a reason that text is not in the files' encoding names the option that says which it is."""
        if rows["reason"].null_count == rows.num_rows:
            return rows
        pattern, instead = _NOT_UTF8, rf"\1; {_WAY_OUT}\2"
        if not is_utf8(self.columns.encoding):
            pattern, instead = _NOT_ENCODED, f"not valid {self.columns.encoding}; {_WAY_OUT}"
        reasons = pc.replace_substring_regex(rows["reason"], pattern, instead)
        return rows.set_column(rows.schema.get_field_index("reason"), "reason", reasons)

    def _check_columns(self) -> None:
        if len(schema := self.schema()):  # else there are but blank lines
            check_columns(schema, self.columns, self.path)

    @cached_property
    def is_empty(self) -> bool:
        return not self.head(1)

    def stream(self, start: int) -> Stream:
        """The records from a position on, where one begins or the file's first byte lies."""
        return Stream(self._bytes, start)

    def head(self, num_bytes: int) -> bytes:
        """The file's first bytes, decompressed and in UTF-8."""
        if not self._bytes.is_sequential:
            return self._bytes.read(0, min(num_bytes, self._bytes.size))
        return Stream(self._bytes).take(num_bytes)

    def sample(self, start: int) -> tuple[bytes, Offsets]:
        """Whole records from the file's front, at least one if there is one, and where they end."""
        stream = self.stream(start)
        most = self.columns.head_bytes
        wanted = most - start if start < most // 2 else most
        while True:
            stream.fill(wanted)
            data = bytes(stream.buffer[:wanted])
            ends = self.ends(data, last=len(data) < wanted)
            if len(ends) or len(data) < wanted:
                return data[: ends[-1]] if len(ends) else b"", ends
            self._check_record_size(len(data), 0, start)
            wanted *= 2

    def content(self, data: bytes) -> str:
        return _digest(self.changed_seed(data), data)

    def is_former(self, cut: Slice, data: bytes) -> bool:
        """Whether a slice was cut when its bytes made other records: it keeps those until its file changes."""
        changed = self.changed_seed(data) != self.content_seed
        return changed and cut.content == _digest(self.content_seed, data)

    def _stands(self, cut: Slice, row: int, stream: Stream) -> bool:
        """Whether a known slice comes next, with the same bytes; then the stream is behind it."""
        self._held = None
        if (cut.first_row, cut.start) != (row, stream.position):
            return False
        data = stream.peek(cut.stop - cut.start)
        if self.content(data) != cut.content:
            return False
        stream.drop(len(data))
        self._held = _Held(cut, data)
        return True

    def _cut(self, stream: Stream, row: int, shard_bytes: int) -> Iterator[Slice]:
        while True:
            self._held = None
            size, num_rows = self._next_cut(stream, row, shard_bytes)
            if not num_rows:
                return
            start = stream.position
            data = stream.take(size)
            cut = Slice(row, num_rows, start, start + size, self.content(data), size)
            self._held = _Held(cut, data)
            del data
            yield cut
            row += num_rows

    def _next_cut(self, stream: Stream, row: int, shard_bytes: int) -> tuple[int, int]:
        """How many of the stream's next bytes and records make the next slice."""
        window = shard_bytes + max(shard_bytes // 8, 2**12)
        while True:
            stream.fill(window + 1)
            last = len(stream.buffer) <= window
            with memoryview(stream.buffer) as view, view[:window] as part:
                ends = self.ends(part, last=last)
            index = int(np.searchsorted(ends, shard_bytes))
            if index < len(ends):
                return int(ends[index]), index + 1
            if last:
                return (int(ends[-1]) if len(ends) else 0), len(ends)
            begun = int(ends[-1]) if len(ends) else 0
            self._check_record_size(window - begun, row + len(ends), stream.position + begun)
            window = min(2 * window, begun + MAX_RECORD_BYTES + 1)

    def _check_record_size(self, size: int, row: int, position: int) -> None:
        if size > MAX_RECORD_BYTES:
            raise FormatError(
                f"{self.path}: the record {row}, which begins at byte {position}, is longer than {MAX_RECORD_BYTES} "
                f"bytes. A quote that is never closed reads like that: mend the file, leave it out, or set "
                f'dataset.quote = "" where quotes are text.'
            )

    def _reread(self, cut: Slice) -> bytes:
        stream = self._stream_at(cut.start)
        data = stream.take(cut.stop - cut.start)
        self._onward = stream
        if self.content(data) != cut.content and not self.is_former(cut, data):
            raise FileChanged(
                f"{self.path} no longer holds what was cut from its bytes {cut.start} to {cut.stop}. "
                f"Run again: the file will be listed anew."
            )
        return data

    def _stream_at(self, position: int) -> Stream:
        """A stream at `position`: onward from the slice read before, if possible."""
        # Taken off while it works: a stream that raised is not used again.
        stream, self._onward = self._onward, None
        if (
            stream is None
            or stream.position > position
            or not (self._bytes.is_sequential or stream.position == position)
        ):
            return self.stream(position)
        stream.skip_to(position)
        return stream


def positions(data: Buffer, *wanted: int) -> Offsets:
    """Where any of the byte values is, ascending."""
    values = np.frombuffer(data, np.uint8)
    found = []
    # In windows that stay in the processor's cache, and whose masks are small.
    for start in range(0, len(values), _SCAN_BYTES):
        window = values[start : start + _SCAN_BYTES]
        hits = window == wanted[0]
        for value in wanted[1:]:
            hits |= window == value
        found.append(np.flatnonzero(hits) + start)
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def line_ends(data: Buffer, *, last: bool) -> Offsets:
    """Where lines end, each behind its LF, CRLF or CR; a last line may lack one.

    A CR that ends the data ends a line only if it is `last`: a LF may follow.
    """
    ends = positions(data, _LF) + 1
    if len(returns := lone_returns(data, last=last)):
        ends = np.union1d(ends, returns + 1)
    if last and len(data) and (not len(ends) or ends[-1] != len(data)):
        ends = np.append(ends, len(data))
    return ends


def lone_returns(data: Buffer, *, last: bool) -> Offsets:
    """Where a CR stands without a LF behind it; at the end of the data it is one only if they are the `last`."""
    returns = positions(data, _CR)
    if not len(returns):
        return returns
    values = np.frombuffer(data, np.uint8)
    at_end = int(returns[-1]) == len(values) - 1
    before = returns[:-1] if at_end else returns
    lone = before[values[before + 1] != _LF]
    return np.append(lone, returns[-1]) if at_end and last else lone


def has_lone_returns(data: bytes) -> bool:
    return b"\r" in data and len(lone_returns(data, last=True)) > 0


def _digest(seed: str, data: bytes) -> str:
    digest = hashlib.sha256(seed.encode())
    digest.update(data)
    return digest.hexdigest()[:32]
