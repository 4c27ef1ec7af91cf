"""What somebody asks of rows, as SQL over the table's columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tidemill.errors import ConfigError
from tidemill.lake import Cursor, ResultTable
from tidemill.lake.ducklake.reading import check_condition, check_is_boolean
from tidemill.lake.tables import identifier

Operator = Literal["is", "is not", "contains", "at least", "at most", "is empty"]
ANY = "any"
"""What stands for no label or column."""
_COMPARED = {"is": "=", "is not": "<>", "at least": ">=", "at most": "<="}


@dataclass(frozen=True)
class Filter:
    """Which rows are shown; all where nothing is said. `condition` is the user's own SQL."""

    label: str | None = None
    least: float | None = None
    most: float | None = None
    search: str = ""
    column: str | None = None
    operator: Operator = "is"
    value: str = ""
    condition: str = ""

    @property
    def is_empty(self) -> bool:
        return self == Filter()

    def to_sql(self, cursor: Cursor, table: ResultTable) -> tuple[str, list[object]]:
        """The condition, and the values of its parameters.

        Raises:
            ConfigError: the table has no such column, or `condition` is no condition over its columns.
        """
        parts: list[str] = []
        values: list[object] = []
        if self.label is not None:
            parts.append("label = ?")
            values.append(self.label)
        for bound, operator in ((self.least, ">="), (self.most, "<=")):
            if bound is not None:
                parts.append(f"score {operator} ?::FLOAT")  # As SQL reads a number there: 0.52 is the FLOAT.
                values.append(bound)
        if self.search:
            searched = [f"contains(lower({identifier(name)}), lower(?))" for name in text_columns(table)]
            parts.append(f"({' OR '.join(searched) or 'false'})")
            values += [self.search] * len(searched)
        if self.column is not None:
            part, value = self._of_column(table)
            parts.append(part)
            values += value
        if self.condition.strip():
            parts.append(self._checked(cursor, table))
        return " AND ".join(parts) or "true", values

    def _of_column(self, table: ResultTable) -> tuple[str, list[object]]:
        kinds = dict(table.shown)
        if self.column not in kinds:
            raise ConfigError(f"{table.pipeline} has no column {self.column}. It has: {', '.join(kinds)}.")
        column = identifier(self.column)
        if self.operator == "is empty":
            return f"{column} IS NULL", []
        if self.operator == "contains":
            return f"contains(lower({column}::VARCHAR), lower(?))", [self.value]
        # As the column's own type, so that DuckLake can leave out files by their bounds.
        return f"{column} {_COMPARED[self.operator]} CAST(? AS {kinds[self.column]})", [self.value]

    def _checked(self, cursor: Cursor, table: ResultTable) -> str:
        check_condition(self.condition)
        check_is_boolean(cursor, f"SELECT * FROM {identifier(table.name)}", self.condition)
        return f"(\n{self.condition}\n)"


def text_columns(table: ResultTable) -> list[str]:
    """The columns that are searched: texts, but for what Tidemill itself says of a row."""
    return [name for name, kind in (*table.kept, *table.results) if kind == "VARCHAR" and name != "label"]


def filter_of(
    search: str,
    label: str | None,
    least: str,
    most: str,
    column: str | None,
    operator: Operator,
    value: str,
    condition: str,
) -> Filter:
    """What the fields of a form say.

    Raises:
        ConfigError: a score is no number.
    """
    return Filter(
        None if label in (None, ANY) else label,
        _score(least),
        _score(most),
        (search or "").strip(),
        None if column in (None, ANY) else column,
        operator,
        value or "",
        condition or "",
    )


def _score(written: str) -> float | None:
    try:
        return float(written) if (written or "").strip() else None
    except ValueError:
        raise ConfigError(f"A score is a number, and {written!r} is none. Write one such as 0.5.") from None
