"""From the layout of an older Tidemill to this one's: ordered steps, in one transaction.

A step that raises leaves the lake as it was, with all that the steps before it
had done undone. A step never changes once it was released: a lake of any older
layout goes through all that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tidemill import config
from tidemill.errors import LakeError
from tidemill.lake.checksums import fill_checksums
from tidemill.lake.data_files import note_files
from tidemill.lake.ducklake.catalog import catalog_exists
from tidemill.lake.ducklake.connection import LAYOUT_VERSION, Cursor, Lake, layout_message
from tidemill.lake.ducklake.data import DataFolder
from tidemill.lake.tables import existing_columns, identifier, limit_inlining, table_name
from tidemill.results.migration.inlined import flushed_shards, restore_structs
from tidemill.results.promotion import existing_state
from tidemill.results.retirement import remove_shards

Step = Callable[[Cursor], list[str]]
"""Changes the tables, and says what it changed."""


@dataclass(frozen=True)
class Migration:
    """What was done to a lake; no changes if it had this Tidemill's layout already."""

    from_layout: int
    to_layout: int
    changes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def to_layout_2(cursor: Cursor) -> list[str]:
    """Backfills, forgotten rows, and who computed what at what cost."""
    return [
        _make_table(
            cursor,
            "_backfills",
            "backfill_id VARCHAR, pipeline VARCHAR, version VARCHAR, revision VARCHAR, selection JSON, why VARCHAR, "
            "who VARCHAR, state VARCHAR, created_at TIMESTAMPTZ, finished_at TIMESTAMPTZ, num_shards BIGINT, "
            "num_rows BIGINT, num_tokens BIGINT, estimated_seconds DOUBLE, estimated_seconds_low DOUBLE, "
            "estimated_seconds_high DOUBLE, estimated_cost DOUBLE, currency VARCHAR, max_cost DOUBLE",
        ),
        _make_table(
            cursor,
            "_forgotten",
            "pipeline VARCHAR, content VARCHAR, row_offset BIGINT, key_hash VARCHAR, who VARCHAR, "
            "forgotten_at TIMESTAMPTZ",
        ),
        _add_columns(cursor, "_requests", "backfill_id VARCHAR"),
        _add_columns(cursor, "_ledger", "num_forgotten BIGINT", "materialize_seconds DOUBLE", "worker VARCHAR"),
        _add_columns(
            cursor,
            "_runs",
            "backfill_id VARCHAR",
            "worker VARCHAR",
            "estimated_seconds_low DOUBLE",
            "estimated_seconds_high DOUBLE",
            "estimated_cost DOUBLE",
            "num_dropped BIGINT",
        ),
    ]


def to_layout_3(cursor: Cursor) -> list[str]:
    """Checksums of rows and hashes of files; no more result rows in the catalog, and the structs there restored."""
    changes = [
        _add_columns(cursor, "_ledger", "checksum BIGINT", "checksum_by VARCHAR"),
        _make_table(
            cursor,
            "_data_files",
            "file VARCHAR, num_bytes BIGINT, hash VARCHAR, shard_ids JSON, noted_at TIMESTAMPTZ",
        ),
    ]
    versions = cursor.execute("SELECT pipeline, version FROM _versions ORDER BY ALL").fetchall()
    for pipeline, version in versions:
        changes += _restore(cursor, pipeline, version)
    return changes


