"""Every figure of a table, answered in one snapshot of its lake through a connection that only reads."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import _duckdb as duckdb  # As tidemill.lake.ducklake.connection does.

from tidemill.config import Pipeline
from tidemill.errors import ConfigError, InputError, LakeError
from tidemill.lake import Cursor, Lake, ResultTable, catalog_exists
from tidemill.lake.ducklake.reading import check_definitions, readable
from tidemill.lake.pipelines import load_spec, load_state
from tidemill.lake.runs import last_fresh
from tidemill.lake.tables import identifier
from tidemill.models.tasks import find_task
from tidemill.pictures.families import FAMILIES, health
from tidemill.pictures.figures.columns import look_at
from tidemill.pictures.figures.figure import Figure, Picture
from tidemill.pictures.figures.report import Report
from tidemill.pictures.figures.subject import Subject, count_rows
from tidemill.pictures.figures.truth import Truth, find_truth
from tidemill.pictures.versions import Two
from tidemill.pictures.versions import figures as of_versions
from tidemill.planning.versions import VersionSpec
from tidemill.reports.alerts import staleness
from tidemill.reports.truth import highest_label
from tidemill.results.promotion import load_table

MOST_LABELS = 1000
"""That are counted each, for machines."""


def make_report(pipeline: Pipeline, *, texts: bool = False, against: str | None = None) -> Report:
    """`against` is the beginning of a version's name, which is shown beside the promoted one.

    Raises:
        LakeError: there is no lake, or the pipeline never ran, or has no such version.
        ConfigError: `report.truth` fails.
    """
    if not catalog_exists(pipeline.lake):
        raise LakeError(f"{pipeline.name} has no lake yet, and nothing to show. Run it first: tidemill run.")
    with Lake(pipeline.lake, read_only=True, one_snapshot=True, scans=True) as lake:
        lake.seal()
        cursor = lake.cursor()
        subject = find_subject(cursor, pipeline, texts=texts)
        two = None if against is None else Two.of(cursor, subject, against)
        pictures = tuple(answered(cursor, figure) for figure in figures_of(cursor, subject, two))
    return Report(subject, pictures, datetime.now(UTC), None if two is None else two.names[1])


def find_subject(cursor: Cursor, pipeline: Pipeline, *, texts: bool) -> Subject:
    state = load_state(cursor, pipeline.name)
    if state is None:
        raise LakeError(f"The lake has no pipeline {pipeline.name}, and nothing to show. Run it first: tidemill run.")
    spec = load_spec(cursor, pipeline.name, state.promoted_version) or {}
    table = _with_keys(load_table(cursor, pipeline.name, state.promoted_version), pipeline)
    labels = _labels(cursor, table)
    num_rows = count_rows(cursor, identifier(pipeline.name))
    stale = staleness(cursor, pipeline)
    return Subject(
        pipeline=pipeline,
        table=table,
        family=find_task(spec.get("task", pipeline.model.task)).family,
        revision=state.target_revision,
        num_rows=num_rows,
        kept=look_at(cursor, table, frozenset(_columns_read(pipeline))),
        labels=labels,
        fresh_at=last_fresh(cursor, pipeline.name),
        truth=_truth(cursor, table, pipeline, spec, list(labels)),
        with_texts=texts,
        notes=(*([] if num_rows else ["The table has no rows yet."]), *([stale] if stale else [])),
    )


def figures_of(cursor: Cursor, subject: Subject, two: Two | None = None) -> Iterator[Figure]:
    if two is not None:
        yield from of_versions(subject, two)
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
        picture = Picture(figure, names, tuple(result.fetchall()))
    except duckdb.Error as e:
        raise InputError(f"The figure {figure.title!r} cannot be made: {e}") from e
    return picture if figure.worked_out is None else figure.worked_out(picture)


def _with_keys(table: ResultTable, pipeline: Pipeline) -> ResultTable:
    names = {name for _, name in pipeline.dataset.kept[: len(pipeline.dataset.key)]}
    keys = [column for column in table.kept if column[0] in names]
    others = [column for column in table.kept if column[0] not in names]
    return ResultTable(table.pipeline, table.version, (*keys, *others), table.results, len(keys))


def _columns_read(pipeline: Pipeline) -> set[str]:
    read = {*pipeline.dataset.text, *pipeline.dataset.text_pair}
    return {name for source, name in pipeline.dataset.kept if source in read}


def _truth(
    cursor: Cursor, table: ResultTable, pipeline: Pipeline, spec: dict[str, Any], labels: list[str]
) -> Truth | None:
    if "label" not in dict(table.results):
        if pipeline.report.truth is None:
            return None
        raise ConfigError(
            f"report.truth gives labels, and {table.pipeline} has no column label. Leave report.truth out."
        )
    return find_truth(cursor, table, pipeline.report, labels, lambda: highest_label(VersionSpec.from_json(spec)))


def _labels(cursor: Cursor, table: ResultTable) -> dict[str, int]:
    if "label" not in dict(table.results):
        return {}
    asked = (
        f"SELECT label::VARCHAR, count(*) FROM {identifier(table.pipeline)} "
        f"WHERE label IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {MOST_LABELS}"
    )
    return dict(cursor.execute(asked).fetchall())
