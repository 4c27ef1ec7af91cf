"""What figures are made of: one version's table, its columns by what they are good for, and what the user asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from tidemill.config import Pipeline
from tidemill.lake import Cursor, ResultTable
from tidemill.lake.tables import identifier
from tidemill.models.task import Family
from tidemill.pictures.columns import KeptColumns
from tidemill.pictures.truth import Truth


@dataclass(frozen=True)
class Subject:
    """The promoted version of a pipeline, in one snapshot of its lake."""

    pipeline: Pipeline
    table: ResultTable
    family: Family
    revision: str
    num_rows: int
    kept: KeptColumns
    truth: Truth | None = None
    with_texts: bool = False
    notes: tuple[str, ...] = field(default=())

    @property
    def source(self) -> str:
        """SQL: what figures read, the view that users query."""
        return identifier(self.table.pipeline)

    @property
    def results(self) -> dict[str, str]:
        """Name → type of the model task's columns."""
        return dict(self.table.results)

    @property
    def row_names(self) -> tuple[str, ...]:
        """The columns by which a reader finds a row again."""
        keys = tuple(name for name, _ in self.table.keys)
        return keys or ("shard_id", "row_number")

    @property
    def row_columns(self) -> str:
        """SQL: the columns that are shown of a single row before its answer: what names it, and what was kept."""
        shown = {*self.kept.plain, *(self.kept.texts if self.with_texts else ())}
        kept = [name for name, _ in self.table.kept if name in shown]
        return ", ".join(map(identifier, dict.fromkeys((*self.row_names, *kept))))


def count_rows(cursor: Cursor, source: str) -> int:
    return int(cursor.execute(f"SELECT count(*) FROM {source}").fetchall()[0][0])