def to_layout_4(cursor: Cursor) -> list[str]:
    """A file and its shards are listed once for all the dataset revisions in a row that have them."""
    changes = [
        _make_table(cursor, "_revisions", "pipeline VARCHAR, number BIGINT, revision VARCHAR, adopted_at TIMESTAMPTZ")
    ]
    # In the order in which runs began with them, the target last.
    cursor.execute("""
        INSERT INTO _revisions BY NAME
        SELECT l.pipeline, l.revision, r.adopted_at, row_number() OVER (
            PARTITION BY l.pipeline ORDER BY l.revision = p.target_revision, r.adopted_at NULLS FIRST, l.revision
        ) AS number
        FROM (SELECT DISTINCT pipeline, revision FROM _files) l
        JOIN _pipelines p ON p.pipeline = l.pipeline
        LEFT JOIN (SELECT pipeline, revision, min(started_at) AS adopted_at FROM _runs GROUP BY ALL) r
            ON r.pipeline = l.pipeline AND r.revision = l.revision""")
    # One row for each stretch of revisions in which a file had the same content and the same shards.
    changes.append(
        _replace_table(
            cursor,
            "_files",
            "pipeline VARCHAR, path VARCHAR, since BIGINT, until BIGINT, url VARCHAR, size BIGINT, content VARCHAR, "
            "num_shards INTEGER",
            """
            WITH listed AS (
                SELECT f.*, r.number, s.shards, max(r.number) OVER (PARTITION BY f.pipeline) AS latest
                FROM _files f
                JOIN _revisions r ON r.pipeline = f.pipeline AND r.revision = f.revision
                LEFT JOIN (
                    SELECT pipeline, revision, path, list(shard_id ORDER BY first_row, shard_id) AS shards
                    FROM _shards GROUP BY ALL
                ) s ON s.pipeline = f.pipeline AND s.revision = f.revision AND s.path = f.path),
            stretches AS (
                SELECT *, number - row_number() OVER (
                    PARTITION BY pipeline, path, content, num_shards, shards ORDER BY number
                ) AS stretch
                FROM listed)
            SELECT pipeline, path, content, num_shards, min(number) AS since,
                   CASE WHEN max(number) < max(latest) THEN max(number) + 1 END AS until,
                   arg_max(url, number) AS url, arg_max(size, number) AS size
            FROM stretches GROUP BY pipeline, path, content, num_shards, shards, stretch""",
        )
    )
    changes.append(
        _replace_table(
            cursor,
            "_shards",
            "pipeline VARCHAR, path VARCHAR, since BIGINT, until BIGINT, shard_id VARCHAR, content VARCHAR, "
            "first_row BIGINT, num_rows BIGINT, start_byte BIGINT, stop_byte BIGINT, text_bytes BIGINT",
            """
            SELECT f.since, f.until, s.* EXCLUDE (revision)
            FROM _files f
            JOIN _revisions r ON r.pipeline = f.pipeline AND r.number = f.since
            JOIN _shards s ON s.pipeline = f.pipeline AND s.revision = r.revision AND s.path = f.path""",
        )
    )
    of_revisions = (
        "FROM _revisions r JOIN {} t ON t.pipeline = r.pipeline AND t.since <= r.number "
        "AND (t.until IS NULL OR r.number < t.until)"
    )
    url = (
        "CASE WHEN starts_with(url, 'hf://') "
        r"THEN regexp_replace(url, '^([^@]*)@[^/]*/', '\1@' || r.revision || '/') ELSE url END AS url"
    )
    views = {
        "_target_files": "SELECT * EXCLUDE (until) FROM _files WHERE until IS NULL",
        "_target_shards": "SELECT * EXCLUDE (until) FROM _shards WHERE until IS NULL",
        "_revision_files": (f"SELECT r.revision, t.* EXCLUDE (until) REPLACE ({url}) {of_revisions.format('_files')}"),
        "_revision_shards": f"SELECT r.revision, t.* EXCLUDE (until) {of_revisions.format('_shards')}",
    }
    for name, query in views.items():
        cursor.execute(f"CREATE VIEW {name} AS {query}")
    return [*changes, f"new views {', '.join(views)}"]


def to_layout_5(cursor: Cursor) -> list[str]:
    """A hash of each row's text, and how many rows of a shard were not computed for it; none is known of old rows."""
    changes = [
        _add_columns(cursor, "_ledger", "num_unchanged BIGINT", "num_unchanged_tokens BIGINT"),
        _add_columns(cursor, "_runs", "num_unchanged BIGINT", "num_unchanged_tokens BIGINT"),
    ]
    for pipeline, version in cursor.execute("SELECT pipeline, version FROM _versions ORDER BY ALL").fetchall():
        for name in _tables_of(cursor, table_name(pipeline, version)):
            added = _add_columns(cursor, identifier(name), "_text_hash UUID")
            changes.append(f"{added}. Older rows have none, and are computed once more where their file changes")
    return changes


