"""What is wanted and not done yet: open requests, read from the lake alone.

A request asks for one shard at one version. It is open until the ledger has a
row for it. `run` and `backfill` write requests; the stages and whoever works
for a backfill read them here, so that none of them has to look at the source
to know what is to be done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.tables import address_at
from tidemill.shards import Shard, Slice, SourceFile

ONLY_QUARANTINED = "quarantined"
"""The reason of a request that asks for a shard's quarantined rows alone."""


@dataclass(frozen=True)
class Request:
    """A shard that is wanted at a version. With `rows`, only those row numbers of it are."""

    shard: Shard
    request_id: str
    rows: tuple[int, ...] | None = None


_OPEN = """
    FROM _requests r
    JOIN _pipelines p ON p.pipeline = r.pipeline
    JOIN _target_shards s ON s.pipeline = r.pipeline AND s.shard_id = r.shard_id
    LEFT JOIN _ledger l ON l.pipeline = r.pipeline AND l.version = r.version AND l.shard_id = r.shard_id
        AND l.request_id = r.request_id
    WHERE r.pipeline = $pipeline AND l.shard_id IS NULL
"""


def open_requests(
    cursor: Cursor,
    pipeline: str,
    version: str,
    *,
    backfill_id: str | None = None,
    shard_ids: Sequence[str] | None = None,
) -> list[Request]:
    """What is wanted at the target revision and not done, by path and row; of one backfill or of some shards."""
    facts: dict[str, object] = {"pipeline": pipeline, "version": version}
    narrowed = "AND r.version = $version"
    if backfill_id is not None:
        narrowed, facts["backfill"] = f"{narrowed} AND r.backfill_id = $backfill", backfill_id
    if shard_ids is not None:
        narrowed, facts["shards"] = f"{narrowed} AND r.shard_id IN (SELECT unnest($shards::VARCHAR[]))", list(shard_ids)
    rows = cursor.execute(
        f"SELECT o.request_id, o.reason, f.path, {address_at('o.target_revision')}, f.size, f.content, o.first_row, "
        "o.num_rows, o.start_byte, o.stop_byte, o.content, o.text_bytes "
        f"FROM (SELECT r.request_id, r.reason, p.target_revision, s.* {_OPEN} {narrowed}) o "
        "JOIN _target_files f ON f.pipeline = o.pipeline AND f.path = o.path ORDER BY f.path, o.first_row",
        facts,
    ).fetchall()
    requests = [Request(Shard(SourceFile(*row[2:6]), Slice(*row[6:])), row[0]) for row in rows]
    partial = {row[0] for row in rows if row[1] == ONLY_QUARANTINED}
    if not partial:
        return requests
    wanted = quarantined_rows(cursor, pipeline, version)
    return [
        Request(request.shard, request.request_id, wanted.get(request.shard.shard_id, ()))
        if request.request_id in partial
        else request
        for request in requests
    ]


def asked_for_in_vain(cursor: Cursor, pipeline: str) -> dict[str, set[str]]:
    """Version → shards that are wanted and not done, and of which no open backfill will remind anyone."""
    rows = cursor.execute(
        f"SELECT r.version, list(DISTINCT r.shard_id) {_OPEN} AND r.reason <> '{ONLY_QUARANTINED}' "
        "AND NOT EXISTS (SELECT 1 FROM _backfills b WHERE b.backfill_id = r.backfill_id AND b.state = 'open') "
        "GROUP BY r.version",
        {"pipeline": pipeline},
    ).fetchall()
    return {version: set(shard_ids) for version, shard_ids in rows}


def versions_in_demand(cursor: Cursor, pipeline: str) -> list[str]:
    """The versions that have open requests, the promoted one first."""
    rows = cursor.execute(
        f"SELECT r.version {_OPEN} GROUP BY r.version, p.promoted_version "
        "ORDER BY r.version <> p.promoted_version, r.version",
        {"pipeline": pipeline},
    ).fetchall()
    return [version for (version,) in rows]


def quarantined_rows(cursor: Cursor, pipeline: str, version: str) -> dict[str, tuple[int, ...]]:
    """shard id → row numbers in quarantine, in order."""
    rows = cursor.execute(
        "SELECT shard_id, list(row_number ORDER BY row_number) FROM _quarantine "
        "WHERE pipeline = ? AND version = ? GROUP BY shard_id",
        [pipeline, version],
    ).fetchall()
    return {shard_id: tuple(numbers) for shard_id, numbers in rows}
