"""The answers that a version's table has to texts, as it would give them again: every result column, bit by bit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from tidemill.errors import PlaceUnusable
from tidemill.lake.checksums import changed_shards
from tidemill.lake.ducklake.connection import Cursor, Lake
from tidemill.lake.pipelines import Target
from tidemill.lake.tables import TEXT_HASH, identifier

_PLACE, _SHARD = "_place", "_former_shard"
_UNREADABLE = (duckdb.InvalidInputException, duckdb.IOException, PlaceUnusable)
"""What is raised where a data file is gone, broken or kept from this user."""


@dataclass(frozen=True)
class Answers:
    """`columns` has answers, and `index` says for each row which of them is its; null where none is."""

    index: pa.Array
    columns: pa.Table

    @classmethod
    def none(cls, num_rows: int) -> Answers:
        return cls(pa.nulls(num_rows, pa.int64()), pa.table({}))

    @property
    def is_known(self) -> np.ndarray:
        """Whether there is an answer, for each row."""
        known: np.ndarray = self.index.is_valid().to_numpy(zero_copy_only=False)
        return known


def find_answers(
    lake: Lake, target: Target, shard_ids: Sequence[str], hashes: pa.Array, names: Sequence[str]
) -> Answers:
    """The answers in some of the version's shards to texts; `names` are the columns of one.

    Texts are given by their hashes, as 16 bytes each, null where there is nothing to be found.
    A shard whose rows are not those that were committed gives none, and where a
    file cannot be read there are none: then they are computed.
    """
    if not shard_ids or hashes.null_count == len(hashes):
        return Answers.none(len(hashes))
    asked = hashes.dictionary_encode()
    try:
        with lake.reached(), lake.snapshot() as cursor:
            _name_asked(cursor, asked.dictionary)
            found = _sound(cursor, target, set(shard_ids), names)
    except _UNREADABLE:
        return Answers.none(len(hashes))
    place_of_hash = np.full(len(asked.dictionary), -1, dtype=np.int64)
    place_of_hash[found[_PLACE].to_numpy()] = np.arange(found.num_rows)
    is_asked = asked.indices.is_valid().to_numpy(zero_copy_only=False)
    places = np.full(len(hashes), -1, dtype=np.int64)
    places[is_asked] = place_of_hash[asked.indices.drop_null().to_numpy()]
    return Answers(pa.array(places, mask=places < 0), found.select(list(names)))


def has_answers(cursor: Cursor, pipeline: str, version: str) -> bool:
    """Whether any row of a version can be found by its text: those of an older Tidemill cannot.

    The ledger tells: it says only of shards whose rows have hashes how many of them were unchanged.
    """
    found = cursor.execute(
        "SELECT 1 FROM _ledger WHERE pipeline = ? AND version = ? AND num_unchanged IS NOT NULL LIMIT 1",
        [pipeline, version],
    ).fetchone()
    return found is not None


def are_answered(lake: Lake, table: str, shard_ids: Sequence[str], hashes: pa.Array) -> np.ndarray:
    """Whether some of a version's shards have an answer, for each text, given as for `find_answers`.

    Where a file cannot be read there are none.
    """
    if not shard_ids:
        return np.zeros(len(hashes), dtype=bool)
    asked = hashes.dictionary_encode()
    has_answer = np.zeros(len(asked.dictionary) + 1, dtype=bool)  # The last is that of a text that is null.
    try:
        with lake.reached(), lake.snapshot() as cursor:
            _name_asked(cursor, asked.dictionary)
            has_answer[_answered_places(cursor, table, shard_ids)] = True
    except _UNREADABLE:
        return np.zeros(len(hashes), dtype=bool)
    answered: np.ndarray = has_answer[asked.indices.fill_null(len(asked.dictionary)).to_numpy()]
    return answered


def _answered_places(cursor: Cursor, table: str, shard_ids: Sequence[str]) -> np.ndarray:
    places: np.ndarray = cursor.execute(
        f"SELECT DISTINCT a.{_PLACE} FROM {identifier(table)} t JOIN _asked a ON t.{TEXT_HASH} = a.hash "
        f"WHERE t.shard_id IN ({_listed(shard_ids)})"
    ).fetchnumpy()[_PLACE]
    return places


def _sound(cursor: Cursor, target: Target, shard_ids: Collection[str], names: Sequence[str]) -> pa.Table:
    """What is found in those of the shards that are as they were committed."""
    left = set(shard_ids)
    while True:
        found = _find(cursor, target, left, names)
        changed = changed_shards(cursor, target.pipeline, target.version, set(found[_SHARD].unique().to_pylist()))
        if not changed:
            return found
        left -= changed


def _find(cursor: Cursor, target: Target, shard_ids: Collection[str], names: Sequence[str]) -> pa.Table:
    """One answer a text, though several rows have it: always that of the same row."""
    columns = ", ".join(f"t.{identifier(name)}" for name in names)
    return cursor.execute(
        f"SELECT DISTINCT ON (a.{_PLACE}) a.{_PLACE}, t.shard_id AS {_SHARD}, {columns} "
        f"FROM {identifier(target.table.name)} t JOIN _asked a ON t.{TEXT_HASH} = a.hash "
        f"WHERE t.shard_id IN ({_listed(shard_ids)}) ORDER BY a.{_PLACE}, t.shard_id, t.row_number"
    ).to_arrow_table()


def _name_asked(cursor: Cursor, hashes: pa.Array) -> None:
    """As a table, for this cursor alone: DuckDB 1.5.5 fails where it would filter UUIDs within Arrow's own memory."""
    uuids = pa.ExtensionArray.from_storage(pa.uuid(), hashes)
    cursor.register("_incoming", pa.table({"hash": uuids, _PLACE: np.arange(len(hashes))}))
    cursor.execute("CREATE OR REPLACE TEMP TABLE _asked AS FROM _incoming")
    cursor.unregister("_incoming")


def _listed(shard_ids: Collection[str]) -> str:
    """As a list in SQL: DuckLake opens only files that may hold one of them, which it cannot tell of a query's rows."""
    return ", ".join(f"'{shard_id}'" for shard_id in sorted(shard_ids)) or "NULL"
