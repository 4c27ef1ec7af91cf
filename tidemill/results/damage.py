"""Data files that are gone or cannot be trusted: they leave the tables unread, and their shards with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from tidemill.errors import LakeError
from tidemill.lake.data_files import DataFile, data_files
from tidemill.lake.ducklake.connection import CATALOG, Cursor, Lake
from tidemill.results.retirement import remove_shards
from tidemill.results.verify import GONE, Damage

IRREPLACEABLE = frozenset({"_layout", "_pipelines", "_versions", "_backfills", "_forgotten", "_marks"})
"""System tables whose rows nothing else knows, and without which the others mean something else."""


def set_aside(lake: Lake, damages: Sequence[Damage]) -> dict[str, set[str]]:
    """Take damaged files, and all that is left of the shards in them, out of the tables; table → the shards that left.

    Snapshots that are older still name the files; `gc` removes them with those.

    Raises:
        LakeError: the lake cannot do without one of them, or none of its files is there.
    """
    if not damages:
        return {}
    _refuse_what_cannot_be_replaced(lake, damages)
    with lake.locked():
        _end_files(lake.cursor(), [damage.file for damage in damages])
    left = _shards_of(lake.cursor(), damages)
    for table, shard_ids in left.items():
        remove_from(lake, table, shard_ids)
    return left


def remove_from(lake: Lake, table: str, shard_ids: Iterable[str]) -> None:
    """Remove shards from a version's table, its ledger and its quarantine, or from a table that is being rewritten.

    What asked for them asks for them again.
    """
    pipeline, version, *rewritten = table.split("__")
    gone = sorted(shard_ids)

    def body(cursor: Cursor) -> None:
        if rewritten:
            cursor.execute(f'DELETE FROM "{table}" WHERE shard_id IN (SELECT unnest(?::VARCHAR[]))', [gone])
        else:
            remove_shards(cursor, pipeline, version, gone, wanted_still=True)

    if gone:
        lake.write(body, message=f"take damaged shards out of {table}")


def _refuse_what_cannot_be_replaced(lake: Lake, damages: Sequence[Damage]) -> None:
    if lost := sorted({damage.file.table for damage in damages} & IRREPLACEABLE):
        raise LakeError(
            f"Files of {', '.join(lost)} are damaged, which nothing can bring back but a backup of the lake: "
            "see docs/operations.md#backup."
        )
    num_files = len(data_files(lake.cursor()))
    if num_files > 1 and len([damage for damage in damages if damage.why == GONE]) == num_files:
        raise LakeError(f"None of the lake's files is in {lake.data}. Check that the place is there, and lake.data.")


def _shards_of(cursor: Cursor, damages: Sequence[Damage]) -> dict[str, set[str]]:
    """Result table → the shards of its damaged files that the table still has to show."""
    left: dict[str, set[str]] = defaultdict(set)
    for damage in damages:
        if not damage.file.table.startswith("_"):
            left[damage.file.table] |= damage.shard_ids
    return left


def _end_files(cursor: Cursor, files: Sequence[DataFile]) -> None:
    """Make a snapshot in which files are no more, as DuckLake does with one whose last row was deleted.

    A `DELETE` would open them first, so this writes to the catalog itself what
    DuckLake's specification says of deleting a file. The caller holds the lock.
    """
    names = sorted({file.rows_path.rpartition("/")[2] for file in files})
    at = {"names": names}
    cursor.execute("BEGIN")
    ended = cursor.execute(
        f"SELECT data_file_id, table_id FROM {CATALOG}.ducklake_data_file "
        "WHERE end_snapshot IS NULL AND parse_filename(path) IN (SELECT unnest($names::VARCHAR[]))",
        at,
    ).fetchall()
    cursor.execute(
        f"INSERT INTO {CATALOG}.ducklake_snapshot SELECT snapshot_id + 1, now(), schema_version, next_catalog_id, "
        f"next_file_id FROM {CATALOG}.ducklake_snapshot ORDER BY snapshot_id DESC LIMIT 1"
    )
    ((snapshot,),) = cursor.execute(f"SELECT max(snapshot_id) FROM {CATALOG}.ducklake_snapshot").fetchall()
    changes = ",".join(f"deleted_from_table:{table_id}" for table_id in sorted({table_id for _, table_id in ended}))
    cursor.execute(
        f"INSERT INTO {CATALOG}.ducklake_snapshot_changes VALUES (?, ?, 'tidemill', 'set damaged files aside', NULL)",
        [snapshot, changes],
    )
    for kind in ("data", "delete"):
        cursor.execute(
            f"UPDATE {CATALOG}.ducklake_{kind}_file SET end_snapshot = ? "
            "WHERE end_snapshot IS NULL AND data_file_id IN (SELECT unnest(?::BIGINT[]))",
            [snapshot, [file_id for file_id, _ in ended]],
        )
    cursor.execute("COMMIT")
