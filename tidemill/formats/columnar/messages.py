"""Where the messages of Arrow's IPC formats lie, from their headers alone.

pyarrow reads a stream from its front, body by body, and does not show where the
buffers of a batch are. The headers are FlatBuffers, of which little is needed
(https://github.com/apache/arrow/blob/main/format/Message.fbs, and File.fbs for
the footer that the file format has behind the same stream).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tidemill.errors import FormatError
from tidemill.formats.streams.source import ByteSource

SCHEMA, DICTIONARY, BATCH = 1, 2, 3
"""Kinds of messages."""

_FILE_MAGIC = b"ARROW1"
_FEATHER1 = b"FEA1"
_CONTINUATION = b"\xff\xff\xff\xff"
_READ_AT_ONCE = 2**16


@dataclass(frozen=True)
class Message:
    """One message: its header in [start, body), its buffers in [body, stop)."""

    kind: int
    start: int
    body: int
    stop: int
    num_rows: int = 0
    buffers: tuple[tuple[int, int], ...] = ()
    """(offset in the body, length) of each buffer of a batch."""
    is_compressed: bool = False


def messages(source: ByteSource) -> list[Message]:
    """All messages of a file or stream, in their order.

    Raises:
        FormatError: it is neither, is cut short or damaged.
    """
    try:
        return list(_walk(_Window(source)))
    except (struct.error, IndexError) as e:
        raise damaged(source.path, "a message's header cannot be read") from e


def damaged(path: str, what: object) -> FormatError:
    return FormatError(f"{path} is not a sound Arrow file or stream: {what}. Replace the file, or leave it out.")


def _walk(window: _Window) -> Iterator[Message]:
    source = window.source
    head = window.read(0, min(8, source.size))
    if head.startswith(_FEATHER1):
        raise FormatError(f"{source.path} is Feather of version 1. Write it again, as version 2 or as Parquet.")
    is_file = head.startswith(_FILE_MAGIC)
    end, num_batches = _footer(window) if is_file else (source.size, None)
    at, found = (8 if is_file else 0), 0
    while at < end:
        message = _message(window, at)
        if message is None:
            break
        if message.stop > end:
            raise damaged(source.path, "it is cut short")
        found += message.kind == BATCH
        at = message.stop
        yield message
    else:
        if not is_file:
            raise damaged(source.path, "its end is missing, as if its writer had been stopped")
    if num_batches not in (None, found):
        raise damaged(source.path, f"its footer has {num_batches} batches and its body {found}")


def _message(window: _Window, at: int) -> Message | None:
    """The message that begins there; None for the mark of a stream's end."""
    prefix = window.read(at, at + 4)
    start = at + 4
    if prefix == _CONTINUATION:
        prefix, start = window.read(start, start + 4), start + 4
    (length,) = struct.unpack("<i", prefix)
    if length == 0:
        return None
    if length < 0:
        raise damaged(window.source.path, "a message's header cannot be read")
    table = _Table.root(window.read(start, start + length))
    kind, header, body = table.number(1, "<B"), table.table(2), start + length
    size = table.number(3, "<q")
    stop = body + size
    if size < 0:
        raise damaged(window.source.path, "a message's header cannot be read")
    if kind != BATCH or header is None:
        return Message(kind, at, body, stop)
    num_rows, buffers = header.number(0, "<q"), header.structs(2, "<qq")
    if num_rows < 0 or any(not 0 <= offset <= offset + length <= size for offset, length in buffers):
        raise damaged(window.source.path, "a buffer lies outside of its batch")
    return Message(kind, at, body, stop, num_rows, tuple(buffers), header.table(3) is not None)


def _footer(window: _Window) -> tuple[int, int]:
    """Where the stream within a file ends, and how many batches it has."""
    size, path = window.source.size, window.source.path
    tail = window.read(max(0, size - 10), size)
    if not tail.endswith(_FILE_MAGIC) or size < 18:
        raise damaged(path, "it is cut short")
    start = size - 10 - struct.unpack("<i", tail[:4])[0]
    if not 8 <= start < size - 10:
        raise damaged(path, "its footer cannot be read")
    return start, _Table.root(window.read(start, size - 10)).length(3)


class _Window:
    """A source read by small ranges: each read fetches some more, for headers of small batches lie close together."""

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self._start, self._bytes = 0, b""

    def read(self, start: int, stop: int) -> bytes:
        if stop > self.source.size:
            raise damaged(self.source.path, "it is cut short")
        if not self._start <= start <= stop <= self._start + len(self._bytes):
            self._start = start
            self._bytes = self.source.read(start, min(self.source.size, max(stop, start + _READ_AT_ONCE)))
        return self._bytes[start - self._start : stop - self._start]


class _Table:
    """A table of FlatBuffers: its fields by number, absent ones zero."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        self._fields = at - self._unpack("<i", at)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, struct.unpack_from("<I", data)[0])

    def number(self, field: int, kind: str) -> int:
        at = self._place(field)
        return self._unpack(kind, at) if at else 0

    def table(self, field: int) -> _Table | None:
        at = self._place(field)
        return _Table(self._data, at + self._unpack("<I", at)) if at else None

    def length(self, field: int) -> int:
        at = self._place(field)
        return self._unpack("<I", at + self._unpack("<I", at)) if at else 0

    def structs(self, field: int, kind: str) -> list[tuple[int, int]]:
        num, at = self.length(field), self._place(field)
        first = at + self._unpack("<I", at) + 4 if at else 0
        size = struct.calcsize(kind)
        return [struct.unpack_from(kind, self._data, first + size * index) for index in range(num)]

    def _place(self, field: int) -> int:
        slot = 4 + 2 * field
        offset = self._unpack("<H", self._fields + slot) if slot < self._unpack("<H", self._fields) else 0
        return self._at + offset if offset else 0

    def _unpack(self, kind: str, at: int) -> int:
        if at < 0:
            raise IndexError(at)
        number: int = struct.unpack_from(kind, self._data, at)[0]
        return number
