"""New key and kept columns for done shards, beside the predictions that they have.

The rows are copied, shard by shard, into a staging table that then takes the
table's place in one transaction: readers see the old columns or the new ones.
A shard that could not be read then says so in the ledger, and is read again into
the table as it is once its content lies somewhere.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

import pyarrow as pa

from tidemill.formats import KEPT_PREFIX
from tidemill.lake.checksums import METHOD, checksum_of_rows, refuse_changed_rows, set_checksums
from tidemill.lake.ducklake.connection import Cursor, Lake
from tidemill.lake.pipelines import Target
from tidemill.lake.tables import create_result_table, existing_columns, identifier, insert_rows, point_view


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


def rewrite_shard(lake: Lake, target: Target, staging: str, shard_id: str, rows: pa.Table) -> None:
    """Put a done shard's predictions beside newly read key and kept columns, in the staging table."""

    def body(cursor: Cursor) -> None:
        if shard_id not in rewritten_shards(cursor, staging):
            refuse_changed_rows(cursor, target.pipeline, target.version, shard_id)
            columns = _beside(cursor, target, rows)
            cursor.execute(f"INSERT INTO {identifier(staging)} {columns}", [shard_id])

    lake.write(body, message=f"rewrite columns: {target.message}")


def renew_shard(lake: Lake, target: Target, shard_id: str, rows: pa.Table) -> None:
    """Put a done shard's predictions beside newly read columns that its table has already."""

    def body(cursor: Cursor) -> None:
        refuse_changed_rows(cursor, target.pipeline, target.version, shard_id)
        anew = cursor.execute(_beside(cursor, target, rows), [shard_id]).to_arrow_table()
        cursor.execute(f"DELETE FROM {identifier(target.table.name)} WHERE shard_id = ?", [shard_id])
        insert_rows(cursor, target.table.name, anew)
        checksum = checksum_of_rows(cursor, target.table.columns, anew)
        cursor.execute(
            "UPDATE _ledger SET kept = ?, checksum = ?, checksum_by = ? "
            "WHERE pipeline = ? AND version = ? AND shard_id = ?",
            [target.kept, checksum, METHOD, target.pipeline, target.version, shard_id],
        )

    lake.write(body, message=f"rewrite columns: {target.message}")


def finish_rewrite(
    lake: Lake, target: Target, staging: str, kept: list[dict[str, str]], unread: Collection[str]
) -> bool:
    """Swap the rewritten table in; False if shards were committed meanwhile that it does not have yet.

    Of `unread` shards the columns that the table has already are taken over and
    the others are NULL, for now: in the ledger they have none of the columns.
    """

    def body(cursor: Cursor) -> bool:
        missing = cursor.execute(
            "SELECT shard_id FROM _ledger WHERE pipeline = ? AND version = ? AND num_rows > 0 "
            f"AND shard_id NOT IN (SELECT shard_id FROM {identifier(staging)})",
            [target.pipeline, target.version],
        ).fetchall()
        waiting = [shard_id for (shard_id,) in missing]
        if not set(waiting) <= set(unread):
            return False
        for shard_id in waiting:
            refuse_changed_rows(cursor, target.pipeline, target.version, shard_id)
        _take_over(cursor, target, waiting, staging)
        promoted = cursor.execute(
            "SELECT promoted_version FROM _pipelines WHERE pipeline = ?", [target.pipeline]
        ).fetchone()
        cursor.execute(
            f"DELETE FROM {identifier(staging)} WHERE shard_id NOT IN "
            "(SELECT shard_id FROM _ledger WHERE pipeline = ? AND version = ?)",
            [target.pipeline, target.version],
        )
        set_checksums(cursor, target.pipeline, target.version, staging)
        if promoted == (target.version,):
            cursor.execute(f"DROP VIEW {identifier(target.pipeline)}")
        cursor.execute(f"DROP TABLE {identifier(target.table.name)}")
        cursor.execute(f"ALTER TABLE {identifier(staging)} RENAME TO {identifier(target.table.name)}")
        if promoted == (target.version,):
            point_view(cursor, target.table)
        cursor.execute(
            "UPDATE _ledger SET kept = CASE WHEN list_contains(?::VARCHAR[], shard_id) THEN NULL ELSE ? END "
            "WHERE pipeline = ? AND version = ?",
            [waiting, target.kept, target.pipeline, target.version],
        )
        cursor.execute(
            "UPDATE _versions SET kept = ? WHERE pipeline = ? AND version = ?",
            [json.dumps(kept), target.pipeline, target.version],
        )
        return True

    return lake.write(body, message=f"rewrite columns: {target.message}")


def _beside(cursor: Cursor, target: Target, rows: pa.Table) -> str:
    """A query for a shard's rows in the table's columns, key and kept ones as `rows` have them."""
    kept = [name for name, _ in target.table.kept]
    cursor.register("_kept", rows.select(["row_number", *(KEPT_PREFIX + name for name in kept)]))
    columns = [f"k.{identifier(KEPT_PREFIX + name)} AS {identifier(name)}" for name in kept]
    columns += [f"t.{identifier(name)}" for name, _ in target.table.columns[len(kept) :]]
    return (
        f"SELECT {', '.join(columns)} FROM {identifier(target.table.name)} t JOIN _kept k USING (row_number) "
        "WHERE t.shard_id = ?"
    )


def _take_over(cursor: Cursor, target: Target, shard_ids: Sequence[str], staging: str) -> None:
    old, num_kept = existing_columns(cursor, target.table.name), len(target.table.kept)
    columns = [
        identifier(name) if i >= num_kept or (name, kind) in old else "NULL"
        for i, (name, kind) in enumerate(target.table.columns)
    ]
    cursor.execute(
        f"INSERT INTO {identifier(staging)} SELECT {', '.join(columns)} FROM {identifier(target.table.name)} "
        "WHERE shard_id IN (SELECT unnest(?::VARCHAR[]))",
        [list(shard_ids)],
    )
