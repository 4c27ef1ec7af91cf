"""What compressed files decompress to, as a forward stream.

Several streams of one compression behind each other are one, as by `cat a.gz b.gz`.
One that is cut short, or followed by anything else, is an error, never an end.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any, Protocol

import zstandard

from tidemill.errors import FormatError
from tidemill.formats.streams.source import SourceHandle

COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz", ".zip")
ERRORS = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError, zipfile.BadZipFile, OSError)

_LARGEST_WINDOW = 2**31
"""Of Zstandard, as by `zstd --long=31`."""
_PIECE_BYTES = 2**12
"""So few that what zstandard makes of them at once, 32,768 times as many at most, stays in bounds."""
_MADE_AT_ONCE = 2**20
_ZIP_READ_BYTES = 2**20
_MOST_NAMES = 5


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def decompressed(file: Readable, path: str) -> Readable:
    """What a file of this name holds; but for .zip, which is not read forward. As it is where the name says nothing."""
    match compression_of(path):
        case ".gz":
            return gzip.GzipFile(fileobj=file, mode="rb")  # type: ignore[call-overload,no-any-return]
        case ".zst":
            return _Members(file, zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj)
        case ".bz2":
            return _Members(file, bz2.BZ2Decompressor)
        case ".xz":
            return _Members(file, lzma.LZMADecompressor, padding=b"\0")
        case _:
            return file


def compression_of(path: str) -> str:
    """The ending that says how a file is compressed; none if it is not."""
    lowered = path.lower()
    return next((ending for ending in COMPRESSIONS if lowered.endswith(ending)), "")


def without_compression(path: str) -> str:
    """The name less the endings that say how it is compressed."""
    while ending := compression_of(path):
        path = path[: -len(ending)]
    return path


class _Members:
    """Compressed streams one behind the other; each read gives some of what they hold."""

    def __init__(self, file: Readable, open_member: Callable[[], Any], padding: bytes = b"") -> None:
        self._file, self._open, self._padding = file, open_member, padding
        self._member: Any = None
        self._stored = b""
        self._made = memoryview(b"")

    def read(self, size: int = -1, /) -> bytes:
        while not self._made:
            if not self._make():
                return b""
        taken = self._made if size < 0 else self._made[:size]
        self._made = self._made[len(taken) :]
        return bytes(taken)

    def _make(self) -> bool:
        """Decompress some more; False at the end of the last stream."""
        if (self._member is None or self._member.eof) and not self._next_member():
            return False
        piece = b""
        if getattr(self._member, "needs_input", True):
            piece = self._stored or self._file.read(_PIECE_BYTES)
            if not piece:
                raise EOFError("its end is missing")
            piece, self._stored = piece[:_PIECE_BYTES], piece[_PIECE_BYTES:]
        bounded = hasattr(self._member, "needs_input")
        made = self._member.decompress(piece, _MADE_AT_ONCE) if bounded else self._member.decompress(piece)
        self._made = memoryview(made)
        return True

    def _next_member(self) -> bool:
        if self._member is not None:
            self._stored = self._member.unused_data + self._stored
        self._stored = self._stored.lstrip(self._padding)
        while not self._stored:
            block = self._file.read(_PIECE_BYTES)
            if not block:
                return False
            self._stored = block.lstrip(self._padding) if self._padding else block
        self._member = self._open()
        return True


class ZipMember:
    """The one data file of a ZIP archive. Opened when it is first asked for; its checksum is checked at its end."""

    def __init__(self, handle: SourceHandle, path: str) -> None:
        self._handle, self._path = handle, path
        self._file: Readable | None = None

    @property
    def name(self) -> str:
        """What the archive calls it.

        Raises:
            FormatError: the archive has several data files, or none.
        """
        return self._only(self._archive()).filename

    def read(self, size: int = -1, /) -> bytes:
        if self._file is None:
            archive = self._archive()
            member = self._only(archive)
            if compression_of(member.filename) == ".zip":
                raise FormatError(f"{self._path} holds another archive, {member.filename}. Unpack it.")
            try:
                self._file = decompressed(archive.open(member), member.filename)
            except (NotImplementedError, RuntimeError) as e:  # another method, a password
                raise FormatError(f"{self._path} cannot be unpacked: {e}. Pack it without, or unpack it.") from e
        return self._file.read(size)

    def _archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(io.BufferedReader(_RawHandle(self._handle), _ZIP_READ_BYTES))

    def _only(self, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
        files = [entry for entry in archive.infolist() if not entry.is_dir() and _may_be_data(entry.filename)]
        if len(files) == 1:
            return files[0]
        raise FormatError(f"{self._path} {_not_one([entry.filename for entry in files], self._path)}")


class _RawHandle(io.RawIOBase):
    def __init__(self, handle: SourceHandle) -> None:
        self._handle = handle

    def readinto(self, buffer: Any, /) -> int:
        read = self._handle.read(len(buffer))
        buffer[: len(read)] = read
        return len(read)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._handle.seek(offset, whence)

    def tell(self) -> int:
        return self._handle.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _may_be_data(name: str) -> bool:
    """Not what an archive of a Mac or of a careful author has beside the data."""
    *folders, last = name.split("/")
    about = last.upper().startswith(("README", "LICENSE", "LICENCE")) or last.lower().endswith(".md")
    return "__MACOSX" not in folders and not last.startswith(".") and not about


def _not_one(names: Sequence[str], path: str) -> str:
    if not names:
        return "holds no data file. Leave it out."
    shown = ", ".join(
        [*names[:_MOST_NAMES], *([f"and {len(names) - _MOST_NAMES:,} more"] * (len(names) > _MOST_NAMES))]
    )
    return (
        f"holds {len(names)} files: {shown}. An archive of one file is read as that file; to read several, put a "
        f'pattern of them before its path: dataset.path = "zip://**/*{PurePath(names[0]).suffix}::.../{PurePath(path).name}".'
    )
