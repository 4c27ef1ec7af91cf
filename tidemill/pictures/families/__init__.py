"""The figures of each kind of answer. A model task says by `ModelTask.family` which kind its answers are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from tidemill.lake import Cursor
from tidemill.models.task import Family
from tidemill.pictures.families import entities, labels, numbers, texts, vectors
from tidemill.pictures.figures.figure import Figure
from tidemill.pictures.figures.subject import Subject

FAMILIES: Mapping[Family, Callable[[Cursor, Subject], Iterator[Figure]]] = {
    "labels": labels.figures,
    "entities": entities.figures,
    "vectors": vectors.figures,
    "texts": texts.figures,
    "scores": numbers.figures,
}
"""The figures of a table, in the order in which a page shows them."""

__all__ = ["FAMILIES"]
