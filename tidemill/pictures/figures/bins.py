"""Numbers in bins, by SQL: how many rows have a number from here to there."""

from __future__ import annotations

from tidemill.lake.tables import identifier
from tidemill.pictures.figures.figure import OTHERS
from tidemill.pictures.figures.sql import first, laid_out, named

NUM_BINS = 20


def binned(source: str, number: str, series: str | None = None, *, whole: bool = False, unit: str = "rows") -> str:
    """SQL: rows by `<number>_from` and `<number>_to`, which is the next one's from, in about `NUM_BINS` bins.

    Bins begin at multiples of 1, 2 or 5 times a power of ten; the last one holds its end too, so that a share of 1 is
    not beyond 1. What is no finite number is left out. `source` is a name, as its columns may have any.
    """
    value = f"{source}.{identifier(number)}"
    place = f"floor({value} / bins.width)" if whole else f"least(floor({value} / bins.width), bins.last)"
    begin, end = (_edge(f"{place}{more}", whole=whole) for more in ("", " + 1"))
    least = "greatest(1, {})" if whole else "{}"
    width = least.format(
        "power * CASE WHEN share <= power THEN 1 WHEN share <= 2 * power THEN 2 "
        "WHEN share <= 5 * power THEN 5 ELSE 10 END"
    )
    names = f"names AS {first(source, f'{source}.{identifier(series)}')}," if series else ""
    by = f"coalesce(names._name, '{OTHERS}') AS {identifier(series)}, " if series else ""
    joined = f"LEFT JOIN names ON names._name = {named(f'{source}.{identifier(series)}')}" if series else ""
    return laid_out(f"""
        WITH {names}
        bounds AS (SELECT min({value})::DOUBLE AS low, max({value})::DOUBLE AS high
          FROM {source} WHERE isfinite({value}::DOUBLE)),
        shares AS (SELECT if(high > low, (high - low) / {NUM_BINS}, 0.1) AS share,
            pow(10, floor(log10(share))) AS power, low, high FROM bounds),
        bins AS (SELECT {width} AS width, greatest(ceil(high / width) - 1, floor(low / width)) AS last FROM shares)
        SELECT {begin} AS {identifier(f"{number}_from")}, {end} AS {identifier(f"{number}_to")},
          {by}count(*) AS num_{unit}
        FROM {source} CROSS JOIN bins {joined}
        WHERE isfinite({value}::DOUBLE)
        GROUP BY ALL ORDER BY 1{", min(names._place) NULLS LAST" if series else ""}
    """)


def _edge(number: str, *, whole: bool) -> str:
    edge = f"({number}) * bins.width"
    return f"({edge})::BIGINT" if whole else f"round({edge}, 12)"
