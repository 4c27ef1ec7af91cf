"""A report: every figure of a table, answered in one snapshot of its lake, through a connection that only reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import _duckdb as duckdb  # As tidemill.lake.ducklake.connection does.

from tidemill.config import Pipeline
from tidemill.errors import ConfigError, InputError, LakeError
from tidemill.lake import Cursor, Lake, ResultTable, catalog_exists
from tidemill.lake.ducklake.reading import check_definitions, readable
from tidemill.lake.pipelines import load_spec, load_state
from tidemill.lake.tables import identifier
from tidemill.models.tasks import find_task
from tidemill.pictures.columns import look_at
from tidemill.pictures.families import FAMILIES, health
from tidemill.pictures.figure import Figure, Picture, exact
from tidemill.pictures.subject import Subject, count_rows
from tidemill.pictures.truth import find_truth
from tidemill.results.promotion import load_table


@dataclass(frozen=True)
class Report:
    """A subject with its pictures, in the order in which they are shown."""

    subject: Subject
    pictures: tuple[Picture, ...]
    made_at: datetime

    def find(self, id: str) -> Picture | None:  # noqa: A002
        return next((picture for picture in self.pictures if picture.figure.id == id), None)

    def to_json(self) -> dict[str, Any]:
        """The figures for machines: what most ask for comes first."""
        subject = self.subject
        facts: dict[str, Any] = exact(
            {
                "pipeline": subject.pipeline.name,
                "num_rows": subject.num_rows,
                "labels": self._labels(),
                "truth": self._truth(),
                "version": subject.table.version,
                "revision": subject.revision,
                "made_at": self.made_at,
                "holds_texts": subject.with_texts,
                "notes": list(subject.notes),
                "figures": [picture.to_json() for picture in self.pictures],
            }
        )
        return facts

    def _labels(self) -> dict[str, int]:
        found = self.find("labels")
        return {str(row["label"]): row["num_rows"] for row in found.records()} if found else {}

    def _truth(self) -> dict[str, Any] | None:
        agreement, by_label = self.find("truth"), self.find("truth-by-label")
        if agreement is None or by_label is None:
            return None
        return {
            **agreement.records()[0],
            "expression": self.subject.truth.declared if self.subject.truth else None,
            "labels": {str(row.pop("label")): row for row in by_label.records()},
        }


def make_report(pipeline: Pipeline, *, texts: bool = False) -> Report:
    """
    Raises:
        LakeError: there is no lake, or the pipeline never ran.
        ConfigError: `report.truth` fails.
    """
    if not catalog_exists(pipeline.lake):
        raise LakeError(f"{pipeline.name} has no lake yet, and nothing to show. Run it first: tidemill run.")
    with Lake(pipeline.lake, read_only=True, one_snapshot=True, scans=True) as lake:
        lake.seal()
        cursor = lake.cursor()
        subject = find_subject(cursor, pipeline, texts=texts)
        pictures = tuple(answered(cursor, figure) for figure in figures_of(cursor, subject))
    return Report(subject, pictures, datetime.now(UTC))


def find_subject(cursor: Cursor, pipeline: Pipeline, *, texts: bool) -> Subject:
    state = load_state(cursor, pipeline.name)
    if state is None:
        raise LakeError(f"The lake has no pipeline {pipeline.name}, and nothing to show. Run it first: tidemill run.")
    spec = load_spec(cursor, pipeline.name, state.promoted_version) or {}
    table = _with_keys(load_table(cursor, pipeline.name, state.promoted_version), pipeline)
    source = identifier(pipeline.name)
    return Subject(
        pipeline=pipeline,
        table=table,
        family=find_task(spec.get("task", pipeline.model.task)).family,
        revision=state.target_revision,
        num_rows=count_rows(cursor, source),
        kept=look_at(cursor, table, frozenset(_columns_read(pipeline))),
        truth=find_truth(cursor, table, pipeline.report, _labels(cursor, table)) if _has_label(table) else None,
        with_texts=texts,
    )


def figures_of(cursor: Cursor, subject: Subject) -> Iterator[Figure]:
    if subject.num_rows and subject.family in FAMILIES:
        yield from FAMILIES[subject.family](cursor, subject)
    yield from health.figures(subject)


def answered(cursor: Cursor, figure: Figure) -> Picture:
    """The figure's own SQL, judged as a user's is."""
    try:
        check_definitions(cursor, figure.sql)
        (statement,) = readable(cursor, figure.sql)
        result = cursor.execute(statement)
        names = tuple(column[0] for column in result.description or [])
        return Picture(figure, names, tuple(result.fetchall()))
    except duckdb.Error as e:
        raise InputError(f"The figure {figure.title!r} cannot be made: {e}") from e


def _with_keys(table: ResultTable, pipeline: Pipeline) -> ResultTable:
    names = {name for _, name in pipeline.dataset.kept[: len(pipeline.dataset.key)]}
    keys = [column for column in table.kept if column[0] in names]
    others = [column for column in table.kept if column[0] not in names]
    return ResultTable(table.pipeline, table.version, (*keys, *others), table.results, len(keys))


def _columns_read(pipeline: Pipeline) -> set[str]:
    read = {*pipeline.dataset.text, *pipeline.dataset.text_pair}
    return {name for source, name in pipeline.dataset.kept if source in read}


def _has_label(table: ResultTable) -> bool:
    return "label" in dict(table.results)


def _labels(cursor: Cursor, table: ResultTable) -> list[str]:
    asked = f"SELECT DISTINCT label FROM {identifier(table.pipeline)} WHERE label IS NOT NULL ORDER BY label LIMIT 1000"
    return [str(label) for (label,) in cursor.execute(asked).fetchall()]


__all__ = ["ConfigError", "Report", "answered", "figures_of", "find_subject", "make_report"]
