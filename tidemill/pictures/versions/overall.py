"""All compared columns at a glance."""

from __future__ import annotations

from tidemill.lake.tables import literal
from tidemill.models.comparing import Comparison, Pair
from tidemill.pictures.figures.figure import Figure
from tidemill.pictures.figures.subject import Subject
from tidemill.pictures.versions.two import PAIRS, Two


def overall(subject: Subject, two: Two) -> Figure:
    first, second = two.names
    queries = [_of_column(comparison, pair) for comparison, pair in two.columns]
    nothing = f"SELECT 'no column' AS _column, count(*) AS num_rows FROM {PAIRS}"
    return Figure(
        id="versions",
        section=two.section,
        title="What the two agree on",
        tells=f"The rows that both {first}, which is promoted, and {second} have; of each column how many differ.",
        sql=two.pairs(subject).sql("\nUNION ALL ".join(queries) or nothing),
        notes=(
            *(f"{second} was made with {difference}." for difference in two.versions.differences),
            *two.versions.notes,
        ),
    )


def _of_column(comparison: Comparison, pair: Pair) -> str:
    differs = comparison.differs(pair)
    num_different = f"count(*) FILTER ({differs})" if differs else "NULL"
    return (
        f"SELECT {literal(pair.name)} AS _column, count(*) AS num_rows, {num_different} AS num_different,\n"
        f"  {comparison.distance(pair)} AS _distance, {literal(comparison.distance_called)} AS distance_is FROM {PAIRS}"
    )
