"""The figures of each kind of answer. A model task says by `ModelTask.family` which kind its answers are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from tidemill.lake import Cursor
from tidemill.models.task import Family
from tidemill.pictures.families import labels
from tidemill.pictures.figure import Figure
from tidemill.pictures.subject import Subject

FAMILIES: Mapping[Family, Callable[[Cursor, Subject], Iterator[Figure]]] = {
    "labels": labels.figures,
}
"""The figures of a table, in the order in which a page shows them; a family that is not here has those of any table."""

__all__ = ["FAMILIES"]
