"""The label that a row should have, by an expression over its columns: `report.truth`."""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.config import Report
from tidemill.errors import ConfigError
from tidemill.lake import Cursor, ResultTable
from tidemill.lake.tables import identifier
from tidemill.pictures.sql import literal

_AT = "report.truth"


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


def find_truth(cursor: Cursor, table: ResultTable, report: Report, labels: list[str]) -> Truth | None:
    """What `report.truth` gives, held against the column `label`.

    Of a boolean, true means `report.positive`. Where a table has two labels, false means the other one; where it
    has more, each answer counts as positive or not.

    Raises:
        ConfigError: it fails, or it is a boolean and nobody says what true means.
    """
    if report.truth is None:
        return None
    if _kind(cursor, table, report.truth) != "BOOLEAN":
        return Truth(report.truth, "label", f"(({report.truth})::VARCHAR)")
    positive = report.positive
    if positive is None:
        raise ConfigError(
            f"{_AT} = {report.truth!r} gives true or false, and the label that true means is not known. Set "
            f"report.positive to one of: {', '.join(labels) or 'the labels of the model'}."
        )
    others = [label for label in labels if label != positive]
    named = others[0] if len(others) == 1 else f"not {positive}"
    yes, no = literal(positive), literal(named)
    answer = "label" if len(others) == 1 else f"CASE WHEN label = {yes} THEN {yes} ELSE {no} END"
    return Truth(report.truth, answer, f"CASE ({report.truth}) WHEN true THEN {yes} WHEN false THEN {no} END")


def _kind(cursor: Cursor, table: ResultTable, expression: str) -> str:
    import _duckdb as duckdb

    try:
        found = cursor.execute(f"SELECT (\n{expression}\n) FROM {identifier(table.pipeline)} LIMIT 0").description
    except duckdb.Error as e:
        names = ", ".join(name for name, _ in table.shown)
        raise ConfigError(f"{_AT} = {expression!r} fails: {e}. The table has the columns {names}.") from e
    return str(found[0][1]) if found else ""
