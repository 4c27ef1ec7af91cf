"""The one lock that every write transaction of a lake holds: a file beside a SQLite catalog, else PostgreSQL's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tidemill.errors import LakeError, LakeLocked
from tidemill.lake.ducklake import postgres
from tidemill.lake.ducklake.catalog import LakeSpec, shown, sqlite_file
from tidemill.places import make_folder, usable
from tidemill.retry import waiting_for

ADVISORY_LOCK_KEY = 0x7469_6465_6D69_6C6C  # "tidemill"


class FileLock:
    """The lock of a lake with a SQLite catalog: a file beside it, freed by the system if its holder dies."""

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        self._path, self._timeout_seconds = path, timeout_seconds

    @contextmanager
    def held(self) -> Iterator[None]:
        import filelock

        make_folder(self._path.parent, "lake.catalog")
        lock = filelock.FileLock(self._path, timeout=self._timeout_seconds, poll_interval=0.005)
        with usable(self._path, "lake.catalog"):
            self._acquire(lock)
        try:
            yield
        finally:
            lock.release()

    def _acquire(self, lock: Any) -> None:
        import filelock

        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            try:
                with waiting_for(lambda: _wait_message(self._told(), self._timeout_seconds)):
                    lock.acquire()
            except filelock.Timeout as e:
                raise LakeLocked(_locked_message(self._told(), self._timeout_seconds)) from e

    def _told(self) -> str:
        return f"{self._path}{held_by(self._path)}"

    def close(self) -> None:
        pass


class AdvisoryLock:
    """The lock of a lake with a PostgreSQL catalog: session-level, on a connection of its own."""

    def __init__(self, conninfo: str, shown: str, timeout_seconds: float) -> None:
        self._session, self._shown, self._timeout_seconds = postgres.Session(conninfo, shown), shown, timeout_seconds
        self._thread_lock = threading.Lock()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock. If its session is lost meanwhile, another writer may enter.

        Of two that overlap so, the one that commits last fails and is made anew: see `_connect`.
        """
        import psycopg

        if not self._thread_lock.acquire(timeout=self._timeout_seconds):
            raise LakeLocked(_locked_message(self._shown, self._timeout_seconds))
        try:
            connection = self._locked()
            try:
                yield
            finally:
                try:
                    connection.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_LOCK_KEY])
                except psycopg.Error:  # The lock went with the session, and what was committed under it stays.
                    self._session.lose()
        finally:
            self._thread_lock.release()

    def _locked(self) -> Any:
        """The connection that holds the lock; one that turns out to be lost is begun anew once."""
        import psycopg

        while True:
            connection, is_new = self._session.connected()
            try:
                self._take(connection)
                return connection
            except psycopg.errors.LockNotAvailable as e:
                raise LakeLocked(_locked_message(self._shown, self._timeout_seconds)) from e
            except psycopg.Error as e:
                self._session.lose()
                if is_new or not postgres.is_lost(e):
                    raise postgres.meaning(e, self._shown) from e

    def _take(self, connection: Any) -> None:
        if connection.execute("SELECT pg_try_advisory_lock(%s)", [ADVISORY_LOCK_KEY]).fetchone()[0]:
            return
        held = postgres.held_lock(connection, ADVISORY_LOCK_KEY)
        connection.execute(f"SET lock_timeout = {int(self._timeout_seconds * 1000)}")
        with waiting_for(_wait_message(self._shown + held, self._timeout_seconds)):
            connection.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK_KEY])

    def close(self) -> None:
        self._session.lose()


def open_lock(spec: LakeSpec) -> FileLock | AdvisoryLock:
    kind, _, where = spec.catalog.partition(":")
    if kind == "sqlite":
        return FileLock(Path(sqlite_file(spec) + ".lock"), spec.lock_timeout_seconds)
    if kind == "postgres":
        return AdvisoryLock(where, shown(spec), spec.lock_timeout_seconds)
    raise LakeError(f"lake.catalog = {shown(spec)!r}: give sqlite:FILE or postgres:host=... dbname=...")


def held_by(path: Path) -> str:
    """Which process of this machine holds a lock on a file, as far as its system tells; empty if it does not."""
    try:
        inode = path.stat().st_ino
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return ""
    holders = {lock[4] for lock in locks if "->" not in lock and lock[5].rpartition(":")[2] == str(inode)}
    return "".join(f", held by process {pid}" for pid in sorted(holders) if pid.isdecimal() and pid != "0")


def _wait_message(what: str, seconds: float) -> str:
    return f"the lake's lock {what}, for up to {seconds:g} s (lake.lock_timeout_seconds)"


def _locked_message(what: str, seconds: float) -> str:
    return (
        f"Another writer held the lake's lock ({what}) for more than {seconds:g} s. "
        "Wait for it to finish, or raise lake.lock_timeout_seconds."
    )
