"""What the lake knows: which shards a revision has, what is wanted, and what is done."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.requests import ONLY_QUARANTINED
from tidemill.lake.tables import existing_columns
from tidemill.shards import Shard, Slice, SourceFile


@dataclass(frozen=True)
class PipelineState:
    """Where a pipeline stands, once it has run."""

    target_revision: str
    promoted_version: str


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


def load_state(cursor: Cursor, pipeline: str) -> PipelineState | None:
    """None if the pipeline never ran, or the lake was made a moment ago and has no tables yet."""
    if not existing_columns(cursor, "_pipelines"):
        return None
    found = cursor.execute(
        "SELECT target_revision, promoted_version FROM _pipelines WHERE pipeline = ?", [pipeline]
    ).fetchone()
    return PipelineState(*found) if found else None


def load_spec(cursor: Cursor, pipeline: str, version: str) -> dict[str, Any] | None:
    """What `_versions` recorded when the version was made."""
    found = cursor.execute(
        "SELECT spec FROM _versions WHERE pipeline = ? AND version = ?", [pipeline, version]
    ).fetchone()
    return json.loads(found[0]) if found else None


def load_kept(cursor: Cursor, pipeline: str, version: str) -> list[dict[str, str]] | None:
    """The key and kept columns that the version's table holds now: source, name, type."""
    found = cursor.execute(
        "SELECT kept FROM _versions WHERE pipeline = ? AND version = ?", [pipeline, version]
    ).fetchone()
    return json.loads(found[0]) if found else None


def load_results(cursor: Cursor, pipeline: str, version: str) -> tuple[tuple[str, str], ...] | None:
    """Names and types of the model task's columns in the version's table."""
    found = cursor.execute(
        "SELECT results FROM _versions WHERE pipeline = ? AND version = ?", [pipeline, version]
    ).fetchone()
    return tuple((name, kind) for name, kind in json.loads(found[0])) if found else None


def has_done_shards(cursor: Cursor, pipeline: str, version: str) -> bool:
    found = cursor.execute(
        "SELECT 1 FROM _ledger WHERE pipeline = ? AND version = ? LIMIT 1", [pipeline, version]
    ).fetchone()
    return found is not None


def done_shards(cursor: Cursor, pipeline: str, version: str) -> dict[str, DoneShard]:
    rows = cursor.execute(
        "SELECT shard_id, path, content, kept, request_id, num_rows, num_quarantined FROM _ledger "
        "WHERE pipeline = ? AND version = ?",
        [pipeline, version],
    ).fetchall()
    return {row[0]: DoneShard(*row) for row in rows}


def committed_by(cursor: Cursor, pipeline: str, run_id: str) -> list[tuple[str, int, int, int, bool]]:
    """(shard id, rows, quarantined, tokens, whether it was copied) of the shards that a run made whole and still stand.

    Those of which it only tried quarantined rows again are not among them.
    """
    return cursor.execute(
        "SELECT shard_id, num_rows, num_quarantined, coalesce(num_tokens, 0), copied_from IS NOT NULL FROM _ledger "
        "WHERE pipeline = $pipeline AND run_id = $run_id AND request_id NOT IN "
        "(SELECT request_id FROM _requests WHERE pipeline = $pipeline AND reason = $reason)",
        {"pipeline": pipeline, "run_id": run_id, "reason": ONLY_QUARANTINED},
    ).fetchall()


def cut_files(cursor: Cursor, pipeline: str) -> dict[str, list[Slice]]:
    """File content → the slices it was cut into, for every file that was once cut to its end.

    One of whose shards some were lost, with a damaged file of the lake, is not among them: it is cut anew.
    """
    rows = cursor.execute(
        "WITH listed AS (SELECT path, since, count(*) AS n FROM _shards WHERE pipeline = $pipeline GROUP BY ALL), "
        "whole AS (SELECT content, any_value({'path': path, 'since': since}) AS place "
        "FROM _files LEFT JOIN listed USING (path, since) "
        "WHERE pipeline = $pipeline AND num_shards = coalesce(n, 0) GROUP BY content) "
        "SELECT w.content, s.first_row, s.num_rows, s.start_byte, s.stop_byte, s.content, s.text_bytes "
        "FROM whole w LEFT JOIN _shards s ON s.pipeline = $pipeline AND s.path = w.place.path "
        "AND s.since = w.place.since ORDER BY w.content, s.first_row",
        {"pipeline": pipeline},
    ).fetchall()
    slices: dict[str, list[Slice]] = defaultdict(list)
    for content, *cut in rows:
        slices[content] += [] if cut[0] is None else [Slice(*cut)]
    return dict(slices)


def slices_at(cursor: Cursor, pipeline: str, revision: str, paths: Sequence[str]) -> dict[str, tuple[str, list[Slice]]]:
    """path → (file content, slices known so far) at one revision, in file order; slices of `paths` alone."""
    rows = cursor.execute(
        "SELECT f.path, f.content, s.first_row, s.num_rows, s.start_byte, s.stop_byte, s.content, s.text_bytes "
        "FROM _revision_files f LEFT JOIN (SELECT * FROM _shards WHERE path IN (SELECT unnest(?::VARCHAR[]))) s "
        "USING (pipeline, path, since) WHERE f.pipeline = ? AND f.revision = ? ORDER BY f.path, s.first_row",
        [list(paths), pipeline, revision],
    ).fetchall()
    found: dict[str, tuple[str, list[Slice]]] = {}
    for path, content, *cut in rows:
        known = found.setdefault(path, (content, []))[1]
        known += [] if cut[0] is None else [Slice(*cut)]
    return found


def listed_first_rows(cursor: Cursor, pipeline: str) -> dict[str, int]:
    """shard id → the number of its first row, of every shard that a revision lists or the ledger has."""
    rows = cursor.execute(
        "SELECT shard_id, any_value(first_row) FROM _shards WHERE pipeline = ? GROUP BY shard_id", [pipeline]
    ).fetchall()
    return dict(rows)


def target_shards(cursor: Cursor, pipeline: str, revision: str) -> list[Shard]:
    """Every shard listed at a revision, by path and row."""
    rows = cursor.execute(
        "SELECT f.path, f.url, f.size, f.content, s.first_row, s.num_rows, s.start_byte, s.stop_byte, s.content, "
        "s.text_bytes FROM _revision_files f JOIN _shards s USING (pipeline, path, since) "
        "WHERE f.pipeline = ? AND f.revision = ? ORDER BY f.path, s.first_row",
        [pipeline, revision],
    ).fetchall()
    return [Shard(SourceFile(*row[:4]), Slice(*row[4:])) for row in rows]
