"""A source file as bytes, by range, wherever it lies; each kind says in its own way that it is not the one listed."""

from __future__ import annotations

import os
from pathlib import Path

from tidemill.errors import DatasetError, FileChanged, FileUnreadable
from tidemill.shards import SourceFile
from tidemill.sources import hub, objects
from tidemill.sources.hashes import stamp

MAX_KEPT_BYTES = 1 << 21
"""How much of each open file is kept that was fetched from the Hub."""
UNREADABLE = "unreadable:"
"""How the content id of a file begins that could not be read when it was listed."""


class ByteFile:
    """A source file by range, wherever it lies; implements `formats.ByteSource`."""

    def __init__(self, file: SourceFile) -> None:
        self.path, self.size, self.content = file.path, file.size, file.stored
        self._file = file

    def read(self, start: int, stop: int) -> bytes:
        return self._read(start, stop)

    def _read(self, start: int, stop: int) -> bytes:
        raise NotImplementedError


class HubFile(ByteFile):
    """A file at a commit. What is asked first is kept, for it is asked again once the columns are settled."""

    def __init__(self, file: SourceFile) -> None:
        super().__init__(file)
        self._kept: dict[tuple[int, int], bytes] = {}

    def read(self, start: int, stop: int) -> bytes:
        if (start, stop) in self._kept:
            return self._kept[start, stop]
        body = self._read(start, stop)
        if sum(map(len, list(self._kept.values()))) + len(body) <= MAX_KEPT_BYTES:
            self._kept[start, stop] = body
        return body

    def _read(self, start: int, stop: int) -> bytes:
        return hub.read_range(self._file.url, start, stop)


class LocalFile(ByteFile):
    """A local file, checked before and after each read to be the one that was listed."""

    def _read(self, start: int, stop: int) -> bytes:
        try:
            self._check()
            with Path(self._file.url).open("rb") as file:
                body = os.pread(file.fileno(), stop - start, start)
            self._check()
        except FileNotFoundError as e:
            raise FileChanged(f"{self.path} is gone. Run again to take up the dataset as it is now.") from e
        except PermissionError as e:
            raise unreadable(self.path) from e
        if len(body) != stop - start:
            raise FileChanged(f"{self.path} ends at byte {start + len(body)} now. Run again to take it up as it is.")
        return body

    def _check(self) -> None:
        if stamp(self._file.url) != self._file.stamp:
            raise FileChanged(f"{self.path} was changed after it was listed. Run again to take it up as it is now.")


class AddressedFile(ByteFile):
    """A file behind any other fsspec address; one that was replaced since it was listed is not read."""

    def _read(self, start: int, stop: int) -> bytes:
        try:
            body = objects.read_range(self._file, start, stop)
        except DatasetError as e:
            raise FileUnreadable(str(e)) from e
        if body is None:
            raise FileChanged(f"{self.path} was replaced or is gone. Run again to take up the dataset as it is now.")
        return body


def open_source(file: SourceFile) -> ByteFile:
    """Raises:
    FileUnreadable: the file could not be read when it was listed.
    """
    if file.content.startswith(UNREADABLE):
        raise unreadable(file.path)
    if file.url.startswith("hf://"):
        return HubFile(file)
    return AddressedFile(file) if "://" in file.url else LocalFile(file)


def unreadable(path: str) -> FileUnreadable:
    return FileUnreadable(
        f"{path} may not be read: permission denied. Let the user who runs this read it, or leave it out."
    )
