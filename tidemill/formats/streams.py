"""A source file as one forward stream of decompressed bytes, read in blocks."""

from __future__ import annotations

import gzip
import zlib
from typing import Protocol

import pyarrow as pa

from tidemill.errors import FormatError
from tidemill.formats.reader import ByteSource

BLOCK_BYTES = 4 * 2**20
"""What one read asks of the source."""

COMPRESSIONS = (".gz", ".zst")

_MAGIC = {b"\x1f\x8b": "compressed by gzip", b"\x28\xb5\x2f\xfd": "compressed by Zstandard", b"PAR1": "Parquet"}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class SourceBytes:
    """The bytes as stored. The first `head_bytes`, enough for the schema, are kept once read: nothing is read twice."""

    def __init__(self, source: ByteSource, head_bytes: int) -> None:
        self.head_bytes = head_bytes
        self.path = source.path
        self.size = source.size
        self.compressed = source.path.lower().endswith(COMPRESSIONS)
        self._source = source
        self._head = b""

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop), which lie either in the head or behind it."""
        if start >= self.head_bytes:
            return self._source.read(start, stop)
        if not self._head:
            self._head = self._source.read(0, min(self.head_bytes, self.size))
            self._refuse_other_formats()
        return self._head[start:stop]

    def _refuse_other_formats(self) -> None:
        for magic, meaning in _MAGIC.items():
            if self._head.startswith(magic) and not self.compressed:
                raise FormatError(f"{self.path} is {meaning}, which its name does not say. Give it the fitting ending.")
        if self._head.startswith(_UTF16) and not self.compressed:
            raise FormatError(f"{self.path} is UTF-16. Convert it to UTF-8.")


class Stream:
    """Decompressed bytes from `position` on; only what is buffered is in memory.

    A stream that raised is of no more use.
    """

    def __init__(self, source: SourceBytes, start: int = 0) -> None:
        self.position = 0
        self.buffer = bytearray()
        self.at_end = False
        self._path = source.path
        if source.compressed:
            self._blocks = _Blocks(source, 0)
            self._file: _Readable = _decompressed(self._blocks, source.path)
            self.skip_to(start)
        else:
            self._blocks = _Blocks(source, start)
            self._file = self._blocks
            self.position = start

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
        except (EOFError, gzip.BadGzipFile, zlib.error, pa.ArrowException, OSError) as e:
            if self._blocks.failure is not None:
                raise self._blocks.failure from None
            raise FormatError(
                f"{self._path} cannot be decompressed: {e}. It is damaged or cut short: replace it, or leave it out."
            ) from e


def _decompressed(blocks: _Blocks, path: str) -> _Readable:
    """Several gzip members or Zstandard frames are one stream; a cut one is an error at its end."""
    if path.lower().endswith(".gz"):
        return gzip.GzipFile(fileobj=blocks, mode="rb")  # type: ignore[call-overload,no-any-return]
    # zstandard's own reader takes a frame that was cut short for the end of the file; Arrow's does not.
    stream: _Readable = pa.CompressedInputStream(pa.PythonFile(blocks, "r"), "zstd")
    return stream


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
