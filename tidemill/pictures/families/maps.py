"""A score for each label, as zero-shot tasks and `model.all_scores` keep them: how sure the model is of each."""

from __future__ import annotations

from collections.abc import Iterator

from tidemill.lake.tables import identifier
from tidemill.pictures.families.numbers import histogram
from tidemill.pictures.figures.figure import Axes, Figure
from tidemill.pictures.figures.sql import MOST_SHOWN
from tidemill.pictures.figures.subject import Subject

SECTION = "Scores of all labels"
NUM_STEPS = 10


def figures(subject: Subject) -> Iterator[Figure]:
    for name, kind in subject.table.results:
        if kind.startswith("MAP("):
            each = subject.counting(
                "label_scores",
                f"""
                    SELECT _e.key::VARCHAR AS label, _e.value AS score
                    FROM (SELECT unnest(map_entries({identifier(name)})) AS _e FROM {subject.view})
                """,
                "scores",
            )
            yield means(each, name)
            yield by_score(each, name)
            yield margins(subject, name)


def means(each: Subject, name: str) -> Figure:
    return Figure(
        id=f"{name}-means",
        section=SECTION,
        title="Mean score of each label",
        tells="How sure the model is of each label on average, and in how many rows it is over 0.5.",
        sql=each.sql(f"""
            SELECT label, avg(score) AS mean_score, count(*) FILTER (score > 0.5) AS num_rows_over_half
            FROM {each.source} WHERE isfinite(score)
            GROUP BY label ORDER BY mean_score DESC, label LIMIT {MOST_SHOWN}
        """),
        kind="bars",
        axes=Axes(x="label", y="mean_score", x_title="label", y_title="mean score"),
        notes=(f"The {MOST_SHOWN} labels with the highest mean are shown.",),
    )


def by_score(each: Subject, name: str) -> Figure:
    return Figure(
        id=f"{name}-by-label",
        section=SECTION,
        title="Labels by score",
        tells="In how many rows each label has which score: a label whose rows lie in the middle is one to word anew.",
        sql=each.sql(f"""
            WITH shown AS (SELECT label AS _name, row_number() OVER (ORDER BY avg(score) DESC, label) AS _place
              FROM {each.source} WHERE isfinite(score) GROUP BY label QUALIFY _place <= {MOST_SHOWN}),
            bounds AS (SELECT least(0, min(score)) AS low, greatest(1, max(score)) AS high
              FROM {each.source} WHERE isfinite(score)),
            steps AS (SELECT label, low + (high - low) / {NUM_STEPS} *
                least(floor((score - low) / (high - low) * {NUM_STEPS}), {NUM_STEPS - 1}) AS score_from
              FROM {each.source}, bounds WHERE isfinite(score))
            SELECT label, round(steps.score_from::DOUBLE, 6) AS score_from, count(*) AS num_rows
            FROM steps JOIN shown ON shown._name = label
            GROUP BY ALL ORDER BY min(_place), score_from
        """),
        kind="heatmap",
        axes=Axes(x="score_from", y="label", value="num_rows", x_title="score, from", y_title="label"),
    )


def margins(subject: Subject, name: str) -> Figure:
    counted = subject.counting(
        "margins",
        f"""
            SELECT _s[1] - _s[2] AS margin
            FROM (SELECT list_reverse_sort(map_values({identifier(name)})) AS _s FROM {subject.view})
        """,
    )
    return histogram(counted, "margin", section=SECTION, told="lead of the best label over the second")
