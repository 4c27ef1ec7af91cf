"""How a table is kept: what could not be processed, what ran, which shards are done, and what waits."""

from __future__ import annotations

from collections.abc import Iterator

from tidemill.lake import health
from tidemill.pictures.figures.figure import Axes, Figure
from tidemill.pictures.figures.subject import Subject

SECTION = "Health"


def figures(subject: Subject) -> Iterator[Figure]:
    name, version = subject.table.pipeline, subject.table.version
    yield Figure(
        id="shards",
        section=SECTION,
        title="Shards by state",
        tells="How many pieces of the dataset's files are in the table, and how many are not.",
        sql=health.shards_by_state(name, version),
        kind="bars",
        axes=Axes(x="state", y="num_shards", x_title="state", y_title="shards"),
    )
    yield Figure(
        id="runs",
        section=SECTION,
        title="Runs",
        tells="What ran last, the newest first: rows, tokens per second, seconds and cost against their estimates.",
        sql=health.runs(name),
    )
    yield Figure(
        id="late",
        section=SECTION,
        title="What waits",
        tells="Shards that were asked for and are not committed, those first that wait longest.",
        sql=health.late_shards(name),
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
