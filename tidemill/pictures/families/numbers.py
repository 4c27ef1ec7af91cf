"""One number a row, such as a rank's score or what a regression answers: how it is spread, and its mean over slices."""

from __future__ import annotations

from collections.abc import Iterator

from tidemill.lake import Cursor
from tidemill.lake.tables import identifier
from tidemill.pictures.families.over import unit_of
from tidemill.pictures.figures.bins import binned
from tidemill.pictures.figures.columns import Moment
from tidemill.pictures.figures.figure import Axes, Figure
from tidemill.pictures.figures.sql import OTHERS_NOTE, bucket, first, named
from tidemill.pictures.figures.subject import Subject

SECTION, ROWS = "Scores", "Rows to look at"
NUM_ROWS = 10


def figures(cursor: Cursor, subject: Subject) -> Iterator[Figure]:
    names = [name for name, kind in subject.table.results if kind in ("FLOAT", "DOUBLE")]
    for name in names:
        yield from of_number(cursor, subject, name, section=SECTION)
    for name in names:
        yield rows_at(subject, name, "highest", "DESC")
        yield rows_at(subject, name, "lowest", "ASC")


def of_number(cursor: Cursor, subject: Subject, name: str, *, section: str) -> Iterator[Figure]:
    """Its histogram, and its mean over dates and slices."""
    yield histogram(subject, name, section=section)
    for moment in subject.kept.moments:
        if unit := unit_of(cursor, subject, moment):
            yield mean_over_moment(subject, name, moment, unit, section=section)
    for slices in subject.kept.slices:
        yield mean_over_slice(subject, name, slices, section=section)


def histogram(
    subject: Subject, name: str, *, section: str, series: str | None = None, whole: bool = False, told: str = ""
) -> Figure:
    told = told or name
    return Figure(
        id=f"{name}-histogram",
        section=section,
        title=told.capitalize() + (f" by {series}" if series else ""),
        tells=f"How many {subject.unit} have which {told}" + (f", for each {series}." if series else "."),
        sql=subject.sql(binned(subject.source, name, series, whole=whole, unit=subject.unit)),
        kind="histogram",
        axes=Axes(x=f"{name}_from", y=f"num_{subject.unit}", series=series, x_title=told, y_title=subject.unit),
        of_others=OTHERS_NOTE.format(f"values of {series}") if series else "",
    )


def mean_over_slice(subject: Subject, name: str, slices: str, *, section: str) -> Figure:
    column, value = f"{subject.source}.{identifier(slices)}", f"{subject.source}.{identifier(name)}"
    return Figure(
        id=f"{name}-by-{slices}",
        section=section,
        title=f"Mean {name} by {slices}",
        tells=f"The mean {name} of the {subject.unit} of each {slices}.",
        sql=subject.sql(f"""
            WITH slices AS {first(subject.source, column)}
            SELECT coalesce(slices._name, 'others') AS _slice, avg({value}) AS _mean, count(*) AS num_{subject.unit}
            FROM {subject.source} LEFT JOIN slices ON slices._name = {named(column)}
            WHERE isfinite({value}::DOUBLE)
            GROUP BY slices._name, slices._place ORDER BY slices._place NULLS LAST
        """),
        kind="bars",
        axes=Axes(x="_slice", y="_mean", x_title=slices, y_title=f"mean {name}"),
        of_others=OTHERS_NOTE.format(f"values of {slices}"),
    )


def mean_over_moment(subject: Subject, name: str, moment: Moment, unit: str, *, section: str) -> Figure:
    timezone = subject.pipeline.schedule.timezone
    zone = timezone if moment.is_zoned else "as written, without a time zone"
    value = f"{subject.source}.{identifier(name)}"
    return Figure(
        id=f"{name}-by-{moment.name}",
        section=section,
        title=f"Mean {name} by {unit} of {moment.name}",
        tells=f"The mean {name} of the {subject.unit} of each {unit}.",
        sql=subject.sql(f"""
            SELECT {bucket(moment, unit, timezone)} AS _bucket, avg({value}) AS _mean,
              count(*) AS num_{subject.unit}
            FROM {subject.source} WHERE isfinite({moment.moment}) AND isfinite({value}::DOUBLE)
            GROUP BY 1 ORDER BY 1
        """),
        kind="columns",
        axes=Axes(x="_bucket", y="_mean", x_title=f"{moment.name} by {unit} ({zone})", y_title=f"mean {name}"),
        notes=(f"Rows without {moment.name} are left out.",),
    )


def rows_at(subject: Subject, name: str, which: str, order: str) -> Figure:
    value = identifier(name)
    return Figure(
        id=f"{which}-{name}",
        section=ROWS,
        title=f"The rows with the {which} {name}",
        tells=f"The {NUM_ROWS} rows with the {which} {name}.",
        sql=subject.sql(f"""
            SELECT {subject.row_columns(value)} FROM {subject.source} WHERE isfinite({value})
            ORDER BY {value} {order}, shard_id, row_number LIMIT {NUM_ROWS}
        """),
    )
