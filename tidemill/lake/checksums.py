"""What a shard's rows add up to: noted beside the shard, and reckoned again from the rows by whoever doubts them.

A row's hash is of all its columns, and a shard's checksum the sum of its rows'
hashes modulo 2^63. So the order of rows does not matter, a row that is there
twice does not cancel, and rows that come or go change the sum by their own
hashes: nobody vouches for the others by reading them again. DuckDB may hash
otherwise in another release, so each checksum says which one made it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import duckdb
import pyarrow as pa

from tidemill.errors import InvariantBroken
from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.tables import TEXT_HASH, existing_columns, identifier, table_name

METHOD = f"duckdb {duckdb.__version__}"
_MODULUS = 2**63


def checksum_of(columns: Sequence[tuple[str, str]]) -> str:
    """SQL: the checksum of rows with these columns, as the values of these types that the table keeps.

    A row without a text's hash has the checksum that it had before there were any.
    """
    values = ", ".join(f"CAST({identifier(name)} AS {kind})" for name, kind in columns if name != TEXT_HASH)
    of_row = f"hash({values})"
    if TEXT_HASH in dict(columns):
        text_hash = f"CAST({identifier(TEXT_HASH)} AS UUID)"
        of_row = f"xor({of_row}, CASE WHEN {text_hash} IS NULL THEN 0::UBIGINT ELSE hash({text_hash}) END)"
    return f"(coalesce(sum({of_row}), 0) % {_MODULUS})::BIGINT"


def checksum_with(amount: str) -> str:
    """SQL: the checksum of a ledger row to which rows came whose own is `amount`; of rows that left, its negative.

    NULL where it was made another way: then it waits for `fill_checksums`.
    """
    return (
        f"CASE WHEN checksum_by = '{METHOD}' "
        f"THEN ((checksum::HUGEINT + {amount} + {_MODULUS}) % {_MODULUS})::BIGINT END"
    )


def checksum_of_rows(cursor: Cursor, columns: Sequence[tuple[str, str]], rows: pa.Table) -> int:
    """The checksum of rows that are about to be written to a table with these columns."""
    cursor.register("_incoming", rows)
    found: int = cursor.execute(f"SELECT {checksum_of(columns)} FROM _incoming").fetchall()[0][0]
    cursor.unregister("_incoming")
    return found


def checksums_of_shards(cursor: Cursor, columns: Sequence[tuple[str, str]], rows: pa.Table) -> dict[str, int]:
    """shard id → the checksum of its rows, of those that have some, among rows that are about to be written."""
    cursor.register("_incoming", rows)
    found = cursor.execute(f"SELECT shard_id, {checksum_of(columns)} FROM _incoming GROUP BY shard_id").fetchall()
    cursor.unregister("_incoming")
    return dict(found)


def checksums_in(cursor: Cursor, table: str, rows: str = "true") -> str:
    """SQL: (shard_id, actual) of each shard in a result table, of those of its rows for which `rows` holds."""
    columns = existing_columns(cursor, table)
    return f"SELECT shard_id, {checksum_of(columns)} AS actual FROM {identifier(table)} WHERE {rows} GROUP BY shard_id"


def refuse_changed_rows(cursor: Cursor, pipeline: str, version: str, *shard_ids: str) -> None:
    """Before shards' rows are taken over elsewhere.

    Raises:
        InvariantBroken: those of one are not those that were committed.
    """
    theirs = "shard_id IN (SELECT unnest($shards::VARCHAR[]))"
    actual = checksums_in(cursor, table_name(pipeline, version), theirs)
    wrong = cursor.execute(
        f"SELECT l.path, l.shard_id FROM _ledger l LEFT JOIN ({actual}) r USING (shard_id) "
        f"WHERE l.pipeline = $pipeline AND l.version = $version AND l.{theirs} "
        f"AND l.checksum_by = '{METHOD}' AND l.checksum <> coalesce(r.actual, 0) ORDER BY ALL LIMIT 1",
        {"pipeline": pipeline, "version": version, "shards": list(shard_ids)},
    ).fetchone()
    if wrong:
        raise InvariantBroken(
            f"{wrong[0]}: the rows of shard {wrong[1]} are not those that were committed. "
            "`tidemill repair` computes them again."
        )


def fill_checksums(cursor: Cursor, pipeline: str, version: str) -> int:
    """Let the ledger vouch for the rows as they are, where a shard has no checksum of `METHOD`'s; how many."""
    unsummed = f"checksum_by IS DISTINCT FROM '{METHOD}'"
    return set_checksums(cursor, pipeline, version, table_name(pipeline, version), unsummed)


def set_checksums(cursor: Cursor, pipeline: str, version: str, table: str, shards: str = "true") -> int:
    """Let the ledger vouch for the rows that lie in `table` now, of those shards for which `shards` holds; how many."""
    changed = cursor.execute(
        f"UPDATE _ledger SET checksum = coalesce((SELECT r.actual FROM ({checksums_in(cursor, table)}) r "
        f"WHERE r.shard_id = _ledger.shard_id), 0), checksum_by = '{METHOD}' "
        f"WHERE pipeline = ? AND version = ? AND {shards}",
        [pipeline, version],
    ).fetchone()
    return int(changed[0]) if changed else 0


def changed_shards(cursor: Cursor, pipeline: str, version: str, shard_ids: Collection[str]) -> set[str]:
    """Those of a version's shards whose rows are not those that were committed."""
    named = ", ".join(f"'{shard_id}'" for shard_id in sorted(shard_ids))
    if not named:
        return set()
    actual = checksums_in(cursor, table_name(pipeline, version), f"shard_id IN ({named})")
    rows = cursor.execute(
        f"SELECT l.shard_id FROM _ledger l LEFT JOIN ({actual}) r USING (shard_id) WHERE l.pipeline = ? "
        f"AND l.version = ? AND l.shard_id IN ({named}) "
        f"AND l.checksum_by = '{METHOD}' AND l.checksum <> coalesce(r.actual, 0)",
        [pipeline, version],
    ).fetchall()
    return {shard_id for (shard_id,) in rows}
