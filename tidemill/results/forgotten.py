"""Rows that were forgotten, recognized so that no later computing brings them back.

A row is known by the content of its shard and its place in there; and, where no
other row had its key, by a hash of the key, so that it is known in another
shard as well.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.formats import KEPT_PREFIX
from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.pipelines import Target
from tidemill.shards import PLACED, Shard


@dataclass(frozen=True)
class Forgotten:
    """What a pipeline has forgotten: rows of some contents by their place in there, and any row by its key's hash."""

    offsets: Mapping[str, Sequence[int]]
    key_hashes: frozenset[str]

    @classmethod
    def of(cls, cursor: Cursor, target: Target, shards: Sequence[Shard]) -> Forgotten:
        """As far as it concerns these shards, whichever columns of its folders were kept when a row was forgotten."""
        content = "split_part(content, $placed, 1)"
        known = cursor.execute(
            f"SELECT {content} AS content, row_offset, key_hash FROM _forgotten "
            f"WHERE (pipeline, {content}) IN (SELECT ($pipeline, unnest($contents::VARCHAR[]))) "
            "OR (pipeline, key_hash IS NOT NULL) = ($pipeline, true)",
            {"pipeline": target.pipeline, "contents": [*map(_content, shards)], "placed": PLACED},
        ).fetchall()
        offsets: dict[str, list[int]] = defaultdict(list)
        for name, offset, _ in known:
            if offset is not None:
                offsets[name].append(offset)
        return cls(offsets, frozenset(key_hash for _, _, key_hash in known if key_hash is not None))

    def left_out(
        self, target: Target, shard: Shard, rows: pa.Table, predictions: pa.Table
    ) -> tuple[pa.Table, pa.Table]:
        """A shard's rows and their predictions, in the same order, less those that are forgotten."""
        offsets = self.offsets.get(_content(shard), ())
        if not offsets and not self.key_hashes:
            return rows, predictions
        numbers = [offset + shard.slice.first_row for offset in offsets]
        stays = pc.invert(pc.is_in(predictions["row_number"], pa.array(numbers, predictions["row_number"].type)))
        if self.key_hashes and target.table.keys:
            names = [name for name, _ in target.table.keys]
            keys = rows.select([KEPT_PREFIX + name for name in names]).rename_columns(names)
            unknown = pa.array([key_hash not in self.key_hashes for key_hash in key_hashes(keys)], pa.bool_())
            stays = pc.and_(stays, pa.chunked_array([unknown]))
        return rows.filter(stays), predictions.filter(stays)


def _content(shard: Shard) -> str:
    return shard.slice.content.partition(PLACED)[0]


def key_hashes(keys: pa.Table) -> list[str | None]:
    """The hash of each row's key, as the quarantine writes keys; None where every part of it is null."""
    return [None if all(value is None for value in key.values()) else _key_hash(key) for key in keys.to_pylist()]


def _key_hash(key: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(key, default=str).encode()).hexdigest()


def forgotten_contents(cursor: Cursor, pipeline: str) -> frozenset[str]:
    """The contents of the slices of which rows were forgotten."""
    rows = cursor.execute("SELECT DISTINCT content FROM _forgotten WHERE pipeline = ?", [pipeline])
    return frozenset(content for (content,) in rows.fetchall())
