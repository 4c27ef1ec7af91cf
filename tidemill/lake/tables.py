"""The tables of a lake: the system tables, one result table a version, one view a pipeline.

What is looked up again and again in a system table is compared as one row:
`(pipeline, version) = (?, ?)`. For each column that is compared by itself
DuckLake asks its catalog for the bounds that it has in every file, which takes
several times as long as to read the rows of so small a table.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tidemill.errors import SchemaError
from tidemill.lake.ducklake.connection import LAYOUT_VERSION, Cursor, Lake
from tidemill.lake.ducklake.data import DataFolder

SYSTEM_TABLES = {
    "_layout": "layout_version INTEGER",
    "_pipelines": """
        pipeline VARCHAR, dataset JSON, target_revision VARCHAR, promoted_version VARCHAR,
        adopted_at TIMESTAMPTZ, updated_at TIMESTAMPTZ""",
    "_versions": """
        pipeline VARCHAR, version VARCHAR, spec JSON, kept JSON, results JSON, created_at TIMESTAMPTZ""",
    "_revisions": "pipeline VARCHAR, number BIGINT, revision VARCHAR, adopted_at TIMESTAMPTZ",
    "_files": """
        pipeline VARCHAR, path VARCHAR, since BIGINT, until BIGINT, url VARCHAR, size BIGINT, content VARCHAR,
        num_shards INTEGER""",
    "_shards": """
        pipeline VARCHAR, path VARCHAR, since BIGINT, until BIGINT, shard_id VARCHAR, content VARCHAR,
        first_row BIGINT, num_rows BIGINT, start_byte BIGINT, stop_byte BIGINT, text_bytes BIGINT""",
    "_requests": """
        pipeline VARCHAR, version VARCHAR, shard_id VARCHAR, request_id VARCHAR, run_id VARCHAR,
        reason VARCHAR, requested_at TIMESTAMPTZ, backfill_id VARCHAR""",
    "_backfills": """
        backfill_id VARCHAR, pipeline VARCHAR, version VARCHAR, revision VARCHAR, selection JSON, why VARCHAR,
        who VARCHAR, state VARCHAR, created_at TIMESTAMPTZ, finished_at TIMESTAMPTZ, num_shards BIGINT,
        num_rows BIGINT, num_tokens BIGINT, estimated_seconds DOUBLE, estimated_seconds_low DOUBLE,
        estimated_seconds_high DOUBLE, estimated_cost DOUBLE, currency VARCHAR, max_cost DOUBLE""",
    "_ledger": """
        pipeline VARCHAR, version VARCHAR, shard_id VARCHAR, path VARCHAR, content VARCHAR, request_id VARCHAR,
        run_id VARCHAR, revision VARCHAR, kept VARCHAR, copied_from VARCHAR, num_rows BIGINT,
        num_quarantined BIGINT, num_distinct BIGINT, num_tokens BIGINT,
        num_computed_tokens BIGINT, num_padded_tokens BIGINT,
        ingest_seconds DOUBLE, tokenize_seconds DOUBLE, infer_seconds DOUBLE, device VARCHAR, resolved JSON,
        committed_at TIMESTAMPTZ, num_forgotten BIGINT, materialize_seconds DOUBLE, worker VARCHAR,
        checksum BIGINT, checksum_by VARCHAR, num_unchanged BIGINT, num_unchanged_tokens BIGINT,
        num_new_tokens BIGINT""",
    "_quarantine": """
        pipeline VARCHAR, version VARCHAR, shard_id VARCHAR, path VARCHAR, row_number BIGINT, key JSON,
        stage VARCHAR, reason VARCHAR, run_id VARCHAR""",
    "_runs": """
        run_id VARCHAR, pipeline VARCHAR, version VARCHAR, revision VARCHAR, kind VARCHAR, who VARCHAR, host VARCHAR,
        pid INTEGER, why VARCHAR, flow_run_id VARCHAR, state VARCHAR, started_at TIMESTAMPTZ,
        finished_at TIMESTAMPTZ, num_shards BIGINT, num_shards_failed BIGINT, num_copied BIGINT, num_rows BIGINT,
        num_quarantined BIGINT, num_rows_removed BIGINT, num_tokens BIGINT, num_retries BIGINT,
        estimated_seconds DOUBLE, seconds DOUBLE, cost DOUBLE, currency VARCHAR, message VARCHAR,
        backfill_id VARCHAR, worker VARCHAR, estimated_seconds_low DOUBLE, estimated_seconds_high DOUBLE,
        estimated_cost DOUBLE, num_dropped BIGINT, num_unchanged BIGINT, num_unchanged_tokens BIGINT,
        num_new_tokens BIGINT""",
    "_forgotten": """
        pipeline VARCHAR, content VARCHAR, row_offset BIGINT, key_hash VARCHAR, who VARCHAR,
        forgotten_at TIMESTAMPTZ""",
    "_data_files": "file VARCHAR, num_bytes BIGINT, hash VARCHAR, shard_ids JSON, noted_at TIMESTAMPTZ",
    "_marks": """
        pipeline VARCHAR, shard_id VARCHAR, path VARCHAR, row_number BIGINT, key JSON, text_hash UUID, label VARCHAR,
        who VARCHAR, marked_at TIMESTAMPTZ""",
    "_samples": """
        pipeline VARCHAR, place BIGINT, shard_id VARCHAR, path VARCHAR, row_number BIGINT, reason VARCHAR,
        who VARCHAR, sampled_at TIMESTAMPTZ""",
    "_trainings": """
        training_id VARCHAR, name VARCHAR, task VARCHAR, method VARCHAR, base VARCHAR, base_model VARCHAR,
        folder VARCHAR, model VARCHAR, trial BIGINT, is_best BOOLEAN, settings JSON, metrics JSON, baselines JSON,
        data JSON, num_rows BIGINT, num_held_out BIGINT, temperature DOUBLE, seed BIGINT, started_at TIMESTAMPTZ,
        finished_at TIMESTAMPTZ, seconds DOUBLE, cost DOUBLE, currency VARCHAR, who VARCHAR""",
}
"""Name and columns of every system table; a pipeline's results lie in `<pipeline>__<version>`."""

