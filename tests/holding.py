"""Another process that has a transaction open on a lake, for as long as a test wants it to.

A process of its own, as it would be: SQLite's locks are a process's, and the
libraries of Python and DuckDB know nothing of each other's within one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from tests.processes import Process, wait_until
from tidemill import config
from tidemill.lake import Lake


class Transaction:
    """An open transaction that has executed `statements`, in another process."""

    def __init__(self, spec: config.Lake, folder: Path, statements: Sequence[str], *, writing: bool = False) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._process = Process(_hold, spec, str(folder), list(statements), writing)
        wait_until((folder / "open").exists)

    def end(self, statement: str) -> Any:
        """What the statement answers, in the same transaction, or the error that it raises."""
        (self._folder / "statement").write_text(statement)
        (self._folder / "go").touch()
        return self._process.result()


def _hold(spec: config.Lake, folder: str, statements: list[str], writing: bool) -> Any:
    with Lake(spec, read_only=not writing) as lake:
        cursor = lake.cursor()
        for statement in ("BEGIN", *statements):
            cursor.execute(statement).fetchall()
        Path(folder, "open").touch()
        wait_until(Path(folder, "go").exists)
        try:
            return cursor.execute(Path(folder, "statement").read_text()).fetchall()
        except duckdb.Error as e:
            return str(e)
