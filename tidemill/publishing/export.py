"""A result table, or a query over the lake, as a file of its own: of one snapshot, written beside it and renamed."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import _duckdb as duckdb  # As tidemill.lake.ducklake.connection does.

from tidemill.config import Pipeline
from tidemill.errors import ConfigError, InputError, PlaceUnusable, first_line
from tidemill.lake.ducklake.connection import SYSTEM_REFUSES, Cursor, Lake, is_interrupt
from tidemill.lake.tables import identifier
from tidemill.places import usable
from tidemill.publishing.queries import Query, judged
from tidemill.reports.query import ended_after
from tidemill.results.promotion import existing_state

COPIED = {
    ".parquet": "FORMAT parquet, COMPRESSION zstd",
    ".csv": "FORMAT csv, HEADER true",
    ".jsonl": "FORMAT json",
    ".ndjson": "FORMAT json",
}
DATABASE = ".duckdb"
KINDS = (*COPIED, DATABASE)
MOST_FOLDERS = 10_000
"""Of values that `--by` makes a folder each."""
_TARGET = "_export"


@dataclass(frozen=True)
class Exported:
    """What lies in the file or folder now."""

    file: str
    num_rows: int
    num_files: int
    num_bytes: int
    columns: tuple[str, ...]


def export(
    pipeline: Pipeline,
    file: Path,
    *,
    query: str | None = None,
    by: str | None = None,
    seconds: float | None = None,
) -> Exported:
    """Write the promoted table, or what `query` gives, to a file, or to a folder of Parquet with one of each value
    of `by`. What was there under that name is replaced at once when all is written; if it fails, it stays.

    Raises:
        ConfigError: the file's name says no format that is known, or its place is no place for it.
        InputError: the query fails, or takes longer than `seconds`.
        PlaceUnusable: the system does not let it be written.
    """
    target = file.absolute()
    _check_target(pipeline, target, by)
    with _beside(target) as folder, Lake(pipeline.lake, read_only=True, scans=True) as lake:
        written = folder / target.name
        if target.suffix.lower() == DATABASE and by is None:
            lake.cursor().execute(f"ATTACH {_literal(written)} AS {_TARGET}")
        lake.seal([str(folder)])
        with lake.snapshot() as cursor, _translated(target), ended_after(cursor, seconds):
            asked = f"FROM {identifier(_existing(cursor, pipeline.name))}" if query is None else query
            found = judged(cursor, asked)
            num_rows = _write(cursor, found, written, pipeline.name, by)
        lake.close()  # A database is whole once it is closed.
        sizes = [path.stat().st_size for path in (written, *written.rglob("*")) if path.is_file()]
        with usable(target, "FILE"):
            _replace(written, target, folder)
    return Exported(str(file), num_rows, len(sizes), sum(sizes), found.columns)


def _existing(cursor: Cursor, pipeline: str) -> str:
    existing_state(cursor, pipeline)
    return pipeline


def _check_target(pipeline: Pipeline, target: Path, by: str | None) -> None:
    suffix = target.suffix.lower()
    if by is None and suffix not in KINDS:
        raise ConfigError(
            f"The name of {target.name} says no format that is known. End it with {', '.join(KINDS[:-1])} or "
            f"{KINDS[-1]}, or give --by COLUMN for a folder of Parquet files."
        )
    if by is not None and suffix in KINDS:
        raise ConfigError(f"--by {by} makes a folder, and {target.name} is named as a file. Leave {suffix} out.")
    if not target.parent.is_dir():
        raise ConfigError(f"There is no folder {target.parent}. Make it, or name a FILE elsewhere.")
    if target.is_dir() and not (by is not None and _is_replaceable(target)):
        raise ConfigError(f"{target} is a folder that no export made. Remove it, or name another FILE.")
    if by is not None and target.exists() and not target.is_dir():
        raise ConfigError(f"{target} is a file. Remove it, or name another FILE.")
    data = pipeline.lake.data
    if "://" not in data and target.is_relative_to(Path(data).absolute()):
        raise ConfigError(f"{target} lies within lake.data, where only the lake's own files may be. Name another FILE.")


def _is_replaceable(folder: Path) -> bool:
    """Whether an export made the folder: nothing lies in it but folders of values with Parquet files."""
    return all(
        "=" in path.relative_to(folder).parts[0] and (path.is_dir() or path.suffix == ".parquet")
        for path in folder.rglob("*")
    )


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A folder to write in, on the disk of what is written; nothing is left of it."""
    folder = target.parent / f".{secrets.token_hex(8)}.partial"
    with usable(folder, "FILE"):
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(written: Path, target: Path, folder: Path) -> None:
    if target.is_dir():
        target.rename(folder / "replaced")
    written.replace(target)


def _write(cursor: Cursor, query: Query, written: Path, name: str, by: str | None) -> int:
    if by is not None:
        return _write_folder(cursor, query, written, by)
    suffix = written.suffix.lower()
    if suffix == DATABASE:
        table = f"{_TARGET}.{identifier(name)}"
        cursor.execute(f"CREATE TABLE {table} AS {query.text()}")
        ((num_rows,),) = cursor.execute(f"SELECT count(*) FROM {table}").fetchall()
        cursor.execute("COMMIT")
        return int(num_rows)
    text = query.text(nested_as_json=suffix == ".csv")
    ((num_rows,),) = cursor.execute(f"COPY ({text}) TO {_literal(written)} ({COPIED[suffix]})").fetchall()
    return int(num_rows)


def _write_folder(cursor: Cursor, query: Query, written: Path, by: str) -> int:
    if by not in query.columns:
        raise ConfigError(f"There is no column {by} for --by. There are: {', '.join(query.columns)}.")
    column, text = identifier(by), query.text()
    ((num_values,),) = cursor.execute(f"SELECT count(DISTINCT {column}) FROM ({text})").fetchall()
    if num_values > MOST_FOLDERS:
        raise ConfigError(
            f"--by {by} would make {num_values:,} folders, and at most {MOST_FOLDERS:,} are made. Give a column of "
            "fewer values."
        )
    options = f"{COPIED['.parquet']}, PARTITION_BY ({column})"
    ((num_rows,),) = cursor.execute(f"COPY ({text}) TO {_literal(written)} ({options})").fetchall()
    written.mkdir(exist_ok=True)  # DuckDB makes none where there is no row.
    return int(num_rows)


@contextmanager
def _translated(target: Path) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as e:
        if is_interrupt(e):
            raise
        if any(sign in str(e).lower() for sign in SYSTEM_REFUSES):
            raise PlaceUnusable(
                f"{target} cannot be written: {first_line(e)}. Free space or give this user the right to it, or name "
                "another FILE."
            ) from e
        raise InputError(str(e)) from e


def _literal(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
