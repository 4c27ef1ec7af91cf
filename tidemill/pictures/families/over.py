"""A column's values over something: dataset revisions, dates, and the slices of a kept column."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from tidemill.lake import Cursor
from tidemill.lake.tables import identifier
from tidemill.pictures.figure import Axes, Figure
from tidemill.pictures.sql import OTHERS_NOTE, bucket, first, laid_out, named
from tidemill.pictures.subject import Subject

MOST_BUCKETS = 60
UNITS = {"hour": 3600, "day": 86_400, "week": 7 * 86_400, "month": 30 * 86_400, "year": 365 * 86_400}


def over_all(cursor: Cursor, subject: Subject, value: str, *, section: str) -> Iterator[Figure]:
    """The values of a column over all that a table has: revisions, dates and slices."""
    yield over_revision(subject, value, section=section)
    for name, kind in subject.kept.moments:
        if unit := _unit(cursor, subject, name):
            yield over_moment(subject, value, name, kind, unit, section=section)
    for name in subject.kept.slices:
        yield over_slice(subject, value, name, section=section)


def over_slice(subject: Subject, value: str, name: str, *, section: str) -> Figure:
    column, of_value = identifier(name), identifier(value)
    return Figure(
        id=f"{value}-by-{name}",
        section=section,
        title=f"{value.capitalize()} by {name}",
        tells=f"Which share of the rows of each {name} has which {value}.",
        sql=laid_out(f"""
            WITH slices AS {first(subject.source, column)},
            names AS {first(subject.source, of_value)}
            SELECT coalesce(slices._name, 'others') AS _slice, coalesce(names._name, 'others') AS {of_value},
              count(*) AS num_rows
            FROM {subject.source}
            LEFT JOIN slices ON slices._name = {named(column)}
            LEFT JOIN names ON names._name = {named(of_value)}
            GROUP BY slices._name, slices._place, names._name, names._place
            ORDER BY slices._place NULLS LAST, names._place NULLS LAST
        """),
        kind="shares",
        axes=Axes(x="_slice", series=value, x_title=name, y_title="share of rows"),
        notes=(OTHERS_NOTE.format("either"),),
    )


def over_revision(subject: Subject, value: str, *, section: str) -> Figure:
    of_value = identifier(value)
    return Figure(
        id=f"{value}-by-revision",
        section=section,
        title=f"{value.capitalize()} by dataset revision",
        tells=f"Which share of the rows that came with each revision of the dataset has which {value}.",
        sql=laid_out(f"""
            WITH slices AS {first(subject.source, "dataset_revision")},
            names AS {first(subject.source, of_value)}
            SELECT coalesce(left(slices._name, 12), 'others') AS _revision,
              coalesce(names._name, 'others') AS {of_value}, count(*) AS num_rows
            FROM {subject.source}
            LEFT JOIN slices ON slices._name = {named("dataset_revision")}
            LEFT JOIN names ON names._name = {named(of_value)}
            GROUP BY slices._name, slices._place, names._name, names._place
            ORDER BY slices._place NULLS LAST, names._place NULLS LAST
        """),
        kind="shares",
        axes=Axes(x="_revision", series=value, x_title="dataset revision", y_title="share of rows"),
        notes=(OTHERS_NOTE.format("either"),),
    )


def over_moment(subject: Subject, value: str, name: str, kind: str, unit: str, *, section: str) -> Figure:
    column, of_value = identifier(name), identifier(value)
    timezone = subject.pipeline.schedule.timezone
    zone = timezone if kind == "TIMESTAMP WITH TIME ZONE" else "as written, without a time zone"
    return Figure(
        id=f"{value}-by-{name}",
        section=section,
        title=f"{value.capitalize()} by {unit} of {name}",
        tells=f"How many rows of each {unit} have which {value}.",
        sql=laid_out(f"""
            WITH names AS {first(subject.source, of_value)}
            SELECT {bucket(name, kind, unit, timezone)} AS _bucket, coalesce(names._name, 'others') AS {of_value},
              count(*) AS num_rows
            FROM {subject.source}
            LEFT JOIN names ON names._name = {named(of_value)}
            WHERE isfinite({column})
            GROUP BY _bucket, names._name, names._place
            ORDER BY _bucket, names._place NULLS LAST
        """),
        kind="columns",
        axes=Axes(x="_bucket", series=value, x_title=f"{name} by {unit} ({zone})", y_title="rows"),
        notes=(OTHERS_NOTE.format(f"{value}s"), f"Rows without {name} are left out."),
    )


def _unit(cursor: Cursor, subject: Subject, name: str) -> str | None:
    """The smallest unit that makes few buckets of what is there; None where nothing is."""
    column = identifier(name)
    asked = f"SELECT epoch(max({column})) - epoch(min({column})) FROM {subject.source} WHERE isfinite({column})"
    seconds = cursor.execute(asked).fetchall()[0][0]
    if seconds is None:
        return None
    return next((unit for unit, size in UNITS.items() if ceil(seconds / size) <= MOST_BUCKETS), "year")
