"""Shards whose content was computed at another place: their rows are copied from there, within the lake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from tidemill.errors import ShardGone
from tidemill.lake.checksums import METHOD, checksum_of, refuse_changed_rows
from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.pipelines import Target
from tidemill.lake.tables import existing_columns, identifier
from tidemill.results.commit.items import Copied, Written


@dataclass(frozen=True)
class _Source:
    """A done shard that is repeated elsewhere."""

    num_rows: int
    num_quarantined: int
    first_row: int


def write_copies(cursor: Cursor, target: Target, items: Sequence[Copied], asked: Mapping[str, str]) -> Written:
    """Copy shards' rows, quarantined rows and ledger rows to their places, by one insert into each table.

    What a copy is asked for by, as `asked` says, it is done for.

    Raises:
        ShardGone: what one repeats is not there any more, or has other columns.
        InvariantBroken: the rows of what one repeats are not those that were committed.
    """
    if not items:
        return {}
    sources = _sources(cursor, target, items)
    refuse_changed_rows(cursor, target.pipeline, target.version, *sources)
    cursor.register("_copies", _copies(items, sources, asked))
    try:
        _copy_rows(cursor, target)
    finally:
        cursor.unregister("_copies")
    return {
        item.shard.shard_id: (source.num_rows, source.num_quarantined)
        for item in items
        for source in [sources[item.source_shard_id]]
    }


def _sources(cursor: Cursor, target: Target, items: Sequence[Copied]) -> dict[str, _Source]:
    rows = cursor.execute(
        "SELECT l.shard_id, l.num_rows, l.num_quarantined, s.first_row FROM _ledger l JOIN (SELECT shard_id, "
        "min(first_row) AS first_row FROM _shards WHERE pipeline = $pipeline GROUP BY shard_id) s USING (shard_id) "
        "WHERE (l.pipeline, l.version, l.kept, l.shard_id) IN "
        "(SELECT ($pipeline, $version, $kept, unnest($sources::VARCHAR[])))",
        {
            "pipeline": target.pipeline,
            "version": target.version,
            "kept": target.kept,
            "sources": sorted({item.source_shard_id for item in items}),
        },
    ).fetchall()
    found = {shard_id: _Source(*facts) for shard_id, *facts in rows}
    for item in items:
        if item.source_shard_id not in found:
            raise ShardGone(
                f"{item.shard.file.path}: the shard {item.source_shard_id} that it repeats is gone, or its key and "
                "kept columns are not those that are asked for. Run again: it is computed."
            )
    return found


def _copies(items: Sequence[Copied], sources: Mapping[str, _Source], asked: Mapping[str, str]) -> pa.Table:
    """Where each shard's rows come from. Text slices may repeat further down: there they have other row numbers."""
    ids = [item.shard.shard_id for item in items]
    shifts = [item.shard.slice.first_row - sources[item.source_shard_id].first_row for item in items]
    return pa.table(
        {
            "shard_id": ids,
            "source": [item.source_shard_id for item in items],
            "path": [item.shard.file.path for item in items],
            "shift": pa.array(shifts, pa.int64()),
            "request_id": pa.array([asked.get(shard_id) for shard_id in ids], pa.string()),
        }
    )


def _copy_rows(cursor: Cursor, target: Target) -> None:
    place = "c.shard_id AS shard_id, row_number + c.shift AS row_number"
    table = identifier(target.table.name)
    copied = f"SELECT t.* REPLACE ({place}) FROM {table} t JOIN _copies c ON t.shard_id = c.source"
    of_version = {"pipeline": target.pipeline, "version": target.version, "run": target.run_id}
    checksum = checksum_of(existing_columns(cursor, target.table.name))
    checksums = dict(cursor.execute(f"SELECT shard_id, {checksum} FROM ({copied}) GROUP BY shard_id").fetchall())
    cursor.execute(f"INSERT INTO {table} {copied}")
    cursor.execute(
        f"INSERT INTO _quarantine SELECT q.* REPLACE ({place}, c.path AS path, $run AS run_id) "
        "FROM _quarantine q JOIN _copies c ON q.shard_id = c.source "
        "WHERE q.pipeline = $pipeline AND q.version = $version",
        of_version,
    )
    sums = {
        "shard_id": pa.array(list(checksums), pa.string()),
        "checksum": pa.array(list(checksums.values()), pa.int64()),
    }
    cursor.register("_sums", pa.table(sums))
    cursor.execute(
        "INSERT INTO _ledger SELECT l.* REPLACE (c.shard_id AS shard_id, c.path AS path, $run AS run_id, "
        "coalesce(s.checksum, 0)::BIGINT AS checksum, $method AS checksum_by, "
        "$revision AS revision, c.source AS copied_from, 0.0 AS ingest_seconds, 0.0 AS tokenize_seconds, "
        "0.0 AS infer_seconds, now() AS committed_at, coalesce(c.request_id, l.request_id) AS request_id) "
        "FROM _ledger l JOIN _copies c ON l.shard_id = c.source LEFT JOIN _sums s ON s.shard_id = c.shard_id "
        "WHERE l.pipeline = $pipeline AND l.version = $version",
        of_version | {"method": METHOD, "revision": target.revision},
    )
    cursor.unregister("_sums")
