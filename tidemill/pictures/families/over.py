"""A column's values over something: dataset revisions, folders, dates, and the slices of a kept column."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from tidemill.lake import Cursor, health
from tidemill.lake.tables import identifier
from tidemill.pictures.figures.columns import Moment
from tidemill.pictures.figures.figure import Axes, Figure
from tidemill.pictures.figures.sql import MOST_SHOWN, OTHERS_NOTE, bucket, first, named
from tidemill.pictures.figures.subject import Subject

MOST_BUCKETS = 60
UNITS = {"hour": 3600, "day": 86_400, "week": 7 * 86_400, "month": 30 * 86_400, "year": 365 * 86_400}


def over_all(cursor: Cursor, subject: Subject, value: str, *, section: str) -> Iterator[Figure]:
    """The values of a column over all that a table has: revisions and folders where it has several, dates, slices."""
    if has_several(cursor, subject.view, "dataset_revision"):
        yield over_revision(subject, value, section=section)
    for moment in subject.kept.moments:
        if unit := unit_of(cursor, subject, moment):
            yield over_moment(subject, value, moment, unit, section=section)
    for name in subject.kept.slices:
        yield over_slice(subject, value, name, section=section)
    if has_several(cursor, health.folders(*subject.version), "folder"):
        yield over_folder(subject, value, section=section)


def over_slice(subject: Subject, value: str, name: str, *, section: str) -> Figure:
    return _shares(subject, value, subject.source, identifier(name), name, section=section)


def over_folder(subject: Subject, value: str, *, section: str) -> Figure:
    source = f"{subject.source} JOIN {health.folders(*subject.version)} AS files USING (shard_id)"
    return _shares(subject, value, source, "files.folder", "folder of files", section=section)


def _shares(subject: Subject, value: str, source: str, slice_: str, called: str, *, section: str) -> Figure:
    of_value = identifier(value)
    return Figure(
        id=f"{value}-by-{called}",
        section=section,
        title=f"{value.capitalize()} by {called}",
        tells=f"Which share of the {subject.unit} of each {called} has which {value}.",
        sql=subject.sql(f"""
            WITH slices AS {first(source, slice_)},
            names AS {first(subject.source, of_value)}
            SELECT coalesce(slices._name, 'others') AS _slice, coalesce(names._name, 'others') AS {of_value},
              count(*) AS num_{subject.unit}
            FROM {source}
            LEFT JOIN slices ON slices._name = {named(slice_)}
            LEFT JOIN names ON names._name = {named(of_value)}
            GROUP BY slices._name, slices._place, names._name, names._place
            ORDER BY slices._place NULLS LAST, names._place NULLS LAST
        """),
        kind="shares",
        axes=Axes(
            x="_slice", y=f"num_{subject.unit}", series=value, x_title=called, y_title=f"share of {subject.unit}"
        ),
        of_others=OTHERS_NOTE.format("either"),
    )


def over_revision(subject: Subject, value: str, *, section: str) -> Figure:
    of_value, timezone = identifier(value), subject.pipeline.schedule.timezone
    return Figure(
        id=f"{value}-by-dataset_revision",
        section=section,
        title=f"{value.capitalize()} by dataset revision",
        tells=f"Which share of the {subject.unit} that each dataset revision brought has which {value}, oldest first.",
        sql=subject.sql(f"""
            WITH revisions AS {health.revisions(subject.table.pipeline, timezone)},
            names AS {first(subject.source, of_value)}
            SELECT revisions.name AS _revision, coalesce(names._name, 'others') AS {of_value},
              count(*) AS num_{subject.unit}
            FROM {subject.source}
            JOIN (FROM revisions ORDER BY number DESC LIMIT {MOST_SHOWN}) AS revisions ON revision = dataset_revision
            LEFT JOIN names ON names._name = {named(of_value)}
            GROUP BY revisions.name, number, names._name, names._place
            ORDER BY number, names._place NULLS LAST
        """),
        kind="shares",
        axes=Axes(
            x="_revision",
            y=f"num_{subject.unit}",
            series=value,
            y_title=f"share of {subject.unit} (revisions by their time in {timezone})",
        ),
        of_others=OTHERS_NOTE.format(f"{value}s"),
        notes=(f"The latest {MOST_SHOWN} revisions. A row counts at the one that brought it.",),
    )


def over_moment(subject: Subject, value: str, moment: Moment, unit: str, *, section: str) -> Figure:
    of_value, timezone = identifier(value), subject.pipeline.schedule.timezone
    zone = timezone if moment.is_zoned else "as written, without a time zone"
    return Figure(
        id=f"{value}-by-{moment.name}",
        section=section,
        title=f"{value.capitalize()} by {unit} of {moment.name}",
        tells=f"How many {subject.unit} of each {unit} have which {value}.",
        sql=subject.sql(f"""
            WITH names AS {first(subject.source, of_value)}
            SELECT {bucket(moment, unit, timezone)} AS _bucket, coalesce(names._name, 'others') AS {of_value},
              count(*) AS num_{subject.unit}
            FROM {subject.source}
            LEFT JOIN names ON names._name = {named(of_value)}
            WHERE isfinite({moment.moment})
            GROUP BY 1, names._name, names._place
            ORDER BY 1, names._place NULLS LAST
        """),
        kind="columns",
        axes=Axes(
            x="_bucket",
            y=f"num_{subject.unit}",
            series=value,
            x_title=f"{moment.name} by {unit} ({zone})",
            y_title=subject.unit,
        ),
        of_others=OTHERS_NOTE.format(f"{value}s"),
        notes=(f"Rows without {moment.name} are left out.",),
    )


def has_several(cursor: Cursor, source: str, column: str) -> bool:
    found = cursor.execute(f"SELECT min({column}) < max({column}) FROM {source}").fetchall()
    return bool(found[0][0])


def unit_of(cursor: Cursor, subject: Subject, moment: Moment) -> str | None:
    """The smallest unit that makes few buckets of what is there, a day of what is all at midnight; None of nothing."""
    at = moment.moment
    asked = (
        f"SELECT epoch(max({at})) - epoch(min({at})), bool_and(date_trunc('day', {at}) = {at}) "
        f"FROM {subject.view} WHERE isfinite({at})"
    )
    ((seconds, are_days),) = cursor.execute(asked).fetchall()
    if seconds is None:
        return None
    units = [unit for unit in UNITS if not (are_days and unit == "hour")]
    return next((unit for unit in units if ceil(seconds / UNITS[unit]) <= MOST_BUCKETS), "year")
