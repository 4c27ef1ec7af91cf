"""Rows taken out of every table at once, and noted as forgotten: the part of `forget` that is one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.config import Pipeline
from tidemill.errors import ConfigError, LakeError, first_line
from tidemill.lake.checksums import checksum_with, checksums_in
from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.ducklake.reading import check_is_boolean
from tidemill.lake.pipelines import recorded_versions
from tidemill.lake.tables import (
    ResultTable,
    existing_columns,
    identifier,
    insert_rows,
    point_view,
    result_tables,
    table_name,
)
from tidemill.results.forgotten import key_hashes
from tidemill.results.promotion import existing_state, load_table

MAX_PATHS = 20
BY_PLACE = ("_quarantine", "_marks", "_samples")
"""The system tables that have rows of rows, by their shard and row number."""


@dataclass
class Erasure:
    """What a condition finds, and what became of it."""

    pipeline: str
    num_rows: int = 0
    """Rows of the dataset, however many versions have them."""
    versions: list[dict[str, Any]] = field(default_factory=list)
    """Each version's table, and its rows and quarantined rows."""
    paths: dict[str, int] = field(default_factory=dict)
    """Source file → rows of it, most first; the first ones."""
    has_unreadable_tables: bool = False
    """Whether files of a table cannot be read: those leave it, with the shards in them."""
    erased: bool = False
    unreached: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_rows(cursor: Cursor, pipeline: Pipeline, condition: str) -> Erasure:
    """What the condition finds; `_doomed` names the places of its rows and `_present` the rows there, by version."""
    names = _versions(cursor, pipeline.name)
    erasure, errors, matches = Erasure(pipeline.name), [], []
    for version in list(names):
        try:
            matches += [_matching(cursor, source, condition) for source in _sources(cursor, pipeline, version)]
        except (duckdb.InvalidInputException, duckdb.IOException) as e:
            names.remove(version)
            erasure.has_unreadable_tables = True
            erasure.notes.append(
                f"Version {version} has files that cannot be read: {first_line(e)}. Their shards leave the table with "
                "them; what else matches there is not counted yet."
            )
        except duckdb.Error as e:
            errors.append(e)
            erasure.notes.append(
                f"Version {version} cannot be asked this: {first_line(e)}. It loses the rows found in other versions."
            )
    if errors and not matches:
        raise ConfigError(f"--where cannot be asked of {pipeline.name}: {first_line(errors[0])}.") from errors[0]
    _name(cursor, "_matching", pa.concat_tables(matches) if matches else None, ("shard_id", "row_number"))
    _refuse_unplaced(cursor, pipeline.name)
    places = cursor.execute(
        "WITH places AS (SELECT DISTINCT shard_id, path, content, first_row FROM _shards WHERE pipeline = $pipeline), "
        "matched AS (SELECT DISTINCT content, row_number - first_row AS row_offset "
        "FROM _matching JOIN places USING (shard_id)) "
        "SELECT shard_id, path, first_row + row_offset AS row_number, content, row_offset "
        "FROM matched JOIN places USING (content)",
        {"pipeline": pipeline.name},
    ).to_arrow_table()
    _name(cursor, "_doomed", places)
    present = [_present(cursor, pipeline.name, version) for version in names]
    columns = ("version", "quarantined", "shard_id", "path", "row_number")
    _name(cursor, "_present", pa.concat_tables(present) if present else None, columns)
    counts = cursor.execute(
        "SELECT version, count(*) FILTER (NOT quarantined), count(*) FILTER (quarantined) FROM _present "
        "GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    erasure.versions = [
        {"version": version, "table": table_name(pipeline.name, version), "rows": rows, "quarantined": quarantined}
        for version, rows, quarantined in counts
    ]
    paths = cursor.execute(
        "SELECT path, count(DISTINCT row_number) AS n, sum(n) OVER () FROM _present GROUP BY path ORDER BY n DESC, path"
    ).fetchall()
    erasure.num_rows = int(paths[0][2]) if paths else 0
    erasure.paths = {path: num for path, num, _ in paths[:MAX_PATHS]}
    return erasure


def _refuse_unplaced(cursor: Cursor, pipeline: str) -> None:
    """
    Raises:
        LakeError: rows match of shards that nothing lists, so that not all of their places can be told.
    """
    if cursor.execute(
        "SELECT 1 FROM _matching ANTI JOIN (SELECT shard_id FROM _shards WHERE pipeline = ?) USING (shard_id) LIMIT 1",
        [pipeline],
    ).fetchall():
        raise LakeError(
            f"Rows match in shards of {pipeline} that _shards does not list, so they cannot be forgotten for good. "
            "`tidemill repair` lists them; then give this command again."
        )


