"""Backfills: what was asked for in one transaction, and whether it is done."""

from __future__ import annotations

import json
from typing import Any

from tidemill.errors import LakeError
from tidemill.lake.ducklake.connection import Cursor, Lake
from tidemill.lake.requests import are_open, withdraw_backfill
from tidemill.lake.tables import insert_records, records


def cancel_backfills(lake: Lake, pipeline: str, backfill_id: str | None = None) -> list[str]:
    """Take back what is asked for and not done; returns the ids. What was committed stays.

    Raises:
        LakeError: there is no such open backfill.
    """

    def body(cursor: Cursor) -> list[str]:
        rows = cursor.execute(
            "SELECT backfill_id FROM _backfills WHERE pipeline = $pipeline AND state = 'open' "
            "AND backfill_id = coalesce($backfill, backfill_id)",
            {"pipeline": pipeline, "backfill": backfill_id},
        ).fetchall()
        for (found,) in rows:
            withdraw_backfill(cursor, pipeline, found)
            cursor.execute(
                "UPDATE _backfills SET state = 'cancelled', finished_at = now() WHERE backfill_id = ?", [found]
            )
        return [found for (found,) in rows]

    cancelled = lake.write(body, message=f"cancel backfills of {pipeline}")
    if backfill_id is not None and not cancelled:
        raise LakeError(f"{pipeline} has no open backfill {backfill_id}. `tidemill status` lists those there are.")
    return cancelled


def insert_backfill(cursor: Cursor, record: dict[str, object]) -> None:
    insert_records(cursor, "_backfills", [record])


def set_max_cost(cursor: Cursor, backfill_id: str, max_cost: float | None) -> None:
    cursor.execute("UPDATE _backfills SET max_cost = ? WHERE backfill_id = ?", [max_cost, backfill_id])


def close_if_done(cursor: Cursor, backfill_id: str) -> None:
    """Close an open backfill of which nothing is left to do."""
    asked = load_backfill(cursor, backfill_id)
    if not are_open(cursor, asked["pipeline"], asked["version"], backfill_id):
        cursor.execute(
            "UPDATE _backfills SET state = 'done', finished_at = now() WHERE backfill_id = ? AND state = 'open'",
            [backfill_id],
        )


def cancel_of_version(cursor: Cursor, pipeline: str, version: str) -> None:
    """Close the open backfills of a version that is dropped."""
    cursor.execute(
        "UPDATE _backfills SET state = 'cancelled', finished_at = now() "
        "WHERE pipeline = ? AND version = ? AND state = 'open'",
        [pipeline, version],
    )


def load_backfill(cursor: Cursor, backfill_id: str) -> dict[str, Any]:
    """The row of a backfill.

    Raises:
        LakeError: there is none of this id.
    """
    found = records(cursor, "SELECT * FROM _backfills WHERE backfill_id = ?", [backfill_id])
    if not found:
        raise LakeError(f"The lake has no backfill {backfill_id}. `tidemill status` lists those there are.")
    return found[0]


def open_backfill_of(cursor: Cursor, pipeline: str, version: str, selection: dict[str, Any]) -> str | None:
    """The latest backfill of the same selection that was not closed."""
    rows = cursor.execute(
        "SELECT backfill_id, selection FROM _backfills WHERE pipeline = ? AND version = ? AND state = 'open' "
        "ORDER BY created_at DESC",
        [pipeline, version],
    ).fetchall()
    return next((backfill_id for backfill_id, asked in rows if json.loads(asked) == selection), None)


def open_backfills(cursor: Cursor, pipeline: str) -> list[dict[str, Any]]:
    """Backfills that are not at their end, with what they cost until now, oldest first."""
    return records(
        cursor,
        "SELECT backfill_id, version, why, who, created_at, num_shards AS shards, estimated_seconds, "
        "estimated_seconds_low, estimated_seconds_high, estimated_cost, max_cost, currency, "
        "(SELECT coalesce(sum(r.cost), 0) FROM _runs r WHERE r.backfill_id = b.backfill_id) AS cost "
        "FROM _backfills b WHERE pipeline = ? AND state = 'open' ORDER BY created_at",
        [pipeline],
    )
