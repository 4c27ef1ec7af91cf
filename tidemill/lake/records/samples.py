"""Which rows to mark, in what order, and why: `_samples`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from tidemill.lake.ducklake.connection import Cursor, Lake
from tidemill.lake.records.marks import Place
from tidemill.lake.tables import insert_records


class Picked(NamedTuple):
    """A row to mark, and why it was picked."""

    place: Place
    path: str
    reason: str


def replace_sample(lake: Lake, pipeline: str, rows: Sequence[Picked], *, who: str) -> None:
    """Let these rows, in this order, be what is to be marked of a pipeline."""

    def body(cursor: Cursor) -> None:
        cursor.execute("DELETE FROM _samples WHERE pipeline = ?", [pipeline])
        now = datetime.now(UTC)
        insert_records(
            cursor,
            "_samples",
            [
                {
                    "pipeline": pipeline,
                    "place": number,
                    "shard_id": row.place.shard_id,
                    "path": row.path,
                    "row_number": row.place.row_number,
                    "reason": row.reason,
                    "who": who,
                    "sampled_at": now,
                }
                for number, row in enumerate(rows)
            ],
        )

    lake.write(body, message=f"sample rows of {pipeline}", author=who)


def to_mark(cursor: Cursor, pipeline: str) -> list[Picked]:
    """The rows that were picked and are not marked yet, in order."""
    rows = cursor.execute(
        "SELECT shard_id, row_number, path, reason FROM (SELECT * FROM _samples WHERE pipeline = $pipeline) s "
        "ANTI JOIN (SELECT * FROM _marks WHERE pipeline = $pipeline) m USING (shard_id, row_number) ORDER BY place",
        {"pipeline": pipeline},
    ).fetchall()
    return [Picked(Place(shard_id, number), path, reason) for shard_id, number, path, reason in rows]


def num_picked(cursor: Cursor, pipeline: str) -> int:
    """How many rows were picked, those included that are marked by now."""
    return int(cursor.execute("SELECT count(*) FROM _samples WHERE pipeline = ?", [pipeline]).fetchall()[0][0])
