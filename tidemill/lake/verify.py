"""Every invariant of a pipeline's tables, rechecked from the rows themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb

from tidemill.errors import LakeError
from tidemill.lake.connection import Cursor, Lake
from tidemill.lake.ledger import load_state, target_shards
from tidemill.lake.tables import existing_columns, identifier, table_name

MAX_EXAMPLES = 3

CHECKS = {
    "a shard is in the ledger more than once": """
        SELECT shard_id FROM ledger GROUP BY shard_id HAVING count(*) > 1""",
    "the table has rows of a shard that the ledger does not have": """
        SELECT DISTINCT shard_id FROM results ANTI JOIN ledger USING (shard_id)""",
    "a shard has not the number of rows that the ledger says": """
        SELECT l.shard_id
        FROM ledger l LEFT JOIN (SELECT shard_id, count(*) AS n FROM results GROUP BY ALL) r USING (shard_id)
        WHERE l.num_rows <> coalesce(r.n, 0)""",
    "a row is there more than once": """
        SELECT shard_id FROM results GROUP BY shard_id, row_number HAVING count(*) > 1""",
    "a row is both in the table and in quarantine": """
        SELECT shard_id FROM results SEMI JOIN quarantine USING (shard_id, row_number)""",
    "a shard has not the number of quarantined rows that the ledger says": """
        SELECT l.shard_id
        FROM ledger l LEFT JOIN (SELECT shard_id, count(*) AS n FROM quarantine GROUP BY ALL) q USING (shard_id)
        WHERE l.num_quarantined <> coalesce(q.n, 0)""",
    "quarantine has rows of a shard that the ledger does not have": """
        SELECT DISTINCT shard_id FROM quarantine ANTI JOIN ledger USING (shard_id)""",
    "rows read are not results, quarantine and forgotten rows": """
        SELECT l.shard_id FROM ledger l JOIN shards s USING (shard_id)
        WHERE s.num_rows <> l.num_rows + l.num_quarantined + coalesce(l.num_forgotten, 0)""",
    "a row that was forgotten is there": """
        SELECT r.shard_id
        FROM (SELECT shard_id, row_number FROM results UNION ALL SELECT shard_id, row_number FROM quarantine) r
        JOIN shards s USING (shard_id)
        JOIN forgotten f ON f.content = s.content AND f.row_offset = r.row_number - s.first_row""",
    "a row number lies outside of its shard": """
        SELECT r.shard_id
        FROM (SELECT shard_id, min(row_number) AS low, max(row_number) AS high FROM results GROUP BY ALL) r
        JOIN shards s USING (shard_id)
        WHERE r.low < s.first_row OR r.high >= s.first_row + s.num_rows""",
    "the shards of a file leave a gap or overlap": """
        SELECT path
        FROM (SELECT path, first_row,
                     lag(first_row + num_rows, 1, 0) OVER (PARTITION BY path ORDER BY first_row) AS expected
              FROM shards)
        WHERE first_row <> expected""",
    "a file has not the number of shards that was recorded": """
        SELECT f.path FROM files f LEFT JOIN (SELECT path, count(*) AS n FROM shards GROUP BY ALL) s USING (path)
        WHERE f.num_shards <> coalesce(s.n, 0)""",
    "a result has no prediction": """
        SELECT shard_id FROM results WHERE num_tokens IS NULL OR truncated IS NULL""",
}
"""What must never be found. The names are views of one version's rows, at the target revision."""


