"""Vectors: a map of a sample of them on a plane, with each one's nearest, and how long they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tidemill.lake import Cursor
from tidemill.lake.tables import identifier
from tidemill.pictures.families.numbers import histogram
from tidemill.pictures.figures.figure import Axes, Figure
from tidemill.pictures.figures.mapping import Mapped
from tidemill.pictures.figures.subject import Subject

SECTION = "Map"
NUM_POINTS = 1500
"""Rows on a map: more are a cloud to the eye, and each takes about 150 bytes of the page."""


def figures(cursor: Cursor, subject: Subject) -> Iterator[Figure]:
    for name, kind in subject.table.results:
        if kind.startswith(("FLOAT[", "DOUBLE[")):
            yield on_a_plane(subject, name)
            yield lengths(subject, name)


def on_a_plane(subject: Subject, name: str) -> Figure:
    vector = identifier(name)
    texts = subject.kept.texts if subject.with_texts else ()
    colours = (*subject.kept.slices, *(moment.name for moment in subject.kept.moments))
    names = dict.fromkeys((*subject.row_names, *colours))
    shown = ", ".join(identifier(column) for column in (*names, *texts))
    how = subject.pipeline.report.map
    is_sample = subject.num_rows > NUM_POINTS
    which = (
        f"{NUM_POINTS:,} rows, drawn by chance, the same ones each time" if is_sample else "all rows that have a vector"
    )
    return Figure(
        id=f"{name}-map",
        section=SECTION,
        title=f"Map of {name}",
        tells=f"Rows that lie together are alike to the model; point at one to see its nearest. It shows {which}.",
        sql=subject.sql(f"""
            SELECT {shown}, {vector} FROM {subject.source} WHERE {vector} IS NOT NULL
            ORDER BY hash(shard_id, row_number), shard_id, row_number LIMIT {NUM_POINTS}
        """),
        kind="points",
        axes=Axes(x="x", y="y", columns=colours, x_title="first axis", y_title="second axis"),
        worked_out=Mapped(name, subject.row_names, tuple(texts), how),
    )


def lengths(subject: Subject, name: str) -> Figure:
    value = f"{identifier(name)}::DOUBLE[]"
    length = f"round(sqrt(list_inner_product({value}, {value})), 6) AS length"
    counted = subject.counting("lengths", f"SELECT {length} FROM {subject.view} WHERE {identifier(name)} IS NOT NULL")
    found = histogram(counted, "length", section=SECTION, told=f"length of {name}")
    return replace(
        found, notes=("The length is the Euclidean norm: 1 in each row where a model normalises its vectors.",)
    )
