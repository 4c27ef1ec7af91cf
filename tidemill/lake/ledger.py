"""What is done: which shards at which version, and what they took; and the rows that could not be processed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.tables import records

PATHS_OF_SHARDS = "SELECT shard_id, path FROM _ledger WHERE pipeline = ? AND version = ?"
"""A query, to be joined: the file of each shard that is done at a version."""
OUTDATED_PATHS = (
    "SELECT path FROM _ledger WHERE pipeline = $pipeline AND version = $version "
    "AND shard_id NOT IN (SELECT shard_id FROM _target_shards WHERE pipeline = $pipeline)"
)
"""A query: the files that have shards in the table which the target revision does not list."""

COMPUTED_TOKENS = "num_tokens - coalesce(num_unchanged_tokens, 0)"
"""SQL: a shard's tokens but for those of rows whose answers were there already."""
BUSY = "tokenize_seconds + infer_seconds"
"""SQL: what a shard took to compute, while other shards of its run may have been computed too."""
SECONDS_OF_RUN = f"least(sum({BUSY}), max(epoch(committed_at)) - min(epoch(committed_at) - ({BUSY})))"
"""SQL, of the shards of a run: what it took to compute them, several of which may have been computed at one time."""


@dataclass(frozen=True)
class DoneShard:
    """A ledger row: one shard whose rows are visible at one version."""

    shard_id: str
    path: str
    content: str
    kept: str | None
    """Fingerprint of the key and kept columns that its rows have; None where they could not be read."""
    request_id: str
    num_rows: int
    num_quarantined: int


def has_done_shards(cursor: Cursor, pipeline: str, version: str) -> bool:
    found = cursor.execute(
        "SELECT 1 FROM _ledger WHERE pipeline = ? AND version = ? LIMIT 1", [pipeline, version]
    ).fetchone()
    return found is not None


class DonePlace(NamedTuple):
    """Where a shard's rows are from, and how many of them the version's table has."""

    shard_id: str
    path: str
    num_rows: int


def in_source_order(cursor: Cursor, pipeline: str, version: str) -> list[DonePlace]:
    """The shards that a version's table has, file by file, as their rows follow each other."""
    rows = cursor.execute(
        "SELECT l.shard_id, l.path, l.num_rows FROM (SELECT * FROM _ledger WHERE (pipeline, version) = (?, ?)) l "
        "LEFT JOIN (SELECT DISTINCT shard_id, first_row FROM _shards WHERE pipeline = ?) s USING (shard_id) "
        "ORDER BY l.path, s.first_row, l.shard_id",
        [pipeline, version, pipeline],
    ).fetchall()
    return [DonePlace(*row) for row in rows]


def done_shards(cursor: Cursor, pipeline: str, version: str) -> dict[str, DoneShard]:
    rows = cursor.execute(
        "SELECT shard_id, path, content, kept, request_id, num_rows, num_quarantined FROM _ledger "
        "WHERE pipeline = ? AND version = ?",
        [pipeline, version],
    ).fetchall()
    return {row[0]: DoneShard(*row) for row in rows}


def done_of_files(cursor: Cursor, pipeline: str, version: str, paths: Sequence[str]) -> set[str]:
    """Ids of the shards of some files that are done."""
    rows = cursor.execute(
        "SELECT shard_id FROM _ledger WHERE pipeline = ? AND version = ? AND path IN (SELECT unnest(?::VARCHAR[]))",
        [pipeline, version, list(paths)],
    ).fetchall()
    return {shard_id for (shard_id,) in rows}


def outdated_paths(cursor: Cursor, pipeline: str, version: str) -> list[str]:
    """Files of the target revision that still show what it does not list, by path."""
    rows = cursor.execute(
        f"SELECT path FROM _target_files WHERE pipeline = $pipeline AND path IN ({OUTDATED_PATHS}) ORDER BY path",
        {"pipeline": pipeline, "version": version},
    ).fetchall()
    return [path for (path,) in rows]


def moved_paths(cursor: Cursor, pipeline: str, version: str, copied: Sequence[str]) -> list[str]:
    """Files that the target revision does not list, and all of whose contents are done at one that it does, by path.

    So are, at the end of the transaction that asks, the contents that are `copied`.
    """
    listed = "SELECT {} FROM _target_shards WHERE pipeline = $pipeline"
    here = (
        f"SELECT unnest($copied::VARCHAR[]) UNION ALL {listed.format('content')} AND shard_id IN "
        "(SELECT shard_id FROM _ledger WHERE pipeline = $pipeline AND version = $version)"
    )
    rows = cursor.execute(
        "SELECT path FROM _ledger WHERE pipeline = $pipeline AND version = $version "
        f"AND path NOT IN ({listed.format('path')}) GROUP BY path HAVING bool_and(content IN ({here})) ORDER BY path",
        {"pipeline": pipeline, "version": version, "copied": list(copied)},
    ).fetchall()
    return [path for (path,) in rows]


def quarantined_rows(
    cursor: Cursor, pipeline: str, version: str, shard_ids: Sequence[str] | None = None
) -> dict[str, tuple[int, ...]]:
    """shard id → row numbers in quarantine, in order; of some shards, or of all."""
    only = "" if shard_ids is None else "AND shard_id IN (SELECT unnest($shards::VARCHAR[])) "
    facts: dict[str, object] = {"pipeline": pipeline, "version": version}
    rows = cursor.execute(
        "SELECT shard_id, list(row_number ORDER BY row_number) FROM _quarantine "
        f"WHERE pipeline = $pipeline AND version = $version {only}GROUP BY shard_id",
        facts if shard_ids is None else facts | {"shards": list(shard_ids)},
    ).fetchall()
    return {shard_id: tuple(numbers) for shard_id, numbers in rows}


