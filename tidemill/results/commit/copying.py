"""Shards whose content was computed at another place: their rows are copied from there, within the lake."""

from __future__ import annotations

from tidemill.errors import ShardGone
from tidemill.lake.checksums import METHOD, checksum_of, refuse_changed_rows
from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.pipelines import Target
from tidemill.lake.tables import existing_columns, identifier
from tidemill.results.commit.items import Copied


def write_copy(cursor: Cursor, target: Target, item: Copied, request_id: str | None) -> tuple[int, int]:
    """Copy a shard's rows, quarantined rows and ledger row to its place, for `request_id` if it is asked for.

    Raises:
        ShardGone: what it repeats is not there any more, or has other columns.
        InvariantBroken: the rows of what it repeats are not those that were committed.
    """
    shard, table = item.shard, identifier(target.table.name)
    source = cursor.execute(
        "SELECT num_rows, num_quarantined FROM _ledger "
        "WHERE pipeline = $pipeline AND version = $version AND shard_id = $source AND kept = $kept "
        "AND shard_id IN (SELECT shard_id FROM _shards WHERE pipeline = $pipeline)",
        {
            "pipeline": target.pipeline,
            "version": target.version,
            "source": item.source_shard_id,
            "kept": target.kept,
        },
    ).fetchone()
    if source is None:
        raise ShardGone(
            f"{shard.file.path}: the shard {item.source_shard_id} that it repeats is gone, or its key and kept columns "
            "are not those that are asked for. Run again: it is computed."
        )
    refuse_changed_rows(cursor, target.pipeline, target.version, item.source_shard_id)
    facts = {
        "shard_id": shard.shard_id,
        "first_row": shard.slice.first_row,
        "source": item.source_shard_id,
        "pipeline": target.pipeline,
        "version": target.version,
    }
    # Text slices may repeat further down; what repeats starts at another row number.
    shift = (
        "row_number + $first_row - (SELECT min(first_row) FROM _shards WHERE shard_id = $source "
        "AND pipeline = $pipeline) AS row_number"
    )
    copied = f"SELECT * REPLACE ($shard_id AS shard_id, {shift}) FROM {table} WHERE shard_id = $source"
    of_rows = {name: facts[name] for name in ("shard_id", "first_row", "source", "pipeline")}
    columns = existing_columns(cursor, target.table.name)
    checksum = cursor.execute(f"SELECT {checksum_of(columns)} FROM ({copied})", of_rows).fetchall()[0][0]
    cursor.execute(f"INSERT INTO {table} {copied}", of_rows)
    cursor.execute(
        f"INSERT INTO _quarantine SELECT * REPLACE ($shard_id AS shard_id, $path AS path, $run_id AS run_id, {shift}) "
        "FROM _quarantine WHERE shard_id = $source AND pipeline = $pipeline AND version = $version",
        facts | {"path": shard.file.path, "run_id": target.run_id},
    )
    cursor.execute(
        "INSERT INTO _ledger SELECT * REPLACE ($shard_id AS shard_id, $path AS path, $run_id AS run_id, "
        "$checksum::BIGINT AS checksum, $method AS checksum_by, "
        "$revision AS revision, $source AS copied_from, 0.0 AS ingest_seconds, 0.0 AS tokenize_seconds, "
        "0.0 AS infer_seconds, now() AS committed_at, coalesce($request::VARCHAR, request_id) AS request_id) "
        "FROM _ledger WHERE shard_id = $source AND pipeline = $pipeline AND version = $version",
        {name: value for name, value in facts.items() if name != "first_row"}
        | {"path": shard.file.path, "run_id": target.run_id, "revision": target.revision}
        | {"checksum": checksum, "method": METHOD, "request": request_id},
    )
    return int(source[0]), int(source[1])
