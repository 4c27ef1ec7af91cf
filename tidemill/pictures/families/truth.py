"""Labels against the label that rows should have: how often they agree, where, and which rows do not."""

from __future__ import annotations

from collections.abc import Iterator

from tidemill.lake.tables import identifier
from tidemill.pictures.figures.figure import Axes, Figure
from tidemill.pictures.figures.sql import MOST_SHOWN, laid_out, named
from tidemill.pictures.figures.subject import Subject
from tidemill.pictures.figures.truth import Truth

SECTION, ROWS = "Against the truth", "Rows to look at"
NUM_ROWS = 20
MOST_LABELS = 30
"""In a confusion matrix, on each side."""


def figures_of_truth(subject: Subject) -> Iterator[Figure]:
    truth = subject.truth
    if truth is None:
        return
    yield agreement(subject, truth)
    yield confusion(subject, truth)
    yield by_label(subject, truth)
    for name in subject.kept.slices:
        yield agreement_by(subject, truth, name)
    yield differing_rows(subject, truth)


def agreement(subject: Subject, truth: Truth) -> Figure:
    return Figure(
        id="truth",
        section=SECTION,
        title="Agreement",
        tells=f"How often the label is the one that {truth.declared} gives; rows where that is NULL do not count.",
        sql=laid_out(f"""
            SELECT count(*) AS num_rows, count(*) FILTER (_answer = _truth) AS num_agreeing,
              avg((_answer = _truth)::INT) AS agreement
            FROM {truth.compared}
        """),
    )


def confusion(subject: Subject, truth: Truth) -> Figure:
    return Figure(
        id="confusion",
        section=SECTION,
        title="Confusion matrix",
        tells="How many rows of each true label were given which label.",
        sql=laid_out(f"""
            WITH pairs AS (SELECT _truth, _answer, count(*) AS num_rows
              FROM {truth.compared} GROUP BY ALL),
            names AS (SELECT _name FROM (SELECT _truth AS _name, num_rows FROM pairs
                UNION ALL SELECT _answer, num_rows FROM pairs)
              GROUP BY _name ORDER BY sum(num_rows) DESC, _name LIMIT {MOST_LABELS})
            SELECT _truth AS truth, _answer AS label, num_rows FROM pairs
            WHERE _truth IN (FROM names) AND _answer IN (FROM names) ORDER BY truth, label
        """),
        kind="heatmap",
        axes=Axes(x="label", y="truth", value="num_rows", x_title="label of the model", y_title="true label"),
        notes=(f"The {MOST_LABELS} labels with the most rows.",) if len(subject.labels) > MOST_LABELS else (),
    )


def by_label(subject: Subject, truth: Truth) -> Figure:
    return Figure(
        id="truth-by-label",
        section=SECTION,
        title="Precision, recall and F1",
        tells="Precision: the share right of the rows given a label. Recall: the share found of those that should have "
        "it. F1: both in one number.",
        sql=laid_out(f"""
            WITH compared AS (FROM {truth.compared}),
            given AS (SELECT _answer AS label, count(*) AS given, count(*) FILTER (_answer = _truth) AS hits
              FROM compared GROUP BY _answer),
            wanted AS (SELECT _truth AS label, count(*) AS num_rows FROM compared GROUP BY _truth)
            SELECT label, coalesce(num_rows, 0) AS num_rows, hits / given AS precision,
              coalesce(hits, 0) / num_rows AS recall,
              2 * coalesce(hits, 0) / (coalesce(given, 0) + coalesce(num_rows, 0)) AS f1
            FROM given FULL JOIN wanted USING (label) ORDER BY num_rows DESC, label LIMIT {MOST_LABELS}
        """),
        most=MOST_LABELS,
    )


def agreement_by(subject: Subject, truth: Truth, name: str) -> Figure:
    return Figure(
        id=f"truth-by-{name}",
        section=SECTION,
        title=f"Agreement by {name}",
        tells=f"How often label and truth agree, for each {name}, the lowest first.",
        sql=laid_out(f"""
            FROM (
              SELECT {named(identifier(name))} AS _slice, count(*) AS num_rows,
                avg((_answer = _truth)::INT) AS agreement
              FROM {truth.compared}
              GROUP BY 1 ORDER BY num_rows DESC, 1 LIMIT {MOST_SHOWN}
            ) ORDER BY agreement, _slice
        """),
        kind="bars",
        axes=Axes(x="_slice", y="agreement", x_title=name, y_title="share of rows that agree", is_share=True),
        most=MOST_SHOWN,
    )


def differing_rows(subject: Subject, truth: Truth) -> Figure:
    score = ["score"] if "score" in subject.results else []
    return Figure(
        id="differing-rows",
        section=ROWS,
        title="Rows that differ from the truth",
        tells=f"{NUM_ROWS} rows whose label is not the true one, those first of which the model was surest.",
        sql=laid_out(f"""
            SELECT {subject.row_columns("label", "_truth AS truth", *score)}
            FROM {truth.compared} AND _answer <> _truth
            ORDER BY {"score DESC NULLS LAST, " if score else ""}shard_id, row_number LIMIT {NUM_ROWS}
        """),
    )
