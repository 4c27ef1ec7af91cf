"""What a pipeline's table holds of a row, by its key, or by its place where rows have no key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb

from tidemill.errors import InputError, counted
from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.tables import ResultTable, identifier

MOST_ROWS = 100
"""Of one key: keys need not be unique."""


def rows_by_key(cursor: Cursor, table: ResultTable, key: Sequence[Any]) -> list[dict[str, Any]]:
    """The rows that the pipeline's view shows of this key, a value for each key column.

    Where the table has no key, a row is known by its file's path and its number in it.

    Raises:
        InputError: the key has another number of values, or one of another type.
    """
    names = [name for name, _ in table.keys] or ["path", "row_number"]
    if len(key) != len(names):
        raise InputError(
            f"The key of {table.pipeline} is {', '.join(names)}: give {counted(len(names), 'value')}"
            f"{', as a JSON list' if len(names) > 1 else ''}."
        )
    columns = ", ".join(identifier(name) for name, _ in table.shown)
    condition, given = _condition(table, key)
    try:
        found = cursor.execute(
            f"SELECT {columns} FROM {identifier(table.pipeline)} WHERE {condition} "
            f"ORDER BY shard_id, row_number LIMIT {MOST_ROWS}",
            given,
        )
        described = [column[0] for column in found.description or []]
        return [dict(zip(described, row, strict=True)) for row in found.fetchall()]
    except duckdb.ConversionException as e:
        raise InputError(f"The key's values are not of the types of {', '.join(names)}.") from e


def _condition(table: ResultTable, key: Sequence[Any]) -> tuple[str, list[str]]:
    given = [str(value) for value in key]
    if table.keys:
        return " AND ".join(f"{identifier(name)} = CAST(? AS {kind})" for name, kind in table.keys), given
    shards = "SELECT shard_id FROM _target_shards WHERE pipeline = ? AND path = ?"
    return f"shard_id IN ({shards}) AND row_number = CAST(? AS BIGINT)", [table.pipeline, *given]
