"""A query that leaves the lake whole: one statement that reads, whose columns have names of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tidemill.errors import ConfigError
from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.ducklake.reading import check_definitions, readable
from tidemill.lake.tables import identifier

_NESTED = {"list", "array", "struct", "map", "union"}


@dataclass(frozen=True)
class Query:
    """A statement that was judged; names of columns that came twice are `n`, `n_1`."""

    statement: str
    columns: tuple[str, ...]
    types: tuple[Any, ...]

    def text(self, *, nested_as_json: bool = False) -> str:
        """SQL that gives the columns by their names. Where lists, structs and maps are JSON, other programs read them
        in CSV too."""
        places = [
            f"to_json(#{number})" if nested_as_json and kind.id in _NESTED else f"#{number}"
            for number, kind in enumerate(self.types, start=1)
        ]
        named = [f"{place} AS {identifier(name)}" for place, name in zip(places, self.columns, strict=True)]
        return f"SELECT {', '.join(named)} FROM (\n{self.statement}\n)"


def judged(cursor: Cursor, query: str) -> Query:
    """
    Raises:
        ConfigError: it is more than one statement, or does more than read.
        duckdb.Error: it is not SQL, or does not fit the lake.
    """
    check_definitions(cursor, query)
    statements = readable(cursor, query)
    if len(statements) != 1 or not isinstance(statements[0], str):
        raise ConfigError(
            "Give one statement that reads. A PIVOT whose columns come from the data has to name its values: "
            "PIVOT ... ON column IN (...)."
        )
    statement = statements[0].strip().rstrip("; \n\t")
    relation = cursor.sql(f"FROM (\n{statement}\n)")
    return Query(statement, _unique(relation.columns), tuple(relation.types))


def _unique(names: list[str]) -> tuple[str, ...]:
    found: list[str] = []
    for name in names:
        number = 0
        unique = name
        while unique in found:
            number += 1
            unique = f"{name}_{number}"
        found.append(unique)
    return tuple(found)
