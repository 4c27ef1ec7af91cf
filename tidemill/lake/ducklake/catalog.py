"""A lake's catalog before it is attached: where it is, whether it holds a lake, and what it says of the data."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Protocol

from tidemill.errors import LakeError, LakeLocked
from tidemill.lake.ducklake import postgres
from tidemill.lake.ducklake.owner_files import owner_files_in
from tidemill.masking import shown_catalog, split_conninfo

BUSY_SECONDS = 30
"""How long another program may keep a SQLite catalog for itself."""
RESTORE = "Put it back from a backup if it was damaged, or check lake.catalog and who may read it."

_DATA_PATHS: dict[tuple[str, int], str] = {}
"""What catalogs that this process has opened say. Python's SQLite must not open one that DuckDB's has open here: it
would drop, when it closes the file, the locks that the system keeps by process and file."""


class LakeSpec(Protocol):
    """What it takes to open a lake: the section `lake` of a pipeline file has it."""

    @property
    def catalog(self) -> str: ...
    @property
    def data(self) -> str: ...
    @property
    def names_data(self) -> bool: ...
    @property
    def lock_timeout_seconds(self) -> float: ...


def sqlite_file(spec: LakeSpec) -> str:
    return str(Path(spec.catalog.partition(":")[2]).absolute())


def data_path(spec: LakeSpec) -> str:
    return spec.data if "://" in spec.data else str(Path(spec.data).absolute())


def catalog_exists(spec: LakeSpec) -> bool:
    return recorded_data_path(spec) is not None


def _identity(spec: LakeSpec) -> tuple[str, int] | None:
    """A SQLite catalog's path and inode; None where there is no such file.

    Raises:
        LakeError: something else is there, or it may not be looked at.
    """
    file = Path(sqlite_file(spec))
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    except OSError as e:
        raise _cannot_open(spec, e.strerror or str(e)) from e
    if not stat.S_ISREG(found.st_mode):
        raise _cannot_open(spec, "it is a directory" if file.is_dir() else "it is not a file")
    return str(file), found.st_ino


def recorded_data_path(spec: LakeSpec) -> str | None:
    """The data path that the catalog holds; None where no lake was made yet.

    Raises:
        LakeError: the catalog is there and cannot be read, or has lost the lake whose data lies in `lake.data`.
        LakeLocked: another program kept the catalog for itself.
    """
    found = _read_data_path(spec)
    if found is None:
        _refuse_emptied(spec)
    return found


def remember_data_path(spec: LakeSpec) -> None:
    """Note where the data of a catalog lies that DuckDB has just made here."""
    if spec.catalog.startswith("sqlite:") and (file := _identity(spec)):
        _DATA_PATHS[file] = data_path(spec)


def _refuse_emptied(spec: LakeSpec) -> None:
    """Of a catalog that holds no lake, find out whether it did.

    Several lakes may keep their data in one folder, so the catalog of a new one
    has to be told from one that was emptied: a file by being there, a database
    by its name.
    """
    if spec.catalog.startswith("sqlite:") and _identity(spec) is None:
        return
    found = owner_files_in(data_path(spec))
    own = set(found) if spec.catalog.startswith("sqlite:") else _own_files(spec, found)
    if own:
        raise LakeError(
            f"The catalog {shown(spec)} is there but holds no lake, and {data_path(spec)} holds the data of one "
            f"({min(own)}). If the catalog was emptied or replaced, put it back from a backup. For a new lake, set "
            "lake.data to another folder, or move what lies in this one."
        )


def _own_files(spec: LakeSpec, found: Mapping[str, str | None]) -> set[str]:
    identity = catalog_identity(spec) if found else ""
    return {name for name, catalog in found.items() if catalog in (None, identity)}


def catalog_identity(spec: LakeSpec) -> str:
    """What names a catalog however it is reached: a file's path, or a database's name."""
    if spec.catalog.startswith("sqlite:"):
        return f"sqlite:{sqlite_file(spec)}"
    import psycopg

    try:
        with postgres.connect(spec.catalog.partition(":")[2]) as session:
            return f"postgres:{session.info.dbname}"
    except psycopg.Error as e:
        raise postgres.meaning(e, shown(spec)) from e


def _read_data_path(spec: LakeSpec) -> str | None:
    query = "SELECT value FROM ducklake_metadata WHERE key = 'data_path'"
    if spec.catalog.startswith("sqlite:"):
        file = _identity(spec)
        if file is None or file in _DATA_PATHS:
            return _DATA_PATHS[file] if file else None
        try:
            with closing(sqlite3.connect(sqlite_file(spec), timeout=BUSY_SECONDS)) as connection:
                found = connection.execute(query).fetchone()
        except sqlite3.DatabaseError as e:
            if "no such table" in str(e):
                return None
            if "locked" in str(e):
                raise LakeLocked(f"Another program kept {shown(spec)} for itself: {e}. Wait for it to end.") from e
            raise _cannot_open(spec, str(e)) from e
        if found:
            _DATA_PATHS[file] = found[0]
        return found[0] if found else None
    import psycopg

    address_and_passwords(spec)
    try:
        with postgres.connect(spec.catalog.partition(":")[2]) as session:
            row = session.execute(query).fetchone()
    except psycopg.errors.UndefinedTable:
        return None
    except psycopg.Error as e:
        raise postgres.meaning(e, shown(spec)) from e
    return str(row[0]) if row else None


def _cannot_open(spec: LakeSpec, why: str) -> LakeError:
    return LakeError(f"The lake's catalog {shown(spec)} is there and cannot be opened: {why}. {RESTORE}")


def shown(spec: LakeSpec) -> str:
    return shown_catalog(spec.catalog)


def address_and_passwords(spec: LakeSpec) -> tuple[str, dict[str, str]]:
    """How to connect to the catalog's PostgreSQL: what may be shown, and the passwords.

    Raises:
        LakeError: it says no such thing.
    """
    try:
        return split_conninfo(spec.catalog.partition(":")[2])
    except ValueError as e:
        raise LakeError(f"lake.catalog = {shown(spec)} names no PostgreSQL: {e}. Check lake.catalog.") from None
