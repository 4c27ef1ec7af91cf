"""Which kept columns make slices, which are dates, which are texts: told by their types and by what is in them.

Keys are never slices, as each row has its own; neither are texts.
"""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.lake import Cursor, ResultTable
from tidemill.lake.tables import identifier

MOST_SLICES = 50
"""Distinct values of a column that makes slices, about: of more, each says little."""
LONGEST_NAME = 60
"""Characters of a value that is a name of something; what is longer is text."""
NAMES = ("VARCHAR", "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
MOMENTS = ("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS")


@dataclass(frozen=True)
class KeptColumns:
    """Names of kept columns, in the table's order."""

    slices: tuple[str, ...] = ()
    moments: tuple[tuple[str, str], ...] = ()
    """(name, type) of dates and times."""
    texts: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    """Those that may be shown beside a row: all but texts and what is nested."""


def look_at(cursor: Cursor, table: ResultTable, text_columns: frozenset[str] = frozenset()) -> KeptColumns:
    """One pass over the key and kept columns. `text_columns` are those that the model reads, whatever their values."""
    keys = {name for name, _ in table.keys}
    simple = [(name, kind) for name, kind in table.kept if _is_simple(kind)]
    found = _measured(cursor, table.pipeline, [name for name, kind in simple if kind in NAMES])
    slices, moments, texts, plain = [], [], [], []
    for name, kind in simple:
        num_distinct, longest = found.get(name, (0, 0))
        if name in text_columns or (kind == "VARCHAR" and longest > LONGEST_NAME):
            texts.append(name)
            continue
        plain.append(name)
        if kind in MOMENTS:
            moments.append((name, kind))
        elif name not in keys and 1 < num_distinct <= MOST_SLICES:
            slices.append(name)
    return KeptColumns(tuple(slices), tuple(moments), tuple(texts), tuple(plain))


def _is_simple(kind: str) -> bool:
    return not kind.endswith("]") and not kind.startswith(("STRUCT", "MAP", "UNION", "BLOB", "JSON"))


def _measured(cursor: Cursor, source: str, names: list[str]) -> dict[str, tuple[int, int]]:
    """Name → (distinct values, about; characters of the longest one)."""
    if not names:
        return {}
    asked = ", ".join(
        f"approx_count_distinct({identifier(name)}), coalesce(max(length({identifier(name)}::VARCHAR)), 0)"
        for name in names
    )
    row = cursor.execute(f"SELECT {asked} FROM {identifier(source)}").fetchall()[0]
    return {name: (row[2 * place], row[2 * place + 1]) for place, name in enumerate(names)}
