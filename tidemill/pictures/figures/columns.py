"""Which kept columns make slices, which are dates, which are texts: told by their types and by what is in them.

Keys are never slices, as each row has its own; neither are texts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from tidemill.lake import Cursor, ResultTable
from tidemill.lake.tables import identifier

MOST_SLICES = 50
"""Distinct values of a column that makes slices, about: of more, each says little."""
LONGEST_NAME = 60
"""Characters of a value that is a name of something; what is longer is text."""
NAMES = ("VARCHAR", "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
MOMENTS = ("DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS")
ZONED = "TIMESTAMP WITH TIME ZONE"
NESTED = ("STRUCT", "MAP", "UNION", "BLOB", "JSON")


class Moment(NamedTuple):
    """A column of dates or times, or of texts that all are."""

    name: str
    moment: str
    """SQL: its date or time."""
    is_zoned: bool


@dataclass(frozen=True)
class KeptColumns:
    """Names of key and kept columns, in the table's order."""

    slices: tuple[str, ...] = ()
    moments: tuple[Moment, ...] = ()
    texts: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    """Those that may be shown beside a row: all but texts and what is nested."""

    def without(self, names: Collection[str]) -> KeptColumns:
        return KeptColumns(
            tuple(name for name in self.slices if name not in names),
            tuple(moment for moment in self.moments if moment.name not in names),
            tuple(name for name in self.texts if name not in names),
            tuple(name for name in self.plain if name not in names),
        )


class _Measured(NamedTuple):
    num_distinct: int
    """About."""
    longest: int
    """Characters."""
    are_dates: bool


def look_at(cursor: Cursor, table: ResultTable, text_columns: frozenset[str] = frozenset()) -> KeptColumns:
    """One pass over the key and kept columns. `text_columns` are those that the model reads, whatever their values."""
    keys = {name for name, _ in table.keys}
    simple = [(name, kind) for name, kind in table.kept if not kind.endswith("]") and not kind.startswith(NESTED)]
    found = _measure(cursor, table.pipeline, [column for column in simple if column[1] in NAMES])
    texts = [name for name, _ in simple if name in text_columns or _is_text(found.get(name))]
    plain = [(name, kind) for name, kind in simple if name not in texts]
    others = [(name, kind) for name, kind in plain if name not in keys]
    moments = [moment for name, kind in others if (moment := _moment(name, kind, found.get(name)))]
    dated = {moment.name for moment in moments}
    slices = [name for name, _ in others if name not in dated and _makes_slices(found.get(name))]
    return KeptColumns(tuple(slices), tuple(moments), tuple(texts), tuple(name for name, _ in plain))


def _is_text(found: _Measured | None) -> bool:
    return found is not None and found.longest > LONGEST_NAME


def _makes_slices(found: _Measured | None) -> bool:
    return found is not None and 1 < found.num_distinct <= MOST_SLICES


def _moment(name: str, kind: str, found: _Measured | None) -> Moment | None:
    column = identifier(name)
    if kind in MOMENTS or kind == ZONED:
        return Moment(name, column, kind == ZONED)
    return Moment(name, f"try_cast({column} AS TIMESTAMP)", False) if found and found.are_dates else None


def _measure(cursor: Cursor, source: str, columns: list[tuple[str, str]]) -> dict[str, _Measured]:
    if not columns:
        return {}
    asked = ", ".join(_measures(identifier(name), kind) for name, kind in columns)
    values = iter(cursor.execute(f"SELECT {asked} FROM {identifier(source)}").fetchall()[0])
    return {name: _Measured(next(values), next(values), next(values)) for name, _ in columns}


def _measures(column: str, kind: str) -> str:
    length = f"coalesce(max(length({column})), 0)" if kind == "VARCHAR" else "0"
    dates = f"coalesce(bool_and(try_cast({column} AS TIMESTAMP) IS NOT NULL) FILTER ({column} IS NOT NULL), false)"
    return f"approx_count_distinct({column}), {length}, {dates if kind == 'VARCHAR' else 'false'}"