MARKS_SUFFIX = "_marks"
"""A pipeline's view of its marks is named by it, so that no pipeline's own name may end so."""

INLINED_ROWS = 50
"""So few rows of one insert into a system table stay in the catalog, until housekeeping makes a file of them."""


def address_at(revision: str) -> str:
    """SQL: a file's address at the revision that an expression gives. On the Hub it names the commit."""
    at_commit = rf"regexp_replace(url, '^([^@]*)@[^/]*/', '\1@' || {revision} || '/')"
    return f"CASE WHEN starts_with(url, 'hf://') THEN {at_commit} ELSE url END"


def _of_revisions(table: str) -> str:
    return (
        f"FROM _revisions r JOIN {table} t ON t.pipeline = r.pipeline AND t.since <= r.number "
        "AND (t.until IS NULL OR r.number < t.until)"
    )


SYSTEM_VIEWS = {
    "_target_files": "SELECT * EXCLUDE (until) FROM _files WHERE until IS NULL",
    "_target_shards": "SELECT * EXCLUDE (until) FROM _shards WHERE until IS NULL",
    "_revision_files": (
        f"SELECT r.revision, t.* EXCLUDE (until) REPLACE ({address_at('r.revision')} AS url) {_of_revisions('_files')}"
    ),
    "_revision_shards": f"SELECT r.revision, t.* EXCLUDE (until) {_of_revisions('_shards')}",
}
"""What the target revision lists, which is the latest one; and what each dataset revision lists."""

ROW_COLUMNS = {
    "num_tokens": "INTEGER",
    "truncated": "BOOLEAN",
    "shard_id": "VARCHAR",
    "row_number": "BIGINT",
    "dataset_revision": "VARCHAR",
}
"""What every result table has behind the key, the kept and the model task's columns."""

TEXT_HASH = "_text_hash"
"""The last column of every result table, which no view shows: the hash of the text that was predicted.

By it a row is known again when its file changes. NULL where a lake is older than this column.
"""

_SIZE = re.compile(r"\[\d+\]")

MOST_DIGITS = 38
"""Of a decimal in the lake."""
RESERVED_NAMES = frozenset({*ROW_COLUMNS, TEXT_HASH, "row_id", "rowid", "snapshot_id"})


