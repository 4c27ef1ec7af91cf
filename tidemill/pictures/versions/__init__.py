"""Two versions of a table side by side: what flipped, how far answers moved, in which slices, which rows the most.

What an answer's kind says of two answers, `models.comparing` says; a new kind needs nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator

from tidemill.models.comparing import Comparison, Lists, Pair
from tidemill.pictures.figures.figure import Figure
from tidemill.pictures.figures.subject import Subject
from tidemill.pictures.versions.elements import by_label
from tidemill.pictures.versions.flips import flips, matrix
from tidemill.pictures.versions.moved import by_slice, histogram
from tidemill.pictures.versions.overall import overall
from tidemill.pictures.versions.rows import farthest
from tidemill.pictures.versions.two import Two

__all__ = ["Two", "figures"]


def figures(subject: Subject, two: Two) -> Iterator[Figure]:
    """Columns in which no row differs are in the table of all columns alone."""
    yield overall(subject, two)
    for comparison, pair in two.changed:
        yield from _of_column(subject, two, comparison, pair)
    yield from farthest(subject, two)


def _of_column(subject: Subject, two: Two, comparison: Comparison, pair: Pair) -> Iterator[Figure]:
    if pair.name in two.labels:
        yield matrix(subject, two, comparison, pair)
        yield flips(subject, two, comparison, pair)
    if isinstance(comparison, Lists):
        yield from by_label(subject, two, comparison, pair)
    yield from histogram(subject, two, comparison, pair)
    for name in subject.kept.slices:
        yield by_slice(subject, two, comparison, pair, name)
