"""A source file as one forward stream of decompressed bytes in UTF-8, read in blocks."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from pathlib import PurePath

from tidemill.errors import FormatError
from tidemill.formats.streams.compressions import (
    ERRORS,
    Readable,
    ZipMember,
    compression_of,
    decompressed,
    without_compression,
)
from tidemill.formats.streams.encodings import UTF8, AsUtf8, is_utf8, marked_encoding
from tidemill.formats.streams.source import ByteSource, SourceHandle
from tidemill.values.columns import HEAD_BYTES

BLOCK_BYTES = 4 * 2**20
"""What one read asks of the source."""

_MAGIC = {
    b"\x1f\x8b": "compressed by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard",
    b"\xfd7zXZ\0": "compressed by xz",
    b"PK\x03\x04": "a ZIP archive",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
}
_BZIP2 = re.compile(rb"BZh[1-9]1AY&SY")


class SourceBytes:
    """The bytes as stored. The first `head_bytes`, enough for the schema, are kept once read: nothing is read twice."""

    def __init__(self, source: ByteSource, encoding: str = UTF8, *, head_bytes: int = HEAD_BYTES) -> None:
        self.head_bytes = head_bytes
        self.path = source.path
        self.size = source.size
        self.compression = compression_of(source.path)
        self._source, self._encoding = source, encoding
        self._head = b""

    @cached_property
    def name(self) -> str:
        """The file's name; of an archive whose own name says no format, that of the file within."""
        name = without_compression(self.path)
        if self.compression != ".zip" or PurePath(name).suffix:
            return name
        return without_compression(inner_name(self._source))

    @cached_property
    def is_sequential(self) -> bool:
        """Whether only reading from the front leads to a position: positions count bytes of UTF-8, decompressed."""
        return bool(self.compression) or self._needs_decoding

    @cached_property
    def _needs_decoding(self) -> bool:
        return not is_utf8(marked_encoding(self.read(0, min(4, self.size))) or self._encoding)

    def open(self, position: int) -> tuple[SourceHandle | _Blocks, Readable]:
        """What reads the stored bytes, and what reads them as UTF-8, from a position that is 0 in a sequential file."""
        stored, file = self._decompressed(position)
        return stored, AsUtf8(file, self._encoding) if self.compression or self._needs_decoding else file

    def head_as_encoded(self, num_bytes: int) -> bytes:
        """The file's first bytes, decompressed, in whatever encoding they are."""
        stored, file = self._decompressed(0)
        head = b""
        try:
            while len(head) < num_bytes and (block := file.read(num_bytes - len(head))):
                head += block
        except ERRORS as e:
            raise stored.failure or damaged(self.path, e) from e
        return head

    def _decompressed(self, position: int) -> tuple[SourceHandle | _Blocks, Readable]:
        if self.compression == ".zip" and self.size:
            handle = SourceHandle(self)
            return handle, ZipMember(handle, self.path)
        blocks = _Blocks(self, position)
        return blocks, decompressed(blocks, self.path)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop)."""
        if start >= self.head_bytes:
            return self._source.read(start, stop)
        if not self._head:
            self._head = self._source.read(0, min(self.head_bytes, self.size))
            self._refuse_other_formats()
        behind = self._source.read(self.head_bytes, stop) if stop > self.head_bytes else b""
        return self._head[start:stop] + behind

    def _refuse_other_formats(self) -> None:
        found = next((meaning for magic, meaning in _MAGIC.items() if self._head.startswith(magic)), None)
        if _BZIP2.match(self._head):
            found = "compressed by bzip2"
        if found and not self.compression:
            raise FormatError(f"{self.path} is {found}, which its name does not say. Give it the fitting ending.")


def inner_name(source: ByteSource) -> str:
    """What a ZIP archive calls the one data file in it.

    Raises:
        FormatError: it is no sound archive, or has several data files, or none.
    """
    handle = SourceHandle(source)
    try:
        return ZipMember(handle, source.path).name
    except ERRORS as e:
        raise handle.failure or damaged(source.path, e) from e


def damaged(path: str, error: Exception) -> FormatError:
    return FormatError(
        f"{path} cannot be decompressed: {error}. It is damaged or cut short: replace it, or leave it out."
    )


class Stream:
    """Decompressed bytes in UTF-8 from `position` on; only what is buffered is in memory.

    A stream that raised is of no more use.
    """

    def __init__(self, source: SourceBytes, start: int = 0) -> None:
        self.position = 0 if source.is_sequential else start
        self.buffer = bytearray()
        self.at_end = False
        self._path = source.path
        self._stored, self._file = source.open(self.position)
        self.skip_to(start)

    def through(self, read_by: Callable[[Readable], Readable]) -> Stream:
        """The same stream, its bytes from here on as something else gives them that reads them."""
        assert not self.buffer, "bytes that were read already would come as they are"
        self._file = read_by(self._file)
        return self

    def fill(self, num_bytes: int) -> None:
        """Buffer at least `num_bytes`, or all that is left: then `at_end` is true."""
        while len(self.buffer) < num_bytes and not self.at_end:
            block = self._read_block(num_bytes - len(self.buffer))
            self.buffer += block
            self.at_end = not block

    def take(self, num_bytes: int) -> bytes:
        """The next bytes, fewer only at the end."""
        taken = self.peek(num_bytes)
        self.drop(len(taken))
        return taken

    def peek(self, num_bytes: int) -> bytes:
        """As `take`, and they are still the next ones."""
        self.fill(num_bytes)
        with memoryview(self.buffer) as view:
            return bytes(view[:num_bytes])

    def drop(self, num_bytes: int) -> None:
        """Forget bytes that are buffered."""
        del self.buffer[:num_bytes]
        self.position += num_bytes

    def skip_to(self, position: int) -> None:
        while self.position < position and self.take(min(BLOCK_BYTES, position - self.position)):
            pass

    def _read_block(self, num_bytes: int) -> bytes:
        try:
            return self._file.read(num_bytes)
        except ERRORS as e:
            if self._stored.failure is not None:
                raise self._stored.failure from None
            raise damaged(self._path, e) from e


class _Blocks:
    """Stored bytes as a forward-only file object that reads whole blocks."""

    closed = False

    def __init__(self, source: SourceBytes, position: int) -> None:
        self._source = source
        self._position = position
        self._block = memoryview(b"")
        self.failure: BaseException | None = None

    def read(self, size: int = -1, /) -> bytes:
        if not self._block:
            self._next_block()
        taken = self._block if size < 0 else self._block[:size]
        self._block = self._block[len(taken) :]
        return bytes(taken)

    def _next_block(self) -> None:
        in_head = self._position < self._source.head_bytes
        stop = min(self._source.head_bytes if in_head else self._position + BLOCK_BYTES, self._source.size)
        if stop <= self._position:
            return
        try:
            self._block = memoryview(self._source.read(self._position, stop))
        except BaseException as e:
            self.failure = e
            raise
        self._position = stop

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True