def to_layout_6(cursor: Cursor) -> list[str]:
    """How many tokens a model wrote, where it writes."""
    return [_add_columns(cursor, table, "num_new_tokens BIGINT") for table in ("_ledger", "_runs")]


def to_layout_7(cursor: Cursor) -> list[str]:
    """What people add to the tables: right labels, and which rows to label."""
    changes = [_make_table(cursor, name, columns) for name, columns in NEW_IN_LAYOUT_7.items()]
    for (pipeline,) in cursor.execute("SELECT pipeline FROM _pipelines ORDER BY ALL").fetchall():
        view = f"{pipeline}_marks"
        if existing_columns(cursor, view):
            changes.append(f"{view} is a table of this lake, so the marks of {pipeline} are in _marks alone")
            continue
        cursor.execute(
            f"CREATE VIEW {identifier(view)} AS SELECT * EXCLUDE (pipeline) FROM _marks WHERE pipeline = '{pipeline}'"
        )
        changes.append(f"new view {view}")
    return changes


NEW_IN_LAYOUT_7 = {
    "_marks": "pipeline VARCHAR, shard_id VARCHAR, path VARCHAR, row_number BIGINT, key JSON, text_hash UUID, "
    "label VARCHAR, who VARCHAR, marked_at TIMESTAMPTZ",
    "_samples": "pipeline VARCHAR, place BIGINT, shard_id VARCHAR, path VARCHAR, row_number BIGINT, reason VARCHAR, "
    "who VARCHAR, sampled_at TIMESTAMPTZ",
    "_trainings": "training_id VARCHAR, name VARCHAR, task VARCHAR, method VARCHAR, base VARCHAR, base_model VARCHAR, "
    "folder VARCHAR, model VARCHAR, trial BIGINT, is_best BOOLEAN, settings JSON, metrics JSON, baselines JSON, "
    "data JSON, num_rows BIGINT, num_held_out BIGINT, temperature DOUBLE, seed BIGINT, started_at TIMESTAMPTZ, "
    "finished_at TIMESTAMPTZ, seconds DOUBLE, cost DOUBLE, currency VARCHAR, who VARCHAR",
}


def _tables_of(cursor: Cursor, table: str) -> list[str]:
    """A version's table, and those into which its columns are being rewritten."""
    rows = cursor.execute(
        "SELECT table_name FROM ducklake_table_info('lake') WHERE table_name = $table "
        "OR starts_with(table_name, $table || '__') ORDER BY ALL",
        {"table": table},
    ).fetchall()
    return [name for (name,) in rows]


def _restore(cursor: Cursor, pipeline: str, version: str) -> list[str]:
    """Restore a version's structs, and take out the shards of which a value is lost; says what it did."""
    table = table_name(pipeline, version)
    changes = _drop_rewrites(cursor, table)
    if restored := restore_structs(cursor, table):
        changes.append(f"{table}: restored the nested values of {restored.num_rows:,} rows from the catalog")
        changes += _take_out(
            cursor, pipeline, version, restored.unknown, "whose nested values the catalog does not tell"
        )
    flushed = flushed_shards(cursor, table)
    return changes + _take_out(cursor, pipeline, version, flushed, "that may have lost nested values in the catalog")


def _take_out(cursor: Cursor, pipeline: str, version: str, shard_ids: Collection[str], which: str) -> list[str]:
    if not shard_ids:
        return []
    remove_shards(cursor, pipeline, version, sorted(shard_ids))
    again = "run" if existing_state(cursor, pipeline).promoted_version == version else f"backfill --version {version}"
    return [
        f"{table_name(pipeline, version)}: took out {len(shard_ids):,} shards {which} "
        f"({', '.join(sorted(shard_ids))}): the next `tidemill {again}` computes them again"
    ]


