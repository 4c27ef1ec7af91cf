"""From the layout of an older Tidemill to this one's: ordered steps, in one transaction.

A step that raises leaves the lake as it was, with all that the steps before it
had done undone. A step never changes once it was released: a lake of any older
layout goes through all that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tidemill import config
from tidemill.errors import LakeError
from tidemill.lake.connection import LAYOUT_VERSION, Cursor, Lake, catalog_exists, layout_message
from tidemill.lake.data import DataFolder
from tidemill.lake.tables import existing_columns

Step = Callable[[Cursor], list[str]]
"""Changes the tables, and says what it changed."""


@dataclass(frozen=True)
class Migration:
    """What was done to a lake; no changes if it had this Tidemill's layout already."""

    from_layout: int
    to_layout: int
    changes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def to_layout_2(cursor: Cursor) -> list[str]:
    """Backfills, forgotten rows, and who computed what at what cost."""
    return [
        _make_table(
            cursor,
            "_backfills",
            "backfill_id VARCHAR, pipeline VARCHAR, version VARCHAR, revision VARCHAR, selection JSON, why VARCHAR, "
            "who VARCHAR, state VARCHAR, created_at TIMESTAMPTZ, finished_at TIMESTAMPTZ, num_shards BIGINT, "
            "num_rows BIGINT, num_tokens BIGINT, estimated_seconds DOUBLE, estimated_seconds_low DOUBLE, "
            "estimated_seconds_high DOUBLE, estimated_cost DOUBLE, currency VARCHAR, max_cost DOUBLE",
        ),
        _make_table(
            cursor,
            "_forgotten",
            "pipeline VARCHAR, content VARCHAR, row_offset BIGINT, key_hash VARCHAR, who VARCHAR, "
            "forgotten_at TIMESTAMPTZ",
        ),
        _add_columns(cursor, "_requests", "backfill_id VARCHAR"),
        _add_columns(cursor, "_ledger", "num_forgotten BIGINT", "materialize_seconds DOUBLE", "worker VARCHAR"),
        _add_columns(
            cursor,
            "_runs",
            "backfill_id VARCHAR",
            "worker VARCHAR",
            "estimated_seconds_low DOUBLE",
            "estimated_seconds_high DOUBLE",
            "estimated_cost DOUBLE",
            "num_dropped BIGINT",
        ),
    ]


STEPS: tuple[Step, ...] = (to_layout_2,)
"""The first takes a lake from layout 1 to 2, and so on."""


def migrate(spec: config.Lake, *, steps: Sequence[Step] = STEPS) -> Migration:
    """Bring a lake to this Tidemill's layout; nothing else may write to it meanwhile.

    Raises:
        LakeError: there is no lake, or a newer Tidemill wrote it.
    """
    if not catalog_exists(spec):
        raise LakeError("There is no lake to migrate. Check lake.catalog; `tidemill run` makes a new one.")
    with Lake(spec, any_layout=True) as lake:
        found = _layout(lake.cursor())
        if found is None or found == LAYOUT_VERSION:
            return Migration(LAYOUT_VERSION, LAYOUT_VERSION)
        if found > LAYOUT_VERSION:
            raise LakeError(layout_message(spec, found))

        def body(cursor: Cursor) -> Migration:
            layout = _layout(cursor) or LAYOUT_VERSION
            changes = [change for step in steps[layout - 1 :] for change in step(cursor)]
            cursor.execute("UPDATE _layout SET layout_version = ?", [LAYOUT_VERSION])
            return Migration(layout, LAYOUT_VERSION, tuple(changes))

        DataFolder(lake).mark()
        return lake.write(body, message=f"migrate from layout {found} to {LAYOUT_VERSION}")


def _layout(cursor: Cursor) -> int | None:
    """None if the lake was made a moment ago and has no tables yet."""
    if not existing_columns(cursor, "_layout"):
        return None
    found: int = cursor.execute("SELECT max(layout_version) FROM _layout").fetchall()[0][0]
    return found


def _make_table(cursor: Cursor, name: str, columns: str) -> str:
    cursor.execute(f"CREATE TABLE {name} ({columns})")
    return f"new table {name}"


def _add_columns(cursor: Cursor, table: str, *columns: str) -> str:
    for column in columns:
        cursor.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
    return f"new in {table}: {', '.join(column.partition(' ')[0] for column in columns)}"
