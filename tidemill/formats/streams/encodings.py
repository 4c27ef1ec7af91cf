"""Text in any encoding as UTF-8. A byte order mark wins over what the pipeline says."""

from __future__ import annotations

import codecs
from typing import Any

from tidemill.formats.streams.compressions import Readable

UTF8 = "utf-8"
# UTF-32's little-endian mark begins with UTF-16's.
_MARKS = {
    codecs.BOM_UTF8: UTF8,
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LONGEST_MARK = 4
_AS_SURROGATES = "tidemill.as_surrogates"


def marked_encoding(head: bytes) -> str | None:
    """The encoding that a file's first bytes say, if they are a byte order mark."""
    return next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), None)


def is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in (UTF8, "utf-8-sig")


class AsUtf8:
    """Reads `file` as UTF-8.

    Bytes that are no text in its encoding become some that are no UTF-8: those
    of surrogates. So a row that has such bytes fails alone, as one in a file of UTF-8 does.
    """

    def __init__(self, file: Readable, encoding: str) -> None:
        self._file, self._encoding = file, encoding
        self._head: bytes | None = None
        self._decoder: Any = None
        self._made = memoryview(b"")

    def read(self, size: int = -1, /) -> bytes:
        if self._head is None:
            self._begin()
        while not self._made:
            stored = self._head or self._file.read(size)
            self._head = b""
            if self._decoder is None:
                self._made = memoryview(stored)
            else:
                self._made = memoryview(self._decoded(stored))
            if not stored:
                break
        taken = self._made if size < 0 else self._made[:size]
        self._made = self._made[len(taken) :]
        return bytes(taken)

    def _begin(self) -> None:
        self._head = b""
        while len(self._head) < _LONGEST_MARK and (block := self._file.read(_LONGEST_MARK - len(self._head))):
            self._head += block
        encoding = marked_encoding(self._head) or self._encoding
        if not is_utf8(encoding):
            self._decoder = codecs.getincrementaldecoder(encoding)(_AS_SURROGATES)

    def _decoded(self, stored: bytes) -> bytes:
        text: str = self._decoder.decode(stored, final=not stored)
        return text.encode(UTF8, "surrogatepass")


def _as_surrogates(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(_AS_SURROGATES, _as_surrogates)
