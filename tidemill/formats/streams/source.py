"""A source file as stored: bytes by range, and as the file object that libraries read from."""

from __future__ import annotations

from typing import Protocol


class ByteSource(Protocol):
    """A source file as bytes, read by range. Retries and error translation are its own.

    `content` identifies the file's bytes, as in `SourceFile`.
    """

    path: str
    size: int
    content: str

    def read(self, start: int, stop: int) -> bytes:
        """Exactly the bytes [start, stop), which must lie in the file."""
        ...


class Ranges(Protocol):
    """What can be read by range."""

    size: int

    def read(self, start: int, stop: int) -> bytes: ...


class SourceHandle:
    """A byte source as the file object that pyarrow reads from: no read-ahead of its own.

    Whatever the source raises is kept in `failure`, for pyarrow may wrap it.
    """

    closed = False

    def __init__(self, source: Ranges) -> None:
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