def _drop_rewrites(cursor: Cursor, table: str) -> list[str]:
    """Drop the tables into which a version's columns were being rewritten: that begins anew, from the source."""
    rows = cursor.execute(
        "SELECT table_name FROM ducklake_table_info('lake') WHERE starts_with(table_name, ?) ORDER BY ALL",
        [f"{table}__"],
    ).fetchall()
    for (name,) in rows:
        cursor.execute(f"DROP TABLE {identifier(name)}")
    return [f"dropped {name}: its columns are rewritten from the beginning" for (name,) in rows]


STEPS: tuple[Step, ...] = (to_layout_2, to_layout_3, to_layout_4, to_layout_5, to_layout_6, to_layout_7)
"""The first takes a lake from layout 1 to 2, and so on."""


def migrate(spec: config.Lake, *, steps: Sequence[Step] = STEPS) -> Migration:
    """Bring a lake to this Tidemill's layout; nothing else may write to it meanwhile.

    Raises:
        LakeError: there is no lake, or a newer Tidemill wrote it.
    """
    if not catalog_exists(spec):
        raise LakeError("There is no lake to migrate. Check lake.catalog; `tidemill run` makes a new one.")
    with Lake(spec, any_layout=True, scans=True) as lake:
        found = _layout(lake.cursor())
        if found is None or found == LAYOUT_VERSION:
            return Migration(LAYOUT_VERSION, LAYOUT_VERSION)
        if found > LAYOUT_VERSION:
            raise LakeError(layout_message(spec, found))

        def body(cursor: Cursor) -> Migration:
            layout = _layout(cursor) or LAYOUT_VERSION
            changes = [change for step in steps[layout - 1 :] for change in step(cursor)]
            cursor.execute("UPDATE _layout SET layout_version = ?", [LAYOUT_VERSION])
            return Migration(layout, LAYOUT_VERSION, tuple(changes))

        DataFolder(lake).leave_owner_file()
        # Before a table is changed: DuckLake makes its place in the catalog anew by the limit that it has then.
        lake.write(limit_inlining, message="limit inlining")
        done = lake.write(body, message=f"migrate from layout {found} to {LAYOUT_VERSION}")
        # What a transaction has deleted from the catalog it still reads, and a new table's options it cannot set.
        lake.write(limit_inlining, message="limit inlining")
        summed = lake.write(_sum_up, message="note checksums")
        note_files(lake)
        return replace(done, changes=(*done.changes, *summed))


def _sum_up(cursor: Cursor) -> list[str]:
    """Let the ledger vouch for the rows that are there, version by version."""
    versions = cursor.execute("SELECT pipeline, version FROM _versions ORDER BY ALL").fetchall()
    return [
        f"{table_name(pipeline, version)}: checksums of {fill_checksums(cursor, pipeline, version):,} shards"
        for pipeline, version in versions
    ]


def _layout(cursor: Cursor) -> int | None:
    """None if the lake was made a moment ago and has no tables yet."""
    if not existing_columns(cursor, "_layout"):
        return None
    found: int = cursor.execute("SELECT max(layout_version) FROM _layout").fetchall()[0][0]
    return found


def _make_table(cursor: Cursor, name: str, columns: str) -> str:
    cursor.execute(f"CREATE TABLE {name} ({columns})")
    return f"new table {name}"


def _replace_table(cursor: Cursor, name: str, columns: str, query: str) -> str:
    """Give a table other columns, with the rows that the query makes of the old ones."""
    cursor.execute(f"CREATE TABLE {name}__anew ({columns})")
    cursor.execute(f"INSERT INTO {name}__anew BY NAME {query}")
    (before,), (after,) = (
        cursor.execute(f"SELECT count(*) FROM {table}").fetchall()[0] for table in (name, f"{name}__anew")
    )
    cursor.execute(f"DROP TABLE {name}")
    cursor.execute(f"ALTER TABLE {name}__anew RENAME TO {name}")
    return f"{name}: {before:,} rows became {after:,}"


def _add_columns(cursor: Cursor, table: str, *columns: str) -> str:
    for column in columns:
        cursor.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
    return f"new in {table}: {', '.join(column.partition(' ')[0] for column in columns)}"
