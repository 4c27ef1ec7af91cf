"""What was trained: `_trainings`, a row a trial, with what its model came to on held-out rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tidemill.lake.ducklake.connection import Cursor, Lake
from tidemill.lake.runs import user_name
from tidemill.lake.tables import insert_records

JSON_COLUMNS = ("settings", "metrics", "baselines", "data")


def record_trainings(lake: Lake, rows: Sequence[dict[str, Any]]) -> None:
    """Write the trials of one training, in place of what was there of it."""

    def body(cursor: Cursor) -> None:
        cursor.execute("DELETE FROM _trainings WHERE training_id = ?", [rows[0]["training_id"]])
        plain = [{**row, **{name: json.dumps(row[name], default=str) for name in JSON_COLUMNS}} for row in rows]
        insert_records(cursor, "_trainings", [{**row, "who": user_name()} for row in plain])

    lake.write(body, message=f"train {rows[0]['name']}")


def training_of(cursor: Cursor, model: str) -> dict[str, Any] | None:
    """Name, metrics and held-out rows of the training that made the model of this identity, if it is recorded here."""
    found = cursor.execute(
        "SELECT name, metrics, num_held_out FROM _trainings WHERE model = ? AND is_best ORDER BY finished_at DESC",
        [model],
    ).fetchone()
    return {"name": found[0], "metrics": json.loads(found[1]), "held_out": found[2]} if found else None


def last_training(cursor: Cursor, name: str) -> tuple[datetime, str] | None:
    """When the last training of this name began, and the folder of its model."""
    found = cursor.execute(
        "SELECT started_at, folder FROM _trainings WHERE name = ? AND is_best ORDER BY finished_at DESC", [name]
    ).fetchone()
    return (found[0], found[1]) if found else None
