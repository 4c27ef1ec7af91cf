"""Who is computing what: a claim on a shard, which its holder's death gives back.

Claims keep overlapping runs from doing the same work in vain; they protect
nothing, for that is the lock's and the commit's part. They are locks of the
operating system beside a SQLite catalog, and advisory locks in PostgreSQL: no
heartbeat, no lease to expire. A kill leaves at most an empty file, for `gc`.
"""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from tidemill.errors import ConfigError
from tidemill.fingerprints import fingerprint
from tidemill.lake.ducklake.catalog import LakeSpec, shown, sqlite_file
from tidemill.lake.ducklake.locks import held_by
from tidemill.lake.ducklake.postgres import Session, held_lock, is_lost, meaning
from tidemill.places import make_folder

logger = logging.getLogger("tidemill")

CLAIM_DIGITS = 4
"""Claims beside a SQLite catalog share 65,536 files: two that fall on one have one holder at a time."""
RUN = "run-"
"""How the name of a run's own claim begins: held while the run waits for others, it has a file for itself."""


class Claims(Protocol):
    """Claims by name, of one holder; may be used from several threads."""

    def hold(self, name: str) -> bool:
        """Take the claim; False if someone has it, this holder included."""

    def release(self, name: str) -> None: ...

    def holder(self, name: str) -> str:
        """Who has the claim, to be added to a message; empty where that is not known."""

    def close(self) -> None:
        """Give back all that is held."""


def open_claims(spec: LakeSpec) -> Claims:
    if spec.catalog.startswith("sqlite:"):
        return FileClaims(_folder(spec))
    return AdvisoryClaims(spec.catalog.partition(":")[2], shown(spec))


def remove_left_over(spec: LakeSpec, *, dry_run: bool) -> int:
    """Remove the files of claims whose holders were killed; returns how many there are."""
    num_removed = 0
    for file in sorted(_folder(spec).glob("*")) if spec.catalog.startswith("sqlite:") else ():
        with suppress(OSError):  # what cannot be opened is not a claim
            if (lock := _lock(file, create=False)) is not None:
                num_removed += 1
                if not dry_run:
                    file.unlink()
                os.close(lock)
    return num_removed


class FileClaims:
    """Locked files in a folder beside the catalog, which are there while they are held."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, Path] = {}
        self._num_held: Counter[Path] = Counter()
        """How many claims fall on a file."""
        self._locks: dict[Path, int] = {}
        self._mutex = threading.Lock()

    def hold(self, name: str) -> bool:
        with self._mutex:
            if name in self._held:
                return False
            file = self._file(name)
            if file not in self._locks:
                try:
                    lock = self._new_lock(file)
                except (ConfigError, OSError) as e:
                    _tell(str(e))
                else:
                    if lock is None:
                        return False
                    self._locks[file] = lock
            self._held[name] = file
            self._num_held[file] += 1
            return True

    def _new_lock(self, file: Path) -> int | None:
        """As `_lock`; the folder is made where the first file of it is."""
        try:
            return _lock(file, create=True)
        except (FileNotFoundError, NotADirectoryError):
            make_folder(self._folder, "lake.catalog")
            return _lock(file, create=True)

    def release(self, name: str) -> None:
        with self._mutex:
            file = self._held.pop(name, None)
            if file is None:
                return
            self._num_held[file] -= 1
            if file in self._locks and not self._num_held[file]:
                file.unlink(missing_ok=True)
                os.close(self._locks.pop(file))

    def holder(self, name: str) -> str:
        return held_by(self._file(name))

    def close(self) -> None:
        for name in list(self._held):
            self.release(name)

    def _file(self, name: str) -> Path:
        return self._folder / (name if name.startswith(RUN) else fingerprint(name)[:CLAIM_DIGITS])


@functools.cache
def _tell(why: str) -> None:
    """Once a process. Without claims two runs may do the same work, of which one is dropped when it commits."""
    logger.warning("Claims are done without: %s", why)


def _folder(spec: LakeSpec) -> Path:
    return Path(sqlite_file(spec) + ".claims")


def _lock(file: Path, *, create: bool) -> int | None:
    """A descriptor that holds the file's lock until it is closed; None if another has it, or there is no file.

    Whoever holds a file may remove it. The lock of a file that was removed
    before it was got holds nothing: another has made a new one, or will.

    Raises:
        OSError: the file cannot be opened.
    """
    while True:
        try:
            lock = os.open(file, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
        except FileNotFoundError:
            if create:
                raise
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        if os.fstat(lock).st_nlink:
            return lock
        os.close(lock)


class AdvisoryClaims:
    """Advisory locks of one PostgreSQL session, which end with its connection."""

    def __init__(self, conninfo: str, shown: str) -> None:
        self._session, self._shown = Session(conninfo, shown), shown
        self._held: set[str] = set()
        self._mutex = threading.Lock()

    def hold(self, name: str) -> bool:
        import psycopg

        with self._mutex:
            while True:
                connection, is_new = self._session.connected()
                try:
                    if is_new:
                        self._take_again(connection)
                    # A session may take one lock twice, so what it holds is remembered here.
                    if name in self._held or not _take(connection, name):
                        return False
                    self._held.add(name)
                    return True
                except psycopg.Error as e:
                    self._session.lose()
                    if is_new or not is_lost(e):
                        raise meaning(e, self._shown) from e

    def release(self, name: str) -> None:
        import psycopg

        with self._mutex:
            if name in self._held:
                self._held.discard(name)
                if (connection := self._session.connection) is not None:
                    try:
                        connection.execute("SELECT pg_advisory_unlock(%s)", [_key(name)])
                    except psycopg.Error:  # It is free already: it went with the session.
                        self._session.lose()

    def close(self) -> None:
        with self._mutex:
            self._held.clear()
            self._session.lose()

    def holder(self, name: str) -> str:
        import psycopg

        with self._mutex:
            # A new session would have to take again what the lost one held: that is for `hold`.
            if (connection := self._session.connection) is None:
                return ""
            try:
                return held_lock(connection, _key(name))
            except psycopg.Error:
                self._session.lose()
                return ""

    def _take_again(self, connection: Any) -> None:
        """What a lost session held is free for others by now; what none of them took is taken again."""
        self._held = {name for name in self._held if _take(connection, name)}


def _take(connection: Any, name: str) -> bool:
    return bool(connection.execute("SELECT pg_try_advisory_lock(%s)", [_key(name)]).fetchone()[0])


def _key(name: str) -> int:
    return int(fingerprint(name)[:15], 16)


def run_claim(run_id: str) -> str:
    """What a run claims for as long as it lives."""
    return f"{RUN}{run_id}"


def is_alive(claims: Claims, run_id: str) -> bool:
    """Whether the run's process is still there, on whatever machine that shares the lake."""
    free = claims.hold(run_claim(run_id))
    if free:
        claims.release(run_claim(run_id))
    return not free
