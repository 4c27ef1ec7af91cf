"""How far answers moved: of all rows as a histogram, and on average by slice."""

from __future__ import annotations

from collections.abc import Iterator

from tidemill.lake.tables import identifier
from tidemill.models.comparing import Comparison, Pair, Texts
from tidemill.pictures.figures.bins import binned
from tidemill.pictures.figures.figure import Axes, Figure
from tidemill.pictures.figures.sql import OTHERS_NOTE, first, named
from tidemill.pictures.figures.subject import Subject
from tidemill.pictures.versions.two import PAIRS, Two


def histogram(subject: Subject, two: Two, comparison: Comparison, pair: Pair) -> Iterator[Figure]:
    """None of answers that only are the same or not."""
    moved = comparison.moved(pair)
    if moved is None:
        return
    both = two.pairs(subject, (comparison, pair))
    assert both.counted is not None
    query = f"SELECT {moved} AS moved FROM (\n{both.counted.query}\n)"
    counted = subject.counting("moves", query)
    yield Figure(
        id=f"{pair.name}-moved",
        section=two.section,
        title=f"{pair.name}: {comparison.moved_called}",
        tells=f"How many rows moved how far in {pair.name}.",
        sql=counted.sql(binned("moves", "moved", whole=isinstance(comparison, Texts))),
        kind="histogram",
        axes=Axes(x="moved_from", x_title=comparison.moved_called, y_title="rows"),
    )


def by_slice(subject: Subject, two: Two, comparison: Comparison, pair: Pair, name: str) -> Figure:
    both = two.pairs(subject, (comparison, pair), kept=(name,))
    column = f"{PAIRS}.{identifier(name)}"
    return Figure(
        id=f"{pair.name}-moved-by-{name}",
        section=two.section,
        title=f"{pair.name} by {name}: {comparison.distance_called}",
        tells=f"For the rows of each {name}: {comparison.distance_called}; the farthest first.",
        sql=both.sql(f"""
            WITH slices AS {first(PAIRS, column)}
            SELECT coalesce(slices._name, 'others') AS _slice, {comparison.distance(pair)} AS _distance,
              count(*) AS num_rows
            FROM {PAIRS} LEFT JOIN slices ON slices._name = {named(column)}
            GROUP BY slices._name ORDER BY _distance DESC NULLS LAST, _slice
        """),
        kind="bars",
        axes=Axes(x="_slice", y="_distance", x_title=name, y_title=comparison.distance_called),
        of_others=OTHERS_NOTE.format(f"values of {name}"),
    )
