"""How a table is kept: what could not be processed, what ran, which shards are done, and what waits."""

from __future__ import annotations

from collections.abc import Iterator

from tidemill.lake import health
from tidemill.pictures.figures.figure import Axes, Figure
from tidemill.pictures.figures.subject import Subject

SECTION = "Health"


def figures(subject: Subject) -> Iterator[Figure]:
    name, version = subject.version
    timezone = subject.pipeline.schedule.timezone
    yield Figure(
        id="shards",
        section=SECTION,
        title="Shards by state",
        tells="A shard is a piece of a file. How many are in the table, and how many are not.",
        sql=health.shards_by_state(name, version),
        kind="bars",
        axes=Axes(x="state", y="num_shards", y_title="shards"),
    )
    yield Figure(
        id="run-seconds",
        section=SECTION,
        title="Runs against their estimates",
        tells="How long the latest runs took that computed rows, beside what was estimated before.",
        sql=health.run_seconds(name, timezone),
        kind="pairs",
        axes=Axes(x="started", y="seconds", series="what", y_title=f"seconds (runs by their start in {timezone})"),
    )
    yield Figure(
        id="runs",
        section=SECTION,
        title="Runs",
        tells=f"What ran last, the newest first: time and cost beside their estimates. Starts are in {timezone}.",
        sql=health.runs(name, timezone),
    )
    yield Figure(
        id="late",
        section=SECTION,
        title="What waits",
        tells="Shards that were asked for and are not committed, those first that wait longest.",
        sql=health.late_shards(name, timezone),
    )
    yield Figure(
        id="quarantine",
        section=SECTION,
        title="Quarantine",
        tells="Rows that could not be processed, by stage and reason.",
        sql=health.quarantine_reasons(name, version),
    )
    yield Figure(
        id="quarantine-examples",
        section=SECTION,
        title="Rows in quarantine",
        tells="One row of each reason, by its file and its place there.",
        sql=health.quarantine_examples(name, version),
    )
