"""New key and kept columns for done shards, beside the predictions that they have.

The rows are copied, shard by shard, into a staging table that then takes the
table's place in one transaction: readers see the old columns or the new ones.
"""

from __future__ import annotations

import json

import pyarrow as pa

from tidemill.formats import KEPT_PREFIX
from tidemill.lake.adoption import Target
from tidemill.lake.connection import Cursor, Lake
from tidemill.lake.tables import create_result_table, existing_columns, identifier, point_view


def start_rewrite(lake: Lake, target: Target) -> str:
    """Make the table into which the rows go with new key and kept columns; returns its name."""
    staging = f"{target.table.name}__{target.kept}"

    def body(cursor: Cursor) -> None:
        if not existing_columns(cursor, staging):
            create_result_table(cursor, target.table, name=staging)

    lake.write(body, message=f"rewrite columns: {target.message}")
    return staging


def rewritten_shards(cursor: Cursor, staging: str) -> set[str]:
    return {name for (name,) in cursor.execute(f"SELECT DISTINCT shard_id FROM {identifier(staging)}").fetchall()}


def rewrite_shard(lake: Lake, target: Target, shard_id: str, rows: pa.Table | None, staging: str) -> None:
    """Put a done shard's predictions beside newly read key and kept columns, in the staging table.

    Without rows (the file has changed since, and is about to be replaced) the
    columns that the table has already are taken over and the others are NULL.
    """

    def body(cursor: Cursor) -> None:
        if shard_id in rewritten_shards(cursor, staging):
            return
        old = dict(existing_columns(cursor, target.table.name))
        kept = {name for name, _ in target.table.kept}

        def value(name: str, kind: str) -> str:
            if name in kept and rows is not None:
                return f"k.{identifier(KEPT_PREFIX + name)}"
            return f"t.{identifier(name)}" if name not in kept or old.get(name) == kind else "NULL"

        join = ""
        if rows is not None:
            cursor.register("_kept", rows.select(["row_number", *(KEPT_PREFIX + name for name in sorted(kept))]))
            join = "JOIN _kept k ON k.row_number = t.row_number"
        columns = ", ".join(value(name, kind) for name, kind in target.table.columns)
        cursor.execute(
            f"INSERT INTO {identifier(staging)} SELECT {columns} FROM {identifier(target.table.name)} t {join} "
            "WHERE t.shard_id = ?",
            [shard_id],
        )

    lake.write(body, message=f"rewrite columns: {target.message}")


def finish_rewrite(lake: Lake, target: Target, staging: str, kept: list[dict[str, str]]) -> bool:
    """Swap the rewritten table in; False if shards were committed meanwhile that it does not have yet."""

    def body(cursor: Cursor) -> bool:
        stale = cursor.execute(
            f"SELECT count(*) FROM _ledger l WHERE pipeline = ? AND version = ? AND num_rows > 0 AND kept <> ? "
            f"AND shard_id NOT IN (SELECT shard_id FROM {identifier(staging)})",
            [target.pipeline, target.version, target.kept],
        ).fetchone()
        if stale != (0,):
            return False
        promoted = cursor.execute(
            "SELECT promoted_version FROM _pipelines WHERE pipeline = ?", [target.pipeline]
        ).fetchone()
        cursor.execute(
            f"DELETE FROM {identifier(staging)} WHERE shard_id NOT IN "
            "(SELECT shard_id FROM _ledger WHERE pipeline = ? AND version = ?)",
            [target.pipeline, target.version],
        )
        if promoted == (target.version,):
            cursor.execute(f"DROP VIEW {identifier(target.pipeline)}")
        cursor.execute(f"DROP TABLE {identifier(target.table.name)}")
        cursor.execute(f"ALTER TABLE {identifier(staging)} RENAME TO {identifier(target.table.name)}")
        if promoted == (target.version,):
            point_view(cursor, target.table)
        cursor.execute(
            "UPDATE _ledger SET kept = ? WHERE pipeline = ? AND version = ?",
            [target.kept, target.pipeline, target.version],
        )
        cursor.execute(
            "UPDATE _versions SET kept = ? WHERE pipeline = ? AND version = ?",
            [json.dumps(kept), target.pipeline, target.version],
        )
        return True

    return lake.write(body, message=f"rewrite columns: {target.message}")
