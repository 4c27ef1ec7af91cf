"""What the data files of a lake were when they were written: their hashes, and which shards each of them holds.

A flipped bit in a file's statistics or padding changes no value, and may yet
hide rows from a query. So whoever has written files notes the hash of each once
it is committed, under the file's name, which DuckLake never gives twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import xxhash

from tidemill.errors import LakeError
from tidemill.lake.ducklake.connection import CATALOG, Cursor, Lake
from tidemill.lake.tables import existing_columns, insert_records
from tidemill.storage.addresses import open_address, translated

READ_BYTES = 2**20
MAX_ROUNDS = 3
"""Noting many files writes a file itself, which is noted in a second round."""


@dataclass(frozen=True)
class DataFile:
    """A Parquet file that the latest snapshot needs: a table's rows, or which of another file's rows are deleted."""

    table: str
    path: str
    rows_path: str
    """The file of rows: `path` itself, or the one whose rows it deletes."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Noted:
    """What was noted of a file: its hash, and the shards of which it holds rows (none of a system table's)."""

    num_bytes: int
    hash: str
    shard_ids: frozenset[str]


def data_files(cursor: Cursor) -> list[DataFile]:
    """All that the cursor's snapshot needs, of every table of the lake."""
    rows = cursor.execute("SELECT table_name FROM ducklake_table_info('lake') ORDER BY ALL").fetchall()
    return _files_of(cursor, [table for (table,) in rows])


def _files_of(cursor: Cursor, tables: Iterable[str]) -> list[DataFile]:
    found = []
    for table in tables:
        listed = cursor.execute("SELECT data_file, delete_file FROM ducklake_list_files('lake', ?)", [table]).fetchall()
        for path, deletes in listed:
            found += [DataFile(table, path, path)] + ([DataFile(table, deletes, path)] if deletes else [])
    return found


def noted_files(cursor: Cursor) -> dict[str, Noted]:
    """File name → what was noted of it."""
    rows = cursor.execute("SELECT file, num_bytes, hash, shard_ids FROM _data_files").fetchall()
    return {name: Noted(size, digest, frozenset(json.loads(ids or "[]"))) for name, size, digest, ids in rows}


def note_files(lake: Lake) -> int:
    """Note what is not noted yet; returns how many files. What cannot be read is left for `verify` to tell.

    Raises:
        SourceUnavailable: the place of the data does not answer.
    """
    num_noted = 0
    for _ in range(MAX_ROUNDS):
        records = list(_records(lake))
        if not records:
            break

        def body(cursor: Cursor, records: list[dict[str, Any]] = records) -> None:
            known = noted_files(cursor)
            insert_records(cursor, "_data_files", [record for record in records if record["file"] not in known])

        lake.write(body, message="note data files")
        num_noted += len(records)
    return num_noted


def forget_removed_files(cursor: Cursor) -> None:
    """Take out the notes of files that no snapshot has any more."""
    gone = f"file NOT IN (SELECT name FROM ({_names('true')}))"
    if cursor.execute(f"SELECT count(*) FROM _data_files WHERE {gone}").fetchall() != [(0,)]:
        cursor.execute(f"DELETE FROM _data_files WHERE {gone}")


def hash_of(path: str) -> tuple[int, str]:
    """(bytes, hash) of a file as it lies there now.

    Raises:
        FileNotFoundError: it is gone.
        LakeError: it may not be read.
        SourceUnavailable: its place does not answer.
    """
    file_system, place = open_address(path, "lake.data", LakeError)
    digest, size = xxhash.xxh3_128(), 0
    with translated(path, "lake.data", LakeError), file_system.open(place, "rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def shards_in(cursor: Cursor, file: DataFile) -> list[str]:
    """The shards of which a file holds rows, deleted ones too; none of a system table's.

    Raises:
        duckdb.Error: it cannot be read.
    """
    return _shards_in(cursor, file) if _holds_shards(cursor, file.table) else []


def _holds_shards(cursor: Cursor, table: str) -> bool:
    return not table.startswith("_") and "shard_id" in dict(existing_columns(cursor, table))


def _shards_in(cursor: Cursor, file: DataFile) -> list[str]:
    rows = cursor.execute("SELECT DISTINCT shard_id FROM read_parquet(?) ORDER BY ALL", [file.rows_path]).fetchall()
    return [shard_id for (shard_id,) in rows]


def _records(lake: Lake) -> Iterator[dict[str, Any]]:
    with lake.snapshot() as cursor:
        files = _files_to_note(cursor)
    cursor = lake.cursor()
    # To ask for a table's columns takes longer than to read a small file of its.
    holds_shards = {table: _holds_shards(cursor, table) for table in {file.table for file in files}}
    for file in files:
        try:
            shard_ids = _shards_in(cursor, file) if holds_shards[file.table] else []
            size, digest = hash_of(file.path)
        except (duckdb.Error, FileNotFoundError):
            continue
        yield {
            "file": file.name,
            "num_bytes": size,
            "hash": digest,
            "shard_ids": shard_ids,
            "noted_at": datetime.now(UTC),
        }


def _files_to_note(cursor: Cursor) -> list[DataFile]:
    """Those that the latest snapshot needs and of which nothing is noted; other tables' are not listed."""
    rows = cursor.execute(
        "SELECT table_name, name "
        f"FROM ({_names('end_snapshot IS NULL')}) f JOIN {CATALOG}.ducklake_table t USING (table_id) "
        "ANTI JOIN _data_files n ON n.file = f.name WHERE t.end_snapshot IS NULL ORDER BY ALL"
    ).fetchall()
    names = {name for _, name in rows}
    return [file for file in _files_of(cursor, dict.fromkeys(table for table, _ in rows)) if file.name in names]


def _names(condition: str) -> str:
    """SQL: the names of the catalog's files for which a condition over their snapshots holds."""
    kinds = (f"SELECT path, table_id, end_snapshot FROM {CATALOG}.ducklake_{kind}_file" for kind in ("data", "delete"))
    return f"SELECT parse_filename(path) AS name, table_id FROM ({' UNION ALL '.join(kinds)}) WHERE {condition}"
