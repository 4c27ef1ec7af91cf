"""Hashes of local files, remembered for as long as a file's stat says that nobody wrote to it.

The memory is a cache: damaged, it is made again, and where it cannot be used
files are hashed without it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from tidemill.errors import ConfigError
from tidemill.fingerprints import fingerprint
from tidemill.places import home, make_folder

READ_BYTES = 1 << 20
SETTLING_NS = 2_000_000_000
"""How long after a write another one may leave the same times, where a file system counts in whole seconds."""
KEPT_TOGETHER, READ_TOGETHER = 1000, 2**28
"""Hashes, or bytes that were read for them, after which they are written: each write waits for the disk."""
LOCKED_SECONDS = 2.0
"""How long another process may hold the memory before files are hashed without it."""
POINTER = b"version https://git-lfs.github.com/spec/"
MOST_POINTER_BYTES = 1024
"""What Git leaves in place of a large file where Git LFS is not installed, and how long that may be."""

logger = logging.getLogger("tidemill")


def stamp(path: str | Path) -> str:
    """What a file's stat says of it; while this is the same, its content is taken to be.

    Whoever overwrites a file can set its mtime back, but not its ctime.
    """
    stat = Path(path).stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ino}-{stat.st_ctime_ns}"


def is_pointer(path: Path, size: int) -> bool:
    """Whether a file of that size is what Git leaves in place of a large one that it was not asked to fetch."""
    if not len(POINTER) < size <= MOST_POINTER_BYTES:
        return False
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER


def hash_files(paths: Iterable[str | Path]) -> dict[str, str]:
    """path as given → SHA-256 of the file. Files whose stamp is known are not read.

    Raises:
        OSError: a file is missing or cannot be read.
    """
    with closing(Memory(home() / "fingerprints.sqlite")) as memory:
        return {str(path): _remembered(memory, Path(path)) for path in paths}


def hash_folder(folder: str | Path, names: Iterable[str]) -> str:
    """One fingerprint of the named files of a folder: their names and contents."""
    paths = {name: Path(folder) / name for name in sorted(names)}
    hashes = hash_files(paths.values())
    return fingerprint(*(part for name, path in paths.items() for part in (name, hashes[str(path)])))


class Memory:
    """What was hashed before, in a SQLite file that several processes share."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._is_anew = False
        """Whether it was begun anew already: once is enough."""
        self._connection: sqlite3.Connection | None = None
        self._unwritten: list[tuple[str, str, str, str]] = []
        self._num_bytes = 0
        """Of the files whose hashes are not written yet."""
        try:
            make_folder(file.parent, "TIDEMILL_HOME")
        except ConfigError as e:
            _tell(file, str(e))
        else:
            self._open()

    def recall(self, path: str, stamp: str) -> str | None:
        """The hash of the file at `path`, if it was kept when the file had this stamp."""
        for sha256, seal in self._ask("SELECT sha256, seal FROM hashes WHERE path = ? AND stamp = ?", path, stamp):
            if seal == fingerprint(path, stamp, sha256):
                return str(sha256)
        return None

    def keep(self, path: str, stamp: str, sha256: str, *, num_bytes: int = 0) -> None:
        """Keep the hash of a file of `num_bytes`, at the latest when this is closed."""
        self._unwritten.append((path, stamp, sha256, fingerprint(path, stamp, sha256)))
        self._num_bytes += num_bytes
        if len(self._unwritten) >= KEPT_TOGETHER or self._num_bytes >= READ_TOGETHER:
            self._write()

    def close(self) -> None:
        self._write()
        if self._connection is not None:
            self._connection.close()

    def _open(self) -> None:
        table = "CREATE TABLE IF NOT EXISTS hashes (path TEXT PRIMARY KEY, stamp TEXT, sha256 TEXT, seal TEXT)"
        try:
            self._connection = sqlite3.connect(self._file, timeout=LOCKED_SECONDS, isolation_level=None)
        except sqlite3.Error as e:
            _tell(self._file, str(e))
        else:
            self._ask(table)

    def _write(self) -> None:
        """Write in one statement: nobody else waits while a file is being read."""
        unwritten, self._unwritten, self._num_bytes = self._unwritten, [], 0
        if unwritten:
            rows = json.dumps(unwritten)
            columns = ", ".join(f"value ->> {index}" for index in range(4))
            self._ask(f"INSERT OR REPLACE INTO hashes SELECT {columns} FROM json_each(?)", rows)

    def _ask(self, statement: str, *values: str) -> list[tuple[object, ...]]:
        """A statement's rows; none from now on if the memory cannot be used, or is begun anew."""
        if self._connection is None:
            return []
        try:
            return self._connection.execute(statement, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as e:
            self._connection.close()
            self._connection = None
            if _is_damage(e) and not self._is_anew and self._begin_anew():
                return self._ask(statement, *values)
            _tell(self._file, str(e))
            return []

    def _begin_anew(self) -> bool:
        """Whether what is damaged could be put out of the way. Who finds it damaged too may remove the new one."""
        self._is_anew = True
        damaged = [self._file, *(Path(f"{self._file}-{kind}") for kind in ("journal", "wal", "shm"))]
        try:
            for file in damaged:
                file.unlink(missing_ok=True)
        except OSError:
            return False
        self._open()
        return self._connection is not None


def _is_damage(error: Exception) -> bool:
    """Whether the file is to blame, and not a lock, a right or the disk. A table of another shape is damage too."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


@functools.cache
def _tell(file: Path, why: str) -> None:
    """Once a process."""
    logger.warning("The memory of hashes %s cannot be used: %s. Files are hashed without it.", file, why)


def _remembered(memory: Memory, path: Path) -> str:
    absolute, before = str(path.absolute()), stamp(path)
    if found := memory.recall(absolute, before):
        return found
    sha256 = _sha256(path)
    if stamp(path) == before and path.stat().st_ctime_ns < time.time_ns() - SETTLING_NS:
        memory.keep(absolute, before, sha256, num_bytes=path.stat().st_size)
    return sha256


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
