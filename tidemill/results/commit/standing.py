"""What the lake knows of shards that are about to be written, looked up once for all that one transaction writes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.pipelines import Target
from tidemill.lake.requests import request_ids
from tidemill.results.commit.items import Item


@dataclass(frozen=True)
class Standing:
    """Shards as they stand before the transaction changes them."""

    done: dict[str, str]
    """shard id → the request that it was done for."""
    asked: dict[str, str]
    """shard id → the request for it, done or not."""
    outdated: dict[str, list[str]]
    """path → ids of the shards that its file has in the table, and that the target revision does not list."""

    @classmethod
    def of(cls, cursor: Cursor, target: Target, items: Sequence[Item], paths: Collection[str]) -> Standing:
        shard_ids = [item.shard.shard_id for item in items]
        done, outdated = _in_ledger(cursor, target, shard_ids, paths)
        return cls(done, request_ids(cursor, target, shard_ids), outdated)


def _in_ledger(
    cursor: Cursor, target: Target, shard_ids: Sequence[str], paths: Collection[str]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """`done` of the shards, and `outdated` of the paths, at one look at the ledger."""
    rows = cursor.execute(
        "SELECT l.shard_id, l.request_id, l.path, s.shard_id IS NULL AS is_outdated FROM "
        "(SELECT shard_id, request_id, path FROM _ledger "
        "WHERE (pipeline, version, path) IN (SELECT ($pipeline, $version, unnest($paths::VARCHAR[])))) l "
        "LEFT JOIN (SELECT shard_id FROM _target_shards "
        "WHERE (pipeline, path) IN (SELECT ($pipeline, unnest($paths::VARCHAR[])))) s USING (shard_id) "
        "WHERE is_outdated OR l.shard_id IN (SELECT unnest($shards::VARCHAR[])) ORDER BY l.shard_id",
        {
            "pipeline": target.pipeline,
            "version": target.version,
            "paths": sorted(paths),
            "shards": list(shard_ids),
        },
    ).fetchall()
    done = {shard_id: request_id for shard_id, request_id, _, _ in rows}
    outdated: dict[str, list[str]] = defaultdict(list)
    for shard_id, _, path, is_outdated in rows:
        if is_outdated:
            outdated[path].append(shard_id)
    return done, dict(outdated)
