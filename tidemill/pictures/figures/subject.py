"""What figures are made of: one version's table, its columns by what they are good for, and what the user asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from textwrap import indent
from typing import Self

from tidemill.config import Pipeline
from tidemill.lake import Cursor, ResultTable
from tidemill.lake.tables import identifier
from tidemill.models.task import Family
from tidemill.pictures.figures.columns import KeptColumns
from tidemill.pictures.figures.sql import laid_out
from tidemill.pictures.figures.truth import Truth


@dataclass(frozen=True)
class Counted:
    """What a query makes of a table's rows, such as an entity a row. `unit` is what it counts, in the plural."""

    name: str
    query: str
    unit: str


@dataclass(frozen=True)
class Subject:
    """The promoted version of a pipeline, in one snapshot of its lake."""

    pipeline: Pipeline
    table: ResultTable
    family: Family
    revision: str
    num_rows: int
    kept: KeptColumns
    labels: Mapping[str, int] = field(default_factory=dict)
    """Label → rows, the first thousand by rows; none where answers are no labels."""
    fresh_at: datetime | None = None
    truth: Truth | None = None
    with_texts: bool = False
    notes: tuple[str, ...] = ()
    counted: Counted | None = None
    """What figures count where that is not the table's rows."""

    @property
    def view(self) -> str:
        """SQL: what users query."""
        return identifier(self.table.pipeline)

    @property
    def source(self) -> str:
        """SQL: what figures read."""
        return self.view if self.counted is None else self.counted.name

    @property
    def unit(self) -> str:
        """What they count, in the plural."""
        return "rows" if self.counted is None else self.counted.unit

    def counting(self, name: str, query: str, unit: str = "rows") -> Self:
        return replace(self, counted=Counted(name, laid_out(query), unit))

    def sql(self, query: str) -> str:
        """A query of `source`, as it is shown and run."""
        shown = laid_out(query)
        if self.counted is None:
            return shown
        own = f"WITH {self.counted.name} AS (\n{indent(self.counted.query, '  ')}\n)"
        return f"{own},\n{shown.removeprefix('WITH ')}" if shown.startswith("WITH ") else f"{own}\n{shown}"

    @property
    def version(self) -> tuple[str, str]:
        return self.table.pipeline, self.table.version

    @property
    def results(self) -> dict[str, str]:
        """Name → type of the model task's columns."""
        return dict(self.table.results)

    @property
    def row_names(self) -> tuple[str, ...]:
        """The columns by which a reader finds a row again."""
        keys = tuple(name for name, _ in self.table.keys)
        return keys or ("shard_id", "row_number")

    def row_columns(self, *answer: str) -> str:
        """SQL: what is shown of a single row: what names it, its answer, and behind that, what was kept."""
        shown = {*self.kept.plain, *(self.kept.texts if self.with_texts else ())}
        kept = [identifier(name) for name, _ in self.table.kept if name in shown]
        return ", ".join(dict.fromkeys((*map(identifier, self.row_names), *answer, *kept)))

    @property
    def text_column(self) -> str | None:
        """The kept column that is the text which the model reads, if it reads one alone and that is kept."""
        read = tuple(self.pipeline.dataset.text)
        kept = {name for name, _ in self.table.kept}
        named = (name for source, name in self.pipeline.dataset.kept if (source,) == read and name in kept)
        return None if self.pipeline.dataset.text_pair else next(named, None)


def count_rows(cursor: Cursor, source: str) -> int:
    return int(cursor.execute(f"SELECT count(*) FROM {source}").fetchall()[0][0])
