"""Hashes of local files, remembered for as long as a file's stat says that nobody wrote to it."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

from tidemill.places import home, make_folder
from tidemill.shards import fingerprint

READ_BYTES = 1 << 20
SETTLING_NS = 2_000_000_000
"""How long after a write another one may leave the same times, where a file system counts in whole seconds."""


def stamp(path: str | Path) -> str:
    """What a file's stat says of it; while this is the same, its content is taken to be.

    Whoever overwrites a file can set its mtime back, but not its ctime.
    """
    stat = Path(path).stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ino}-{stat.st_ctime_ns}"


def hash_files(paths: Iterable[str | Path]) -> dict[str, str]:
    """path as given → SHA-256 of the file. Files whose stamp is known are not read.

    Raises:
        OSError: a file is missing or cannot be read.
    """
    memory = home() / "fingerprints.sqlite"
    make_folder(memory.parent, "TIDEMILL_HOME")
    connection = sqlite3.connect(memory, timeout=30)
    try:
        connection.execute("CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, stamp TEXT, sha256 TEXT)")
        return {str(path): _remembered(connection, Path(path)) for path in paths}
    finally:
        connection.close()


def hash_folder(folder: str | Path, names: Iterable[str]) -> str:
    """One fingerprint of the named files of a folder: their names and contents."""
    paths = {name: Path(folder) / name for name in sorted(names)}
    hashes = hash_files(paths.values())
    return fingerprint(*(part for name, path in paths.items() for part in (name, hashes[str(path)])))


def _remembered(connection: sqlite3.Connection, path: Path) -> str:
    absolute, before = str(path.absolute()), stamp(path)
    found = connection.execute("SELECT sha256 FROM files WHERE path = ? AND stamp = ?", (absolute, before)).fetchone()
    if found:
        return str(found[0])
    sha256 = _sha256(path)
    if stamp(path) == before and path.stat().st_ctime_ns < time.time_ns() - SETTLING_NS:
        with connection:
            connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (absolute, before, sha256))
    return sha256


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