def verify_pipeline(lake: Lake, pipeline: str) -> dict[str, Any]:
    """Check every version of a pipeline; `problems` is empty if all invariants hold.

    Work that is pending is no problem and is noted.

    Raises:
        LakeError: the lake has no such pipeline.
    """
    cursor = lake.cursor()
    cursor.execute("BEGIN")  # One snapshot for all checks, whatever is written meanwhile.
    state = load_state(cursor, pipeline)
    if state is None:
        raise LakeError(f"The lake has no pipeline {pipeline}. `tidemill run` makes it.")
    names = [
        name for (name,) in cursor.execute("SELECT version FROM _versions WHERE pipeline = ?", [pipeline]).fetchall()
    ]
    problems = [
        *_check_view(cursor, pipeline, state.promoted_version),
        *_check_shard_ids(cursor, pipeline, state.target_revision),
    ]
    num_rows = num_shards = 0
    for version in names:
        _scope(cursor, pipeline, version, state.target_revision)
        problems += [f"{version}: {problem}" for problem in _check_version(cursor)]
        num_rows += cursor.execute("SELECT count(*) FROM results").fetchall()[0][0]
        num_shards += cursor.execute("SELECT count(*) FROM ledger").fetchall()[0][0]
    _scope(cursor, pipeline, state.promoted_version, state.target_revision)
    notes = list(_pending(cursor))
    cursor.execute("ROLLBACK")
    return {
        "pipeline": pipeline,
        "num_rows": num_rows,
        "num_shards": num_shards,
        "problems": problems,
        "notes": notes,
    }


def _scope(cursor: Cursor, pipeline: str, version: str, revision: str) -> None:
    """Name one version's part of each table, as views of this connection alone."""
    quoted, at = f"'{pipeline}'", f"'{revision}'"
    of_version = f"WHERE pipeline = {quoted} AND version = '{version}'"
    of_revision = f"WHERE pipeline = {quoted} AND revision = {at}"
    for name, source in {
        "results": f"SELECT * FROM lake.{identifier(table_name(pipeline, version))}",
        "ledger": f"SELECT * FROM lake._ledger {of_version}",
        "quarantine": f"SELECT * FROM lake._quarantine {of_version}",
        "shards": f"SELECT * FROM lake._revision_shards {of_revision}",
        "files": f"SELECT * FROM lake._revision_files {of_revision}",
        "forgotten": f"SELECT * FROM lake._forgotten WHERE pipeline = {quoted}",
    }.items():
        cursor.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {source}")


def _check_version(cursor: Cursor) -> Iterator[str]:
    try:
        cursor.execute("SELECT count(COLUMNS(*)) FROM results").fetchall()
    except duckdb.Error as e:
        yield f"the table cannot be read: {e}"
        return
    for problem, query in CHECKS.items():
        found = [str(row[0]) for row in cursor.execute(query).fetchall()]
        if found:
            yield f"{problem}: {len(found)} found ({', '.join(found[:MAX_EXAMPLES])})"


def _check_view(cursor: Cursor, pipeline: str, promoted: str) -> Iterator[str]:
    view, table = existing_columns(cursor, pipeline), existing_columns(cursor, table_name(pipeline, promoted))
    if not view or view != table:
        yield f"the view {pipeline} does not show the promoted version {promoted}"


def _check_shard_ids(cursor: Cursor, pipeline: str, revision: str) -> Iterator[str]:
    recorded = {
        row[0]
        for row in cursor.execute(
            "SELECT shard_id FROM _revision_shards WHERE pipeline = ? AND revision = ?", [pipeline, revision]
        ).fetchall()
    }
    wrong = recorded ^ {shard.shard_id for shard in target_shards(cursor, pipeline, revision)}
    if wrong:
        yield f"a shard's id does not follow from its place and content: {len(wrong)} found"


def _pending(cursor: Cursor) -> Iterator[str]:
    pending = cursor.execute("SELECT count(*) FROM shards ANTI JOIN ledger USING (shard_id)").fetchall()[0][0]
    outdated = cursor.execute("SELECT count(*) FROM ledger ANTI JOIN shards USING (shard_id)").fetchall()[0][0]
    without_columns = cursor.execute("SELECT count(*) FROM ledger WHERE kept IS NULL").fetchall()[0][0]
    unread = cursor.execute("SELECT count(*) FROM files WHERE num_shards IS NULL").fetchall()[0][0]
    if pending or outdated or unread:
        yield (
            f"{pending} shards are pending, {outdated} are outdated and {unread} files are not read to their end: "
            "`tidemill run` goes on."
        )
    if without_columns:
        yield (
            f"{without_columns} shards lack key or kept columns, which are NULL: their content was not there to be "
            "read. `tidemill run` reads them once it is."
        )