def quarantine_reasons(cursor: Cursor, pipeline: str, version: str, *, limit: int) -> list[dict[str, Any]]:
    """Why rows are in quarantine, and how many for each stage and reason, most first."""
    return records(
        cursor,
        "SELECT stage, reason, count(*) AS rows FROM _quarantine WHERE pipeline = ? AND version = ? "
        f"GROUP BY ALL ORDER BY rows DESC, stage, reason LIMIT {limit}",
        [pipeline, version],
    )


def throughput(cursor: Cursor, pipeline: str, version: str) -> list[dict[str, Any]]:
    """What was measured on each kind of device, the one with the most tokens first.

    Rows per second are of rows that were computed and are in the table still: those that were forgotten are not
    counted, and since nobody knows which of them were computed, a shard has none where it had more unchanged ones.
    """
    return records(
        cursor,
        "SELECT device, count(*) AS shards, sum(tokens)::BIGINT AS tokens, "
        "sum(tokens) / nullif(sum(tokenize_seconds + infer_seconds), 0) AS tokens_per_second, "
        "sum(greatest(0, num_rows - coalesce(num_unchanged, 0))) / nullif(sum(tokenize_seconds + infer_seconds), 0) "
        "AS rows_per_second, "
        "1 - sum(num_computed_tokens) / nullif(sum(num_padded_tokens), 0) AS padding_waste, "
        "sum(num_new_tokens)::BIGINT AS new_tokens, "
        "sum(num_new_tokens) / nullif(sum(tokenize_seconds + infer_seconds), 0) AS new_tokens_per_second "
        f"FROM (SELECT *, {COMPUTED_TOKENS} AS tokens FROM _ledger) "
        "WHERE pipeline = ? AND version = ? AND copied_from IS NULL AND device IS NOT NULL "
        "GROUP BY device ORDER BY tokens DESC, device",
        [pipeline, version],
    )


class MeasuredShard(NamedTuple):
    """What a shard took: of its rows and tokens, those that were computed. A model that writes none has no new ones.

    `seconds` is its share of what its run took for the shards that are told.
    """

    device: str
    num_tokens: int
    seconds: float
    num_rows: int
    num_new_tokens: int | None


def measured_shards(
    cursor: Cursor, pipeline: str, version: str, *, device: str | None, limit: int
) -> list[MeasuredShard]:
    """The latest shards, on `device` or else on the kind that computed last."""
    latest = (
        "SELECT * FROM _ledger "
        f"WHERE pipeline = $pipeline AND version = $version AND copied_from IS NULL AND {COMPUTED_TOKENS} > 0 "
        "AND device = coalesce($device, (SELECT arg_max(device, committed_at) FROM _ledger "
        "WHERE pipeline = $pipeline AND version = $version AND copied_from IS NULL)) "
        f"ORDER BY committed_at DESC LIMIT {limit}"
    )
    rows = cursor.execute(
        f"WITH latest AS ({latest}), runs AS (SELECT run_id, {SECONDS_OF_RUN} / nullif(sum({BUSY}), 0) AS share "
        f"FROM latest GROUP BY run_id) SELECT device, {COMPUTED_TOKENS}, ({BUSY}) * coalesce(share, 1), num_rows "
        "+ num_quarantined + coalesce(num_forgotten, 0) - coalesce(num_unchanged, 0), num_new_tokens "
        "FROM latest JOIN runs ON latest.run_id IS NOT DISTINCT FROM runs.run_id ORDER BY committed_at DESC",
        {"pipeline": pipeline, "version": version, "device": device},
    ).fetchall()
    return [MeasuredShard(*row) for row in rows]


def measured_text(cursor: Cursor, pipeline: str, version: str) -> tuple[int, int, int]:
    """(bytes, tokens, rows) of the texts that the version has computed."""
    [(num_bytes, num_tokens, num_rows)] = cursor.execute(
        "SELECT sum(s.text_bytes), sum(l.num_tokens), sum(s.num_rows) "
        "FROM (SELECT shard_id, any_value(num_tokens) AS num_tokens FROM _ledger WHERE pipeline = $pipeline "
        "AND version = $version AND copied_from IS NULL GROUP BY shard_id) l "
        "JOIN (SELECT shard_id, any_value(text_bytes) AS text_bytes, any_value(num_rows) AS num_rows FROM _shards "
        "WHERE pipeline = $pipeline GROUP BY shard_id) s USING (shard_id)",
        {"pipeline": pipeline, "version": version},
    ).fetchall()
    return num_bytes or 0, num_tokens or 0, num_rows or 0


def counted_tokens(cursor: Cursor, pipeline: str, versions: Sequence[str]) -> dict[str, int]:
    """shard id → its tokens, as one of the versions counted them last."""
    rows = cursor.execute(
        "SELECT shard_id, arg_max(num_tokens, committed_at) FROM _ledger WHERE pipeline = ? "
        "AND version IN (SELECT unnest(?::VARCHAR[])) GROUP BY shard_id",
        [pipeline, list(versions)],
    ).fetchall()
    return dict(rows)


def seconds_by_stage(cursor: Cursor, run_id: str) -> dict[str, float]:
    """What the shards took that a run committed, by stage, as far as it was measured."""
    names = ("ingest_seconds", "tokenize_seconds", "infer_seconds", "materialize_seconds")
    sums = ", ".join(f"sum({name}) AS {name}" for name in names)
    [found] = records(cursor, f"SELECT {sums} FROM _ledger WHERE run_id = ?", [run_id])
    return {name: seconds for name, seconds in found.items() if seconds is not None}
