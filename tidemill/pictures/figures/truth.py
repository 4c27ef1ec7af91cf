"""The label that a row should have, by an expression over its columns: `report.truth`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import _duckdb as duckdb  # As tidemill.lake.ducklake.connection does.

from tidemill.config import Report
from tidemill.errors import ConfigError
from tidemill.lake import Cursor, ResultTable
from tidemill.lake.ducklake.reading import check_expression, readable
from tidemill.lake.tables import MARKS_SUFFIX, existing_columns, identifier
from tidemill.reports.truth import labels_of_boolean

MARK = "mark"
"""What an expression calls the label that a person gave the row."""


@dataclass(frozen=True)
class Truth:
    """`answer` and `truth` are SQL over the table's columns, both text; rows whose truth is NULL do not count."""

    declared: str
    answer: str
    truth: str
    source: str
    """SQL: what has the columns that the expression names."""

    @property
    def names_marks(self) -> bool:
        return self.source.startswith("(")

    @property
    def compared(self) -> str:
        """SQL: the rows that count, with `_answer` and `_truth` beside their columns."""
        return (
            f"(SELECT *, {self.answer} AS _answer, {self.truth} AS _truth FROM {self.source}) "
            "WHERE _truth IS NOT NULL AND _answer IS NOT NULL"
        )


def find_truth(
    cursor: Cursor, table: ResultTable, report: Report, labels: Sequence[str], highest: Callable[[], str | None]
) -> Truth | None:
    """What `report.truth` gives, to be held against the column `label`; if it is not set, the marks that people made.

    In an expression, `mark` is the row's mark, where the table has no column of that name. Of a boolean, true means
    `report.positive`, or else the label that `highest` finds, and false the other label where there are two; where
    there are more, each answer counts as that label or as none.

    Raises:
        ConfigError: it fails, or it is a boolean and nobody says what true means.
    """
    declared = report.truth or (MARK if _has_marks(cursor, table) else None)
    if declared is None:
        return None
    check_expression(declared, "report.truth")
    source = _with_marks(table) if _names_marks(declared, table) else identifier(table.pipeline)
    if _kind(cursor, table, declared, source) != "BOOLEAN":
        return Truth(declared, "label", f"(({declared})::VARCHAR)", source)
    positive = report.positive or highest()
    if positive is None:
        raise ConfigError(
            f"report.truth = {declared!r} gives true or false, and which label true means is not known. Set "
            f"report.positive to one of: {', '.join(labels) or 'the labels of the model'}."
        )
    if labels and report.positive and positive not in labels:
        raise ConfigError(
            f"report.positive = {positive!r} is no label of the table. Its labels are: {', '.join(labels[:20])}."
        )
    said, right = labels_of_boolean(positive, labels)
    return Truth(declared, said("label"), right(declared), source)


def _has_marks(cursor: Cursor, table: ResultTable) -> bool:
    view = identifier(f"{table.pipeline}{MARKS_SUFFIX}")
    if not _names_marks(MARK, table) or not existing_columns(cursor, f"{table.pipeline}{MARKS_SUFFIX}"):
        return False
    return bool(cursor.execute(f"FROM {view} LIMIT 1").fetchall())


def _names_marks(declared: str, table: ResultTable) -> bool:
    return MARK not in dict(table.shown) and re.search(rf"\b{MARK}\b", declared, re.IGNORECASE) is not None


def _with_marks(table: ResultTable) -> str:
    marks = f"SELECT shard_id, row_number, label AS {MARK} FROM {identifier(table.pipeline + MARKS_SUFFIX)}"
    return f"(FROM {identifier(table.pipeline)} LEFT JOIN ({marks}) USING (shard_id, row_number))"


def _kind(cursor: Cursor, table: ResultTable, expression: str, source: str) -> str:
    try:
        (asked,) = readable(cursor, f"SELECT ({expression}) FROM {source} LIMIT 0")
        found = cursor.execute(asked).description
    except duckdb.Error as e:
        names = ", ".join(name for name, _ in table.shown)
        raise ConfigError(
            f"report.truth = {expression!r} fails: {e}\nThe table has the columns {names}. Correct report.truth."
        ) from e
    return str(found[0][1]) if found else ""
