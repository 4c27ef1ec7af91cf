"""Labels with scores: how they are spread, over what, how sure the model is, and which rows to look at."""

from __future__ import annotations

from collections.abc import Iterator

from tidemill.lake import Cursor
from tidemill.lake.tables import identifier
from tidemill.pictures.families import maps
from tidemill.pictures.families.over import over_all
from tidemill.pictures.families.truth import figures_of_truth
from tidemill.pictures.figures.bins import binned
from tidemill.pictures.figures.figure import Axes, Figure
from tidemill.pictures.figures.sql import OTHERS_NOTE, first, laid_out, named
from tidemill.pictures.figures.subject import Subject

SECTION, ROWS = "Labels", "Rows to look at"
NUM_ROWS = 10


def figures(cursor: Cursor, subject: Subject) -> Iterator[Figure]:
    yield spread(subject, "label", section=SECTION)
    yield from over_all(cursor, subject, "label", section=SECTION)
    if "score" in subject.results:
        yield scores(subject)
    yield from maps.figures(subject)
    yield from figures_of_truth(subject)
    if "score" in subject.results:
        yield unsure_rows(subject)
        yield sure_rows(subject)


def spread(subject: Subject, value: str, *, section: str, id: str = "") -> Figure:  # noqa: A002
    of_value = identifier(value)
    return Figure(
        id=id or f"{value}s",
        section=section,
        title=f"{subject.unit.capitalize()} by {value}",
        tells=f"How many {subject.unit} have each {value}.",
        sql=subject.sql(f"""
            WITH names AS {first(subject.source, of_value)}
            SELECT coalesce(names._name, 'others') AS {of_value}, count(*) AS num_{subject.unit},
              round(100 * count(*) / sum(count(*)) OVER (), 2) AS percent
            FROM {subject.source} LEFT JOIN names ON names._name = {named(of_value)}
            GROUP BY names._name, names._place ORDER BY names._place NULLS LAST
        """),
        kind="bars",
        axes=Axes(x=value, y=f"num_{subject.unit}", x_title=value, y_title=subject.unit),
        of_others=OTHERS_NOTE.format(f"values of {value}"),
    )


def scores(subject: Subject) -> Figure:
    return Figure(
        id="scores",
        section=SECTION,
        title="Scores by label",
        tells="How sure the model was: rows by score, for each label.",
        sql=subject.sql(binned(subject.source, "score", "label")),
        kind="histogram",
        axes=Axes(x="score_from", series="label", x_title="score", y_title="rows"),
        of_others=OTHERS_NOTE.format("labels"),
        notes=("Rows without a score are left out.",),
    )


def unsure_rows(subject: Subject) -> Figure:
    return Figure(
        id="unsure-rows",
        section=ROWS,
        title="Unsure rows",
        tells=f"The {NUM_ROWS} rows with the lowest scores, which may be worth a look by a person.",
        sql=_rows_by_score(subject, "ASC"),
    )


def sure_rows(subject: Subject) -> Figure:
    return Figure(
        id="sure-rows",
        section=ROWS,
        title="Confident rows",
        tells=f"The {NUM_ROWS} rows with the highest scores.",
        sql=_rows_by_score(subject, "DESC"),
    )


def _rows_by_score(subject: Subject, order: str) -> str:
    return laid_out(f"""
        SELECT {subject.row_columns("label", "score")}
        FROM {subject.source} WHERE isfinite(score)
        ORDER BY score {order}, shard_id, row_number LIMIT {NUM_ROWS}
    """)