@dataclass(frozen=True)
class ResultTable:
    """The table of one version: its columns, in order, with their DuckDB types.

    `results` has the types that the view shows, of which the table keeps what `kept_as` says.
    """

    pipeline: str
    version: str
    kept: tuple[tuple[str, str], ...]
    results: tuple[tuple[str, str], ...]
    num_keys: int = 0

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:
        """The kept columns that name a row: the first ones."""
        return self.kept[: self.num_keys]

    @property
    def name(self) -> str:
        return table_name(self.pipeline, self.version)

    @property
    def shown(self) -> tuple[tuple[str, str], ...]:
        """The columns that the view has."""
        return (*self.kept, *self.results, *ROW_COLUMNS.items())

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """Those of the table itself."""
        results = [(name, kept_as(kind)) for name, kind in self.results]
        return (*self.kept, *results, *ROW_COLUMNS.items(), (TEXT_HASH, "UUID"))


def table_name(pipeline: str, version: str) -> str:
    return f"{pipeline}__{version}"


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


@functools.cache
def duckdb_type(arrow_type: pa.DataType) -> str:
    """The DuckDB type that holds what `lake_type` says of an Arrow type, without loss.

    Raises:
        SchemaError: the lake has none.
    """
    import duckdb

    try:
        kind = str(duckdb.from_arrow(pa.table({"probe": pa.array([], lake_type(arrow_type))})).types[0])
        with duckdb.connect() as probe:
            probe.execute(f"CREATE TABLE probe (probe {kind})")
    except (duckdb.Error, pa.ArrowException, NotImplementedError) as e:
        raise SchemaError(f"The lake cannot keep columns of type {arrow_type}.") from e
    return kind


def shown_type(arrow_type: pa.DataType) -> str:
    """The DuckDB type by which a view shows a result column: arrays of one size as such, which search needs.

    >>> shown_type(pa.list_(pa.float32(), 384)), shown_type(pa.string())
    ('FLOAT[384]', 'VARCHAR')
    """
    if not pa.types.is_fixed_size_list(arrow_type):
        return duckdb_type(arrow_type)
    return f"{shown_type(arrow_type.value_type)}[{arrow_type.list_size}]"


def kept_as(kind: str) -> str:
    """The type in the table of what is shown as `kind`: DuckLake 1.5.5 keeps no arrays of one size.

    >>> kept_as("FLOAT[384]")
    'FLOAT[]'
    """
    return _SIZE.sub("[]", kind)


def size_of_arrays(kind: str) -> int | None:
    """How many values each array of a type has, where it says: 384 of `FLOAT[384]`."""
    found = _SIZE.search(kind) if kind.endswith("]") else None
    return int(found[0][1:-1]) if found else None


def fields_in(kind: str) -> dict[str, str]:
    """Name → kind of the fields of the structs in a list, in order; none where its elements are no structs.

    >>> fields_in('STRUCT(entity VARCHAR, "end" INTEGER)[]')
    {'entity': 'varchar', 'end': 'integer'}
    """
    import _duckdb as duckdb

    parsed: Any = duckdb.sqltype(kind)
    element = dict(parsed.children).get("child") if parsed.id in ("list", "array") else None
    return {name: field.id for name, field in element.children} if element and element.id == "struct" else {}