def _sources(cursor: Cursor, pipeline: Pipeline, version: str) -> Iterator[str]:
    """What a condition is asked of: a version's rows, and its quarantined ones, of which only the key is known."""
    table = table_name(pipeline.name, version)
    keys = _keys(pipeline)
    yield f"SELECT * FROM {identifier(table)}"
    known = {"shard_id": "shard_id", "row_number": "row_number"}
    known |= {name: f"json_extract_string(key, {_quoted(_pointer(name))})" for name in keys}
    columns = ", ".join(
        f"TRY_CAST({known.get(name, 'NULL')} AS {kind}) AS {identifier(name)}"
        for name, kind in existing_columns(cursor, table)
    )
    yield (
        f"SELECT {columns} FROM _quarantine WHERE pipeline = {_quoted(pipeline.name)} AND version = {_quoted(version)}"
    )


def _matching(cursor: Cursor, source: str, condition: str) -> pa.Table:
    check_is_boolean(cursor, source, condition)
    return cursor.execute(f"SELECT shard_id, row_number FROM ({source}) WHERE (\n{condition}\n)").to_arrow_table()


def _present(cursor: Cursor, pipeline: str, version: str) -> pa.Table:
    return cursor.execute(
        "SELECT $version AS version, quarantined, d.shard_id, d.path, d.row_number FROM ("
        f"SELECT shard_id, row_number, false AS quarantined FROM {identifier(table_name(pipeline, version))} "
        "UNION ALL SELECT shard_id, row_number, true FROM _quarantine "
        "WHERE pipeline = $pipeline AND version = $version) JOIN _doomed d USING (shard_id, row_number)",
        {"pipeline": pipeline, "version": version},
    ).to_arrow_table()


def take_out(cursor: Cursor, pipeline: Pipeline, condition: str, who: str) -> Erasure:
    """Take the rows out of all tables, and note them as forgotten."""
    erasure = find_rows(cursor, pipeline, condition)
    if not erasure.num_rows:
        return erasure
    forgotten = _forgotten_rows(cursor, pipeline, who)
    cursor.execute(
        "UPDATE _ledger l SET num_rows = num_rows - p.num_results, num_quarantined = num_quarantined - p.num_bad, "
        "num_forgotten = coalesce(num_forgotten, 0) + p.num_results + p.num_bad FROM ("
        "SELECT version, shard_id, count(*) FILTER (NOT quarantined) AS num_results, "
        "count(*) FILTER (quarantined) AS num_bad FROM _present GROUP BY ALL) p "
        "WHERE l.pipeline = ? AND l.version = p.version AND l.shard_id = p.shard_id",
        [pipeline.name],
    )
    at_their_places = "(shard_id, row_number) IN (SELECT (shard_id, row_number) FROM _doomed)"
    for version in _versions(cursor, pipeline.name):
        gone = checksums_in(cursor, table_name(pipeline.name, version), at_their_places)
        cursor.execute(
            f"UPDATE _ledger l SET checksum = {checksum_with('-gone.actual::HUGEINT')} FROM ({gone}) gone "
            "WHERE l.pipeline = ? AND l.version = ? AND l.shard_id = gone.shard_id",
            [pipeline.name, version],
        )
    for table in result_tables(cursor, pipeline.name):
        cursor.execute(f"DELETE FROM {identifier(table)} WHERE {at_their_places}")
    for table in BY_PLACE:
        cursor.execute(f"DELETE FROM {table} WHERE pipeline = ? AND {at_their_places}", [pipeline.name])
    # A mark whose row has left the table is known by its key alone.
    hashes = pc.unique(forgotten["key_hash"].drop_null()).to_pylist()
    cursor.execute(
        "DELETE FROM _marks WHERE pipeline = ? AND sha256(key::VARCHAR) IN (SELECT unnest(?::VARCHAR[]))",
        [pipeline.name, hashes],
    )
    insert_rows(cursor, "_forgotten", forgotten)
    return erasure


def _forgotten_rows(cursor: Cursor, pipeline: Pipeline, who: str) -> pa.Table:
    """`_forgotten` rows for what is about to be taken out, with a key where no row that stays has it."""
    hashes = _hashes_by_place(cursor, pipeline)
    shared = _hashes_that_stay(cursor, pipeline, set(hashes.values()))
    places = cursor.execute("SELECT shard_id, row_number, content, row_offset FROM _doomed").fetchall()
    noted: dict[tuple[str, int], str | None] = {}
    for shard_id, row_number, content, row_offset in places:
        found = hashes.get((shard_id, row_number))
        noted[content, row_offset] = noted.get((content, row_offset)) or (None if found in shared else found)
    return pa.table(
        {
            "pipeline": [pipeline.name] * len(noted),
            "content": [content for content, _ in noted],
            "row_offset": pa.array([row_offset for _, row_offset in noted], pa.int64()),
            "key_hash": pa.array(list(noted.values()), pa.string()),
            "who": [who] * len(noted),
            "forgotten_at": pa.array([datetime.now(UTC)] * len(noted), pa.timestamp("us", "UTC")),
        }
    )


