"""The label that a row should have, by an expression over its columns: `report.truth`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import _duckdb as duckdb  # As tidemill.lake.ducklake.connection does.

from tidemill.config import Report
from tidemill.errors import ConfigError
from tidemill.lake import Cursor, ResultTable
from tidemill.lake.ducklake.reading import check_expression, readable
from tidemill.lake.tables import identifier
from tidemill.pictures.figures.sql import literal


@dataclass(frozen=True)
class Truth:
    """`answer` and `truth` are SQL over the table's columns, both text; rows whose truth is NULL do not count."""

    declared: str
    answer: str
    truth: str

    def compared(self, source: str) -> str:
        """SQL: the rows that count, with `_answer` and `_truth` beside their columns."""
        return (
            f"(SELECT *, {self.answer} AS _answer, {self.truth} AS _truth FROM {source}) "
            "WHERE _truth IS NOT NULL AND _answer IS NOT NULL"
        )


def find_truth(
    cursor: Cursor, table: ResultTable, report: Report, labels: Sequence[str], highest: Callable[[], str | None]
) -> Truth | None:
    """What `report.truth` gives, to be held against the column `label`.

    Of a boolean, true means `report.positive`, or else the label that `highest` finds, and false the other label
    where there are two; where there are more, each answer counts as that label or as none.

    Raises:
        ConfigError: it fails, or it is a boolean and nobody says what true means.
    """
    if report.truth is None:
        return None
    if _kind(cursor, table, report.truth) != "BOOLEAN":
        return Truth(report.truth, "label", f"(({report.truth})::VARCHAR)")
    positive = report.positive or highest()
    if positive is None:
        raise ConfigError(
            f"report.truth = {report.truth!r} gives true or false, and which label true means is not known. Set "
            f"report.positive to one of: {', '.join(labels) or 'the labels of the model'}."
        )
    if labels and report.positive and positive not in labels:
        raise ConfigError(
            f"report.positive = {positive!r} is no label of the table. Its labels are: {', '.join(labels[:20])}."
        )
    return _of_boolean(report.truth, positive, [label for label in labels if label != positive])


def _of_boolean(declared: str, positive: str, others: Sequence[str]) -> Truth:
    yes, no = literal(positive), literal(others[0] if len(others) == 1 else f"not {positive}")
    answer = "label" if len(others) == 1 else f"if(label = {yes}, {yes}, {no})"
    return Truth(declared, answer, f"if(({declared}) IS NULL, NULL, if({declared}, {yes}, {no}))")


def _kind(cursor: Cursor, table: ResultTable, expression: str) -> str:
    check_expression(expression, "report.truth")
    try:
        (asked,) = readable(cursor, f"SELECT ({expression}) FROM {identifier(table.pipeline)} LIMIT 0")
        found = cursor.execute(asked).description
    except duckdb.Error as e:
        names = ", ".join(name for name, _ in table.shown)
        raise ConfigError(
            f"report.truth = {expression!r} fails: {e}\nThe table has the columns {names}. Correct report.truth."
        ) from e
    return str(found[0][1]) if found else ""
