"""Labels that two versions give: from which to which."""

from __future__ import annotations

from tidemill.models.comparing import Comparison, Pair
from tidemill.pictures.figures.figure import Axes, Figure
from tidemill.pictures.figures.sql import MOST_SHOWN, OTHERS_NOTE, first, named
from tidemill.pictures.figures.subject import Subject
from tidemill.pictures.versions.two import PAIRS, Two


def matrix(subject: Subject, two: Two, comparison: Comparison, pair: Pair) -> Figure:
    both = two.pairs(subject, (comparison, pair))
    return Figure(
        id=f"{pair.name}-flips",
        section=two.section,
        title=f"Flip matrix of {pair.name}",
        tells=f"How many rows have which {pair.name} in the first version and which in the second.",
        sql=both.sql(f"""
            WITH each AS (SELECT unnest([{pair.first}, {pair.second}]) AS _value FROM {PAIRS}),
            names AS {first("each", "_value")}
            SELECT coalesce(f._name, 'others') AS _first, coalesce(s._name, 'others') AS _second, count(*) AS num_rows
            FROM {PAIRS}
            LEFT JOIN names AS f ON f._name = {named(pair.first)}
            LEFT JOIN names AS s ON s._name = {named(pair.second)}
            GROUP BY f._name, f._place, s._name, s._place
            ORDER BY f._place NULLS LAST, s._place NULLS LAST
        """),
        kind="heatmap",
        axes=Axes(x="_second", y="_first", value="num_rows", x_title=two.names[1], y_title=two.names[0]),
        of_others=OTHERS_NOTE.format(f"values of {pair.name}"),
    )


def flips(subject: Subject, two: Two, comparison: Comparison, pair: Pair) -> Figure:
    both = two.pairs(subject, (comparison, pair))
    return Figure(
        id=f"{pair.name}-flipped",
        section=two.section,
        title=f"The most frequent flips of {pair.name}",
        tells="How many rows went from which to which.",
        sql=both.sql(f"""
            SELECT concat({named(pair.first)}, ' → ', {named(pair.second)}) AS flip, count(*) AS num_rows
            FROM {PAIRS} WHERE {comparison.differs(pair)}
            GROUP BY flip ORDER BY num_rows DESC, flip LIMIT {MOST_SHOWN}
        """),
        kind="bars",
        axes=Axes(x="flip", x_title="", y_title="rows"),
    )