def _hashes_by_place(cursor: Cursor, pipeline: Pipeline) -> dict[tuple[str, int], str]:
    """(shard id, row number) → the hash of the row's key, of all that is about to be taken out."""
    found: dict[tuple[str, int], str] = {}
    for table in _tables_with_keys(cursor, pipeline):
        rows = cursor.execute(
            f"SELECT shard_id, row_number, {_column_list(_keys(pipeline))} FROM {identifier(table)} "
            "SEMI JOIN _doomed USING (shard_id, row_number)"
        ).to_arrow_table()
        hashes = key_hashes(rows.select(_keys(pipeline)))
        places = zip(rows["shard_id"].to_pylist(), rows["row_number"].to_pylist(), strict=True)
        found |= {place: key_hash for place, key_hash in zip(places, hashes, strict=True) if key_hash}
    quarantined = cursor.execute(
        "SELECT shard_id, row_number, sha256(key::VARCHAR) FROM _quarantine SEMI JOIN _doomed "
        "USING (shard_id, row_number) WHERE pipeline = ? AND key IS NOT NULL",
        [pipeline.name],
    ).fetchall()
    return {(shard_id, number): key_hash for shard_id, number, key_hash in quarantined} | found


def _hashes_that_stay(cursor: Cursor, pipeline: Pipeline, hashes: set[str]) -> set[str]:
    """Those of the hashes whose key a row has that is not taken out."""
    keys = _keys(pipeline)
    stay: set[str | None] = set()
    for table in _tables_with_keys(cursor, pipeline):
        same_key = " AND ".join(f"t.{identifier(key)} IS NOT DISTINCT FROM g.{identifier(key)}" for key in keys)
        rows = cursor.execute(
            f"WITH gone AS (SELECT DISTINCT {_column_list(keys)} FROM {identifier(table)} "
            "SEMI JOIN _doomed USING (shard_id, row_number)), "
            f"others AS (SELECT * FROM {identifier(table)} ANTI JOIN _doomed USING (shard_id, row_number)) "
            f"SELECT DISTINCT {_column_list(keys)} FROM others t SEMI JOIN gone g ON {same_key}"
        ).to_arrow_table()
        stay |= set(key_hashes(rows))
    quarantined = cursor.execute(
        "SELECT DISTINCT sha256(key::VARCHAR) FROM (SELECT * FROM _quarantine ANTI JOIN _doomed "
        "USING (shard_id, row_number)) WHERE pipeline = ? AND sha256(key::VARCHAR) IN (SELECT unnest(?::VARCHAR[]))",
        [pipeline.name, sorted(hashes)],
    ).fetchall()
    return hashes & (stay | {key_hash for (key_hash,) in quarantined})


def write_anew(cursor: Cursor, pipeline: str, table: str) -> None:
    """Write a table's rows into new files, and a new table in the catalog, which knows nothing of the old rows."""
    anew, shown = f"{table}__anew", _shown_table(cursor, pipeline)
    if shown.name == table:
        cursor.execute(f"DROP VIEW {identifier(pipeline)}")
    cursor.execute(f"CREATE TABLE {identifier(anew)} AS SELECT * FROM {identifier(table)}")
    cursor.execute(f"DROP TABLE {identifier(table)}")
    cursor.execute(f"ALTER TABLE {identifier(anew)} RENAME TO {identifier(table)}")
    if shown.name == table:
        point_view(cursor, shown)


def _versions(cursor: Cursor, pipeline: str) -> list[str]:
    return list(recorded_versions(cursor, pipeline))


def _shown_table(cursor: Cursor, pipeline: str) -> ResultTable:
    return load_table(cursor, pipeline, existing_state(cursor, pipeline).promoted_version)


def _keys(pipeline: Pipeline) -> list[str]:
    return [name for _, name in pipeline.dataset.kept[: len(pipeline.dataset.key)]]


def _tables_with_keys(cursor: Cursor, pipeline: Pipeline) -> list[str]:
    keys = set(_keys(pipeline))
    tables = [table_name(pipeline.name, version) for version in _versions(cursor, pipeline.name)]
    return [name for name in tables if keys and keys <= {column for column, _ in existing_columns(cursor, name)}]


def _name(cursor: Cursor, name: str, rows: pa.Table | None, columns: Sequence[str] = ()) -> None:
    cursor.register(name, rows if rows is not None else pa.table({column: pa.array([]) for column in columns}))


def _column_list(names: Sequence[str]) -> str:
    return ", ".join(identifier(name) for name in names)


def _pointer(name: str) -> str:
    """A JSON pointer to an object's member, whatever its name."""
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
