"""The right labels that people gave rows: `_marks`, and `<pipeline>_marks`, which shows a pipeline's part of it.

A row has one mark at most. It is a row's place, shard and row number, as in every
version's table. Its key and the hash of its text find the row again where its file
changes; where they do not, the mark stays, and is of no row until the row is back.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tidemill.errors import ConfigError
from tidemill.lake.ducklake.connection import Cursor, Lake
from tidemill.lake.pipelines import load_state
from tidemill.lake.tables import TEXT_HASH, existing_columns, identifier, insert_records, records, table_name

MARKED = "SELECT shard_id, row_number, label AS mark FROM _marks WHERE pipeline = ?"
"""A query, to be joined: the marks of a pipeline by their places."""
_SHARDS = "shard_id IN (SELECT unnest(?::VARCHAR[]))"


class Place(NamedTuple):
    """Names a row in every version's table."""

    shard_id: str
    row_number: int


def set_marks(lake: Lake, pipeline: str, labels: dict[Place, str | None], *, keys: Sequence[str] = (), who: str) -> int:
    """Give rows of the promoted version's table their right labels, or take a mark back (None), in one transaction.

    A row's former mark is replaced. `keys` are the table's key columns.

    Raises:
        ConfigError: one of the rows is not in the table; nothing is written then.
    """

    def body(cursor: Cursor) -> int:
        rows = _rows_at(cursor, pipeline, list(labels), keys)
        if missing := [place for place in labels if place not in rows]:
            raise ConfigError(
                f"{pipeline} has no row {missing[0].row_number} in shard {missing[0].shard_id}: it has left the table. "
                "Read the table again, then mark the row."
            )
        _delete(cursor, pipeline, list(labels))
        now = datetime.now(UTC)
        marked = [(rows[place], label) for place, label in labels.items() if label is not None]
        insert_records(
            cursor, "_marks", [{**row, "label": label, "who": who, "marked_at": now} for row, label in marked]
        )
        return len(marked)

    return lake.write(body, message=f"mark rows of {pipeline}", author=who)


def labels_at(cursor: Cursor, pipeline: str, places: Sequence[Place]) -> dict[Place, str]:
    """Those of the rows that are marked, and their right labels."""
    rows = cursor.execute(
        f"SELECT shard_id, row_number, label FROM _marks WHERE pipeline = ? AND {_SHARDS}",
        [pipeline, [place.shard_id for place in places]],
    ).fetchall()
    wanted = set(places)
    return {Place(shard, number): label for shard, number, label in rows if (shard, number) in wanted}


def num_marks(cursor: Cursor, pipeline: str) -> int:
    return int(cursor.execute("SELECT count(*) FROM _marks WHERE pipeline = ?", [pipeline]).fetchall()[0][0])


def num_marks_since(cursor: Cursor, pipeline: str, since: datetime) -> int:
    """Marks that were given later, those that replaced another one among them."""
    asked = "SELECT count(*) FROM _marks WHERE pipeline = ? AND marked_at > ?"
    return int(cursor.execute(asked, [pipeline, since]).fetchall()[0][0])


def marked_labels(cursor: Cursor, pipeline: str) -> list[str]:
    """All labels that people gave, most used first."""
    rows = cursor.execute(
        "SELECT label FROM _marks WHERE pipeline = ? GROUP BY label ORDER BY count(*) DESC, label", [pipeline]
    ).fetchall()
    return [label for (label,) in rows]


