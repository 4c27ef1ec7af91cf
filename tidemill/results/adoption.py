"""What is wanted: a dataset revision becomes the target, and its shards are listed and asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tidemill.lake.ducklake.connection import Cursor, Lake
from tidemill.lake.ledger import has_done_shards
from tidemill.lake.listings import list_revision, list_shards, mark_cut
from tidemill.lake.pipelines import Target, load_kept
from tidemill.lake.requests import ask, request_ids, withdraw_unstarted
from tidemill.lake.tables import (
    ResultTable,
    create_result_table,
    existing_columns,
    identifier,
    insert_records,
    is_shown,
    point_marks,
    point_view,
)
from tidemill.results.retirement import retire_elsewhere
from tidemill.shards import Shard, SourceFile


@dataclass(frozen=True)
class Adoption:
    """A dataset revision as it becomes the target."""

    files: Sequence[tuple[SourceFile, int | None]]
    shards: Sequence[Shard]
    requests: Sequence[tuple[str, str]]
    """(shard id, reason)"""
    spec: dict[str, Any]
    kept: list[dict[str, str]]
    dataset: dict[str, Any]
    expected_target: str | None


def adopt(lake: Lake, target: Target, adoption: Adoption) -> bool:
    """Make `target.revision` the target and write what is wanted; False if another run moved the target meanwhile.

    The pipeline's first version gets its table, is promoted and gets the view.
    """

    def body(cursor: Cursor) -> bool:
        now = datetime.now(UTC)
        current = cursor.execute(
            "SELECT target_revision FROM _pipelines WHERE pipeline = ?", [target.pipeline]
        ).fetchone()
        found = current[0] if current else None
        if found not in (adoption.expected_target, target.revision):
            return False
        _forget_columns_of_nothing(cursor, target, adoption.kept)
        create_version(cursor, target.table, spec=adoption.spec, kept=adoption.kept, now=now)
        if current is None:
            insert_records(
                cursor,
                "_pipelines",
                [
                    {
                        "pipeline": target.pipeline,
                        "dataset": adoption.dataset,
                        "target_revision": target.revision,
                        "promoted_version": target.version,
                        "adopted_at": now,
                        "updated_at": now,
                    }
                ],
            )
            point_view(cursor, target.table)
            point_marks(cursor, target.pipeline)
        else:
            _promote_in_place_of_nothing(cursor, target)
        if current is not None and found != target.revision:
            cursor.execute(
                "UPDATE _pipelines SET dataset = ?, target_revision = ?, adopted_at = ?, updated_at = ? "
                "WHERE pipeline = ?",
                [json.dumps(adoption.dataset), target.revision, now, now, target.pipeline],
            )
        list_revision(cursor, target.pipeline, target.revision, adoption.files, now=now)
        list_shards(cursor, target.pipeline, adoption.shards)
        ask(cursor, target, adoption.requests, now)
        retire_elsewhere(cursor, target.pipeline, target.version)
        return True

    return lake.write(body, message=f"adopt {target.message}")


def request_shards(
    lake: Lake, target: Target, found: Sequence[tuple[Shard, str]], *, cut: Sequence[tuple[str, Sequence[Shard]]] = ()
) -> dict[str, str]:
    """List shards that were found by reading, given as (shard, reason), and ask for them; shard id → request id.

    `cut` gives (path, all shards) of files that were read to their end.
    """

    def body(cursor: Cursor) -> dict[str, str]:
        if not is_target(cursor, target):
            return {}
        ended = {path for path, _ in cut}
        list_shards(cursor, target.pipeline, [shard for shard, _ in found if shard.file.path not in ended])
        mark_cut(cursor, target.pipeline, cut)
        ask(cursor, target, [(shard.shard_id, reason) for shard, reason in found], datetime.now(UTC))
        if cut:
            retire_elsewhere(cursor, target.pipeline, target.version)
        return request_ids(cursor, target, [shard.shard_id for shard, _ in found])

    return lake.write(body, message=f"request: {target.message}")


def _forget_columns_of_nothing(cursor: Cursor, target: Target, kept: list[dict[str, str]]) -> None:
    """Let a version that never got a row have the key and kept columns that are asked for now."""
    recorded = load_kept(cursor, target.pipeline, target.version)
    if recorded in (None, kept) or has_done_shards(cursor, target.pipeline, target.version):
        return
    promoted = cursor.execute(
        "SELECT promoted_version FROM _pipelines WHERE pipeline = ?", [target.pipeline]
    ).fetchone()
    if promoted == (target.version,):
        cursor.execute(f"DROP VIEW IF EXISTS {identifier(target.pipeline)}")
    cursor.execute(f"DROP TABLE {identifier(target.table.name)}")
    cursor.execute("DELETE FROM _versions WHERE pipeline = ? AND version = ?", [target.pipeline, target.version])


def _promote_in_place_of_nothing(cursor: Cursor, target: Target) -> None:
    """Promote the target's version if the promoted one never got a row; nobody wants that one any more."""
    withdraw_unstarted(cursor, target.pipeline, target.version)
    cursor.execute(
        "UPDATE _pipelines p SET promoted_version = $version "
        "WHERE pipeline = $pipeline AND promoted_version <> $version "
        "AND NOT EXISTS (SELECT 1 FROM _ledger l WHERE l.pipeline = p.pipeline AND l.version = p.promoted_version)",
        {"pipeline": target.pipeline, "version": target.version},
    )
    promoted = cursor.execute(
        "SELECT promoted_version FROM _pipelines WHERE pipeline = ?", [target.pipeline]
    ).fetchone()
    if promoted == (target.version,) and not is_shown(cursor, target.pipeline, target.table.name):
        point_view(cursor, target.table)


def is_target(cursor: Cursor, target: Target) -> bool:
    found = cursor.execute(
        "SELECT 1 FROM _pipelines WHERE (pipeline, target_revision) = (?, ?)", [target.pipeline, target.revision]
    ).fetchone()
    return found is not None


def create_version(
    cursor: Cursor, table: ResultTable, *, spec: dict[str, Any], kept: list[dict[str, str]], now: datetime
) -> None:
    """Make a version's table and its row in `_versions`, unless they are there."""
    if existing_columns(cursor, table.name):
        return
    create_result_table(cursor, table)
    insert_records(
        cursor,
        "_versions",
        [
            {
                "pipeline": table.pipeline,
                "version": table.version,
                "spec": spec,
                "kept": kept,
                "results": [list(column) for column in table.results],
                "created_at": now,
            }
        ],
    )
