"""SQL that several figures share: the first values of a column, the others together, and times in buckets."""

from __future__ import annotations

from textwrap import dedent

from tidemill.lake.tables import literal
from tidemill.pictures.figures.columns import Moment
from tidemill.pictures.figures.figure import OTHERS

MOST_SHOWN = 12
"""Values of a column that a picture tells apart; the others are counted together."""
OTHERS_NOTE = f'Of {{}}, the {MOST_SHOWN} most frequent are shown; all others are counted together as "{OTHERS}".'
"""Said of a picture in which there are others."""


def laid_out(query: str) -> str:
    """A query as it is shown and run, without the margin that it has in a program."""
    return dedent(query).strip()


def named(expression: str) -> str:
    """SQL: a value as a name; NULL has one as well."""
    return f"coalesce({expression}::VARCHAR, 'NULL')"


def first(source: str, expression: str) -> str:
    """SQL: a query of the `_name`s of the values with the most rows, and the `_place` of each, from 1.

    What figures name begins with an underscore, and is grouped by its place, where a kept column may have any name.
    """
    return (
        f"(SELECT {named(expression)} AS _name, row_number() OVER (ORDER BY count(*) DESC, {named(expression)}) "
        f"AS _place FROM {source} GROUP BY 1 QUALIFY _place <= {MOST_SHOWN})"
    )


def bucket(moment: Moment, unit: str, timezone: str) -> str:
    """SQL: the bucket of a date or time as text. Moments with a time zone are told in `timezone`."""
    local = f"timezone({literal(timezone)}, {moment.moment})" if moment.is_zoned else moment.moment
    form = {"hour": "%Y-%m-%d %H:00", "day": "%Y-%m-%d", "week": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}[unit]
    return f"strftime(date_trunc({literal(unit)}, {local}), {literal(form)})"
