"""What leaves a version's table: the rows of shards that the dataset no longer has."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from tidemill.errors import InvariantBroken, first_line
from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.requests import withdraw
from tidemill.lake.tables import identifier, table_name


def retire_elsewhere(cursor: Cursor, pipeline: str, version: str) -> None:
    """Remove from versions other than `version` and the promoted one what the target revision no longer has.

    Nobody looks at them through the pipeline's view, so they need not show a
    file's old rows until its new ones are there. Of a file that is not read to
    its end it is not known yet what it no longer has: its shards wait.
    """
    if not _has_others(cursor, pipeline, version):
        return
    gone = cursor.execute(
        "SELECT l.version, list(l.shard_id) FROM _ledger l JOIN _pipelines p ON p.pipeline = l.pipeline "
        "LEFT JOIN _target_files f ON f.pipeline = l.pipeline AND f.path = l.path "
        "WHERE l.pipeline = $pipeline AND l.version NOT IN ($version, p.promoted_version) "
        "AND (f.path IS NULL OR f.num_shards IS NOT NULL) AND l.shard_id NOT IN "
        "(SELECT shard_id FROM _target_shards WHERE pipeline = $pipeline) GROUP BY l.version",
        {"pipeline": pipeline, "version": version},
    ).fetchall()
    for other, shard_ids in gone:
        remove_shards(cursor, pipeline, other, shard_ids)


def _has_others(cursor: Cursor, pipeline: str, version: str) -> bool:
    """Whether versions other than this and the promoted one have shards: seldom so, and cheaper to ask by itself."""
    found = cursor.execute(
        "SELECT 1 FROM _ledger WHERE (pipeline, version = $version) = ($pipeline, false) "
        "AND (pipeline, version) NOT IN (SELECT (pipeline, promoted_version) FROM _pipelines) LIMIT 1",
        {"pipeline": pipeline, "version": version},
    ).fetchone()
    return found is not None


def remove_shards(
    cursor: Cursor,
    pipeline: str,
    version: str,
    shard_ids: Sequence[str],
    *,
    wanted_still: bool = False,
) -> int:
    """Remove shards' results and, unless they are `wanted_still`, their requests; returns result rows removed."""
    if not shard_ids:
        return 0
    gone, table = list(shard_ids), table_name(pipeline, version)
    try:
        removed = cursor.execute(
            f"DELETE FROM {identifier(table)} WHERE shard_id IN (SELECT unnest(?::VARCHAR[]))", [gone]
        ).fetchone()
    except (duckdb.InvalidInputException, duckdb.IOException) as e:
        if isinstance(e, duckdb.IOException) and "No such file" not in str(e):
            raise
        raise InvariantBroken(
            f"{table}: a data file cannot be read, so shards cannot be removed: {first_line(e)}. "
            "`tidemill repair` takes it out and computes what it held again."
        ) from e
    if not wanted_still:
        withdraw(cursor, pipeline, version, gone)
    for name in ("_quarantine", "_ledger"):
        cursor.execute(
            f"DELETE FROM {name} WHERE pipeline = ? AND version = ? AND shard_id IN (SELECT unnest(?::VARCHAR[]))",
            [pipeline, version, gone],
        )
    return int(removed[0]) if removed else 0