def lake_type(arrow_type: pa.DataType) -> pa.DataType:
    """The Arrow type of a column as it is handed to the lake: cells are cast to it, and quarantined if they do not fit.

    The lake has no smaller floats, fewer kinds of list and string, and
    microseconds at most in times of day and where there is a time zone.

    Raises:
        NotImplementedError: the lake would round its values.

    >>> str(lake_type(pa.struct([("v", pa.list_(pa.float16(), 2)), ("at", pa.timestamp("ns", "UTC"))])))
    'struct<v: list<item: float>, at: timestamp[us, tz=UTC]>'
    """
    is_type = pa.types
    if is_type.is_float16(arrow_type):
        return pa.float32()
    if is_type.is_timestamp(arrow_type) and arrow_type.tz and arrow_type.unit == "ns":
        return pa.timestamp("us", arrow_type.tz)
    if is_type.is_time64(arrow_type):  # DuckDB 1.5.5 ends the process where it should write TIME_NS to Parquet.
        return pa.time64("us")
    if is_type.is_dictionary(arrow_type):  # DuckDB 1.5.5 crashes where a list of them has more than 2,048 rows.
        return lake_type(arrow_type.value_type)
    if is_type.is_string_view(arrow_type):
        return pa.string()
    if is_type.is_binary_view(arrow_type):
        return pa.binary()
    if is_type.is_decimal256(arrow_type) and arrow_type.precision <= MOST_DIGITS:
        return pa.decimal128(arrow_type.precision, arrow_type.scale)
    if is_type.is_duration(arrow_type) or is_type.is_interval(arrow_type):
        raise NotImplementedError("Parquet's intervals have whole milliseconds, none of them negative.")
    if not is_type.is_nested(arrow_type):
        return arrow_type
    settled = _settled_nested(arrow_type)
    return arrow_type if settled.equals(arrow_type) else settled


def _settled_nested(arrow_type: pa.DataType) -> pa.DataType:
    is_type = pa.types
    if is_type.is_struct(arrow_type):
        return pa.struct([field.with_type(lake_type(field.type)) for field in arrow_type])
    if is_type.is_map(arrow_type):
        return pa.map_(lake_type(arrow_type.key_type), lake_type(arrow_type.item_type))
    if is_type.is_union(arrow_type) or is_type.is_run_end_encoded(arrow_type):
        raise NotImplementedError("DuckLake has no unions and no runs.")
    if is_type.is_list_view(arrow_type) or is_type.is_large_list_view(arrow_type):
        raise NotImplementedError("Arrow 26 makes invalid lists of views.")
    return pa.list_(lake_type(arrow_type.value_type))


def ensure_system_tables(lake: Lake) -> None:
    """Make the system tables where they are missing. The row of `_layout` comes last: where it is, all are there."""

    def create(cursor: Cursor) -> None:
        existing = _table_names(cursor)
        for name, columns in SYSTEM_TABLES.items():
            if name not in existing:
                cursor.execute(f"CREATE TABLE {name} ({columns})")
                _write_once(cursor, name)
        for name, query in SYSTEM_VIEWS.items():
            cursor.execute(f"CREATE OR REPLACE VIEW {name} AS {query}")

    def finish(cursor: Cursor) -> None:
        if not _has_layout(cursor):
            limit_inlining(cursor)
            cursor.execute("INSERT INTO _layout VALUES (?)", [LAYOUT_VERSION])

    if not lake.is_laid_out and not _has_layout(lake.cursor()):
        DataFolder(lake).leave_owner_file()
        lake.write(create, message="create the system tables")
        lake.write(finish, message="create the lake")


def _has_layout(cursor: Cursor) -> bool:
    return bool(existing_columns(cursor, "_layout") and cursor.execute("FROM _layout").fetchall())


def limit_inlining(cursor: Cursor) -> None:
    """Let the catalog hold small inserts into system tables, and no row of any other table.

    DuckLake 1.5.5 writes a struct into the catalog as text that it cannot read
    back. The limit of a lake holds for every table that is made in it later;
    that of one table can be set only once the transaction that made it is over.
    """
    cursor.execute("CALL lake.set_option('data_inlining_row_limit', 0)")
    for name in _table_names(cursor).intersection(SYSTEM_TABLES):
        cursor.execute(f"CALL lake.set_option('data_inlining_row_limit', {INLINED_ROWS}, table_name => '{name}')")


def _table_names(cursor: Cursor) -> set[str]:
    found = cursor.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake'")
    return {name for (name,) in found.fetchall()}


def _write_once(cursor: Cursor, table: str) -> None:
    """Give an empty table its statistics: until its first row, DuckLake looks for them anew, column by column.

    Measured with DuckDB 1.5.5: a query of an empty `_ledger` takes 68 ms before, 6 ms after.
    """
    cursor.execute(f"INSERT INTO {table} DEFAULT VALUES")
    cursor.execute(f"DELETE FROM {table}")


def create_result_table(cursor: Cursor, table: ResultTable, *, name: str | None = None) -> None:
    columns = ", ".join(f"{identifier(column)} {kind}" for column, kind in table.columns)
    cursor.execute(f"CREATE TABLE {identifier(name or table.name)} ({columns})")


