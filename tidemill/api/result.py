"""The rows that a query gave, in whichever form its reader works with."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import _duckdb as duckdb  # As tidemill.lake.ducklake.connection does.

from tidemill.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa


class Result:
    """Rows of one snapshot of a lake, held in memory: the lake may change or go, and they stay.

    A column whose name occurs before has a number behind it: `n`, `n_1`.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table.rename_columns(_unique(table.column_names))

    @property
    def columns(self) -> list[str]:
        names: list[str] = self._table.column_names
        return names

    def arrow(self) -> pa.Table:
        """The rows as a PyArrow table, whose buffers are shared and not copied."""
        return self._table

    def df(self) -> Any:
        """The rows as a pandas DataFrame, of the types that DuckDB gives one.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas  # noqa: F401
        except ImportError as e:
            raise InputError("pandas is not installed: pip install pandas, or take .arrow().") from e
        return self._relation.df()

    def pl(self) -> Any:
        """The rows as a Polars DataFrame.

        Raises:
            InputError: Polars is not installed.
        """
        try:
            import polars
        except ImportError as e:
            raise InputError("Polars is not installed: pip install polars, or take .arrow() or .df().") from e
        return polars.from_arrow(self._table)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Every row as a tuple of Python's values, in order."""
        rows: list[tuple[Any, ...]] = self._relation.fetchall()
        return rows

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.fetchall())

    def __len__(self) -> int:
        num_rows: int = self._table.num_rows
        return num_rows

    def __repr__(self) -> str:
        return str(self._relation) if self.columns else "no columns"

    @property
    def _relation(self) -> duckdb.DuckDBPyRelation:
        return self._connection.from_arrow(self._table)

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        """A database of its own, in memory, whose one thread keeps the rows in order."""
        return duckdb.connect(config={"threads": "1"})


def _unique(names: Sequence[str]) -> list[str]:
    """DuckDB takes names for the same that differ in case only."""
    found: dict[str, str] = {}
    for name in names:
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        new = next(one for one in itertools.chain([name], numbered) if one.lower() not in found)
        found[new.lower()] = new
    return list(found.values())