def carry_marks(cursor: Cursor, pipeline: str, version: str, gone: Sequence[str] = ()) -> None:
    """Let marks follow rows to other shards: those of the shards `gone`, which are about to leave the promoted
    version's table, and those of shards that have left it.

    A row is the same where its key and its text are. Nothing is done for another version.
    """
    if not cursor.execute("FROM _marks WHERE pipeline = ? LIMIT 1", [pipeline]).fetchall():
        return
    state = load_state(cursor, pipeline)
    if state is None or state.promoted_version != version:
        return
    left = records(
        cursor,
        "SELECT * REPLACE (text_hash::VARCHAR AS text_hash) FROM _marks "
        f"WHERE pipeline = ? AND text_hash IS NOT NULL AND ({_SHARDS} OR shard_id NOT IN ("
        "SELECT shard_id FROM _ledger WHERE (pipeline, version) = (?, ?) UNION ALL "
        "SELECT shard_id FROM _target_shards WHERE pipeline = ?)) ORDER BY path, row_number",
        [pipeline, [*gone], pipeline, version, pipeline],
    )
    if not left:
        return
    found = _rows_like(cursor, pipeline, left)
    here = {Place(row["shard_id"], row["row_number"]) for rows in found.values() for row in rows}
    taken = set(labels_at(cursor, pipeline, list(here))) | {place for place in here if place.shard_id in gone}
    for mark in left:
        same = [row for row in found[mark["text_hash"], mark["key"]] if _place_of(row) not in taken]
        if same:
            nearest = min(same, key=lambda row: (row["path"] != mark["path"], row["row_number"]))
            taken.add(_place_of(nearest))
            _delete(cursor, pipeline, [_place_of(mark)])
            insert_records(cursor, "_marks", [{**mark, **nearest}])


def _place_of(row: dict[str, Any]) -> Place:
    return Place(row["shard_id"], row["row_number"])


def _delete(cursor: Cursor, pipeline: str, places: Sequence[Place]) -> None:
    for place in places:
        cursor.execute("DELETE FROM _marks WHERE (pipeline, shard_id, row_number) = (?, ?, ?)", [pipeline, *place])


def _rows_at(
    cursor: Cursor, pipeline: str, places: Sequence[Place], keys: Sequence[str]
) -> dict[Place, dict[str, Any]]:
    """What a mark says of the rows at these places, where they are in the promoted version's table."""
    condition = f"{_SHARDS} AND row_number IN (SELECT unnest(?::BIGINT[]))"
    values = [[place.shard_id for place in places], [place.row_number for place in places]]
    rows = {_place_of(row): row for row in _rows(cursor, pipeline, keys, condition, values)}
    return {place: rows[place] for place in places if place in rows}


def _rows_like(
    cursor: Cursor, pipeline: str, marks: Sequence[dict[str, Any]]
) -> defaultdict[tuple[Any, str | None], list[dict[str, Any]]]:
    """By hash of the text and key: the rows of the promoted version's table that have those of a mark.

    Which columns are the key, the marks say themselves: the lake has no other record of it.
    """
    hashes = defaultdict(list)
    for mark in marks:
        hashes[tuple(json.loads(mark["key"])) if mark["key"] else ()].append(mark["text_hash"])
    found = defaultdict(list)
    for keys, wanted in hashes.items():
        for row in _rows(cursor, pipeline, keys, f"{TEXT_HASH} IN (SELECT unnest(?::UUID[]))", [wanted]):
            found[row["text_hash"], row["key"]].append(row)
    return found


def _rows(
    cursor: Cursor, pipeline: str, keys: Sequence[str], condition: str, values: Sequence[Any]
) -> list[dict[str, Any]]:
    state = load_state(cursor, pipeline)
    if state is None:
        return []
    table = table_name(pipeline, state.promoted_version)
    if not {*keys} <= {name for name, _ in existing_columns(cursor, table)}:
        return []
    own = ["shard_id", "row_number", f"{TEXT_HASH}::VARCHAR AS {TEXT_HASH}", *map(identifier, keys)]
    asked = f"SELECT {', '.join(own)} FROM {identifier(table)} WHERE {condition}"
    rows = cursor.execute(asked, values).to_arrow_table().to_pylist()
    paths = _paths(cursor, pipeline, state.promoted_version, {row["shard_id"] for row in rows})
    return [
        {
            "pipeline": pipeline,
            "shard_id": row["shard_id"],
            "path": paths.get(row["shard_id"]),
            "row_number": row["row_number"],
            "key": json.dumps({name: row[name] for name in keys}, default=str) if keys else None,
            "text_hash": row[TEXT_HASH],
        }
        for row in rows
    ]


def _paths(cursor: Cursor, pipeline: str, version: str, shard_ids: set[str]) -> dict[str, str]:
    rows = cursor.execute(
        f"SELECT shard_id, path FROM _ledger WHERE pipeline = ? AND version = ? AND {_SHARDS}",
        [pipeline, version, sorted(shard_ids)],
    ).fetchall()
    return dict(rows)
