"""Who is computing what: a claim on a shard, which its holder's death gives back.

Claims keep overlapping runs from doing the same work in vain; they protect
nothing, for that is the lock's and the commit's part. They are locks of the
operating system beside a SQLite catalog, and advisory locks in PostgreSQL: no
heartbeat, no lease to expire, nothing to clean up after a kill.
"""

from __future__ import annotations

import functools
import logging
import threading
from pathlib import Path
from typing import Any, Protocol

from tidemill.errors import ConfigError, LakeError
from tidemill.lake.connection import LakeSpec, sqlite_file
from tidemill.places import make_folder
from tidemill.shards import fingerprint

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

    def close(self) -> None:
        """Give back all that is held."""


def open_claims(spec: LakeSpec) -> Claims:
    if spec.catalog.startswith("sqlite:"):
        return FileClaims(Path(sqlite_file(spec) + ".claims"))
    return AdvisoryClaims(spec.catalog.partition(":")[2])


class FileClaims:
    """Locked files in a folder beside the catalog."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: set[str] = set()
        self._locks: dict[Path, Any] = {}
        self._mutex = threading.Lock()

    def hold(self, name: str) -> bool:
        import filelock

        with self._mutex:
            if name in self._held:
                return False
            file = self._file(name)
            if file not in self._locks:
                lock = filelock.FileLock(file, thread_local=False)
                try:
                    make_folder(self._folder, "lake.catalog")
                    lock.acquire(timeout=0)
                except filelock.Timeout:
                    return False
                except (ConfigError, OSError) as e:
                    _tell(str(e))
                else:
                    self._locks[file] = lock
            self._held.add(name)
            return True

    def release(self, name: str) -> None:
        with self._mutex:
            if name not in self._held:
                return
            self._held.discard(name)
            file = self._file(name)
            if file in self._locks and file not in {self._file(other) for other in self._held}:
                self._locks.pop(file).release()
                if name.startswith(RUN):
                    file.unlink(missing_ok=True)

    def close(self) -> None:
        for name in list(self._held):
            self.release(name)

    def _file(self, name: str) -> Path:
        return self._folder / (name if name.startswith(RUN) else fingerprint(name)[:CLAIM_DIGITS])


@functools.cache
def _tell(why: str) -> None:
    """Once a process. Without claims two runs may do the same work, of which one is dropped when it commits."""
    logger.warning("Claims are done without: %s", why)


class AdvisoryClaims:
    """Advisory locks of one PostgreSQL session, which end with its connection."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._connection: Any = None
        self._held: set[str] = set()
        self._mutex = threading.Lock()

    def hold(self, name: str) -> bool:
        with self._mutex:
            if name in self._held:
                return False
            # A session may take one lock twice, so what it holds is remembered here.
            if self._ask("SELECT pg_try_advisory_lock(%s)", name):
                self._held.add(name)
                return True
            return False

    def release(self, name: str) -> None:
        with self._mutex:
            if name in self._held:
                self._held.discard(name)
                self._ask("SELECT pg_advisory_unlock(%s)", name)

    def close(self) -> None:
        with self._mutex:
            self._held.clear()
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _ask(self, query: str, name: str) -> bool:
        import psycopg

        try:
            if self._connection is None or self._connection.closed:
                # What a lost connection held is free for others by now.
                self._held.clear()
                self._connection = psycopg.connect(self._conninfo, autocommit=True)
            row = self._connection.execute(query, [int(fingerprint(name)[:15], 16)]).fetchone()
        except psycopg.OperationalError as e:
            self._connection = None
            raise LakeError(f"PostgreSQL does not answer: {e}. Check lake.catalog.") from e
        return bool(row and row[0])


def run_claim(run_id: str) -> str:
    """What a run claims for as long as it lives."""
    return f"{RUN}{run_id}"


def is_alive(claims: Claims, run_id: str) -> bool:
    """Whether the run's process is still there, on whatever machine that shares the lake."""
    free = claims.hold(run_claim(run_id))
    if free:
        claims.release(run_claim(run_id))
    return not free
