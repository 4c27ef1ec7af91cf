"""A named pipe through which DuckDB's own writers print, piece by piece, from a connection that is sealed."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Generator
from typing import Any

from tidemill.lake.ducklake.connection import Cursor

PIECE_BYTES = 1 << 16
VIEW = "_tidemill_result"


class Outlet:
    """The one file beyond the lake that a seal leaves open, in a temporary folder of this user's until `close`.

    A pipe without a name would not do: DuckDB takes its number for the place where it leads at the time of the seal.
    """

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="tidemill-")
        self.path = os.path.join(os.path.realpath(self._folder), "result")  # noqa: PTH118
        os.mkfifo(self.path, 0o600)

    def written(self, cursor: Cursor, relation: Any, options: str, columns: str = "*") -> Generator[bytes, None, None]:
        """What `COPY (SELECT columns FROM relation) TO ... (options)` writes. Close the iterator to cancel the query.

        A column whose name is taken already is called as in a table made of the query: `n`, `n_1`.

        Raises:
            duckdb.Error: the query fails; what it gave before that was yielded.
        """
        reading = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        # Held until the query ends, and so before DuckDB opens the pipe and after: its end is the result's.
        writing = os.open(self.path, os.O_WRONLY)
        os.set_blocking(reading, True)
        errors: list[BaseException] = []
        quoted = self.path.replace("'", "''")
        copy = f"COPY (SELECT {columns} FROM {VIEW}) TO '{quoted}' ({options})"
        writer = threading.Thread(target=_write, args=(relation, copy, writing, errors), daemon=True)
        writer.start()
        has_ended = False
        try:
            while piece := os.read(reading, PIECE_BYTES):
                yield piece
            has_ended = True
        finally:
            if not has_ended:
                _cancel(cursor, reading)
            writer.join()
            os.close(reading)
        if errors:
            raise errors[0]
        cursor.execute(f"DROP VIEW IF EXISTS {VIEW}")

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _write(relation: Any, copy: str, writing: int, errors: list[BaseException]) -> None:
    try:
        relation.query(VIEW, copy)
    except BaseException as e:  # noqa: BLE001  # Raised where the result is read.
        errors.append(e)
    finally:
        os.close(writing)


def _cancel(cursor: Cursor, reading: int) -> None:
    """A query sees that it is cancelled only once its writer is not held up by a full pipe."""
    cursor.interrupt()
    while os.read(reading, PIECE_BYTES):
        cursor.interrupt()