def point_view(cursor: Cursor, table: ResultTable) -> None:
    """Let the pipeline's view show this version: a plain view, as fast as its table."""
    columns = ", ".join(_shown(name, kind) for name, kind in table.shown)
    cursor.execute(
        f"CREATE OR REPLACE VIEW {identifier(table.pipeline)} AS SELECT {columns} FROM {identifier(table.name)}"
    )


def point_marks(cursor: Cursor, pipeline: str) -> None:
    """Let `<pipeline>_marks` show the pipeline's part of `_marks`."""
    cursor.execute(
        f"CREATE OR REPLACE VIEW {identifier(pipeline + MARKS_SUFFIX)} AS "
        f"SELECT * EXCLUDE (pipeline) FROM _marks WHERE pipeline = '{pipeline}'"
    )


def _shown(name: str, kind: str) -> str:
    """SQL: a column of a view."""
    column = identifier(name)
    return column if kept_as(kind) == kind else f"CAST({column} AS {kind}) AS {column}"


def is_shown(cursor: Cursor, view: str, table: str) -> bool:
    """Whether the view shows the result table, with all columns of it that a view has."""
    columns = [column for column in existing_columns(cursor, table) if column[0] != TEXT_HASH]
    has_all = bool(columns) and _kept(existing_columns(cursor, view)) == _kept(columns)
    return has_all and _shows(cursor, view, table)


def _shows(cursor: Cursor, view: str, table: str) -> bool:
    found = cursor.execute(
        "SELECT sql FROM duckdb_views() WHERE database_name = 'lake' AND view_name = ?", [view]
    ).fetchone()
    return found is not None and re.search(rf"\b{re.escape(table)}\b", found[0]) is not None


def _kept(columns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, kept_as(kind)) for name, kind in columns]


def existing_columns(cursor: Cursor, table: str) -> tuple[tuple[str, str], ...]:
    """Names and types of a table's or view's columns, in order; none if there is no such table."""
    return tuple(
        cursor.execute(
            "SELECT column_name, data_type FROM duckdb_columns() "
            "WHERE database_name = 'lake' AND table_name = ? ORDER BY column_index",
            [table],
        ).fetchall()
    )


def result_tables(cursor: Cursor, pipeline: str) -> list[str]:
    """Every version's table, and those in which columns are being rewritten."""
    rows = cursor.execute(
        "SELECT table_name FROM ducklake_table_info('lake') WHERE starts_with(table_name, ?) ORDER BY ALL",
        [f"{pipeline}__"],
    ).fetchall()
    return [name for (name,) in rows]


def insert_rows(cursor: Cursor, table: str, rows: pa.Table) -> None:
    """Insert by column name; what `rows` does not have becomes NULL."""
    if rows.num_rows:
        cursor.register("_incoming", rows)
        cursor.execute(f"INSERT INTO {identifier(table)} BY NAME SELECT * FROM _incoming")
        cursor.unregister("_incoming")


def insert_records(cursor: Cursor, table: str, records: Sequence[dict[str, object]]) -> None:
    """`insert_rows` for a few Python records; dicts and lists become JSON, and what one lacks of another's is NULL."""
    if records:
        names = dict.fromkeys(name for record in records for name in record)
        encoded = [{name: _encoded(record.get(name)) for name in names} for record in records]
        insert_rows(cursor, table, pa.Table.from_pylist(encoded))


def _encoded(value: object) -> object:
    return json.dumps(value) if isinstance(value, dict | list) else value


def records(cursor: Cursor, query: str, values: Any = None) -> list[dict[str, Any]]:
    """The rows of a query, a dict each."""
    result = cursor.execute(query, values)
    names = [column[0] for column in result.description or []]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def delete_where(cursor: Cursor, table: str, condition: str, *, dry_run: bool = False) -> int:
    """How many rows of a system table a condition holds for; a dry run leaves them there."""
    num_rows = int(cursor.execute(f"SELECT count(*) FROM {table} WHERE {condition}").fetchall()[0][0])
    if num_rows and not dry_run:
        cursor.execute(f"DELETE FROM {table} WHERE {condition}")
    return num_rows
