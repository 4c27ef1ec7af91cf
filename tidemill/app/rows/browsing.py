"""Pages of a table, by SQL: what is read is a page of rows and the columns that a filter asks for.

Shards are asked in the order of their files, one and then some at a time, until a page is
full: of what is frequent it is at once. Of what is rare in the first one, the rest of the table is asked as a whole
where that is quick by what the first one took; else a page says after a bound of time how far it has looked,
and the next one goes on from there. Sorted by score, a page is the rows after the last one's score and place.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tidemill.app.rows.filters import Filter
from tidemill.lake import Cursor, ResultTable
from tidemill.lake.ledger import DonePlace, in_source_order
from tidemill.lake.records.marks import Place, labels_at
from tidemill.lake.tables import identifier

Order = Literal["by file", "least score first", "highest score first"]
PAGE_ROWS = 100
SECONDS = 0.6
"""How long shards are asked for one page, before it says that there are more to ask."""
MOST_ONE_BY_ONE = 8
"""So many shards are asked at a time, at first one: a page of what is frequent is full then."""
SECONDS_AT_ONCE = 0.9
"""What is left of a table is asked as a whole where that will take no longer."""
AT_ONCE_IS_FASTER = 2.0
"""How many times as many rows a second are looked at then."""
_DIRECTIONS = {"least score first": ("ASC", ">", "<="), "highest score first": ("DESC", "<", ">=")}
"""The direction, and how scores compare that come later, and that do not."""


@dataclass(frozen=True)
class Start:
    """Where a page begins: at a row of the shard so far down the files, or after a row of such a score."""

    shard: int = 0
    row_number: int = -1
    score: float | None = None
    place: Place | None = None


@dataclass(frozen=True)
class Page:
    """Rows of a table, `columns` of each, and where the next page begins, None at the end.

    `num_looked_at` of the table's `num_rows` have been asked once this page was full.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    places: list[Place]
    paths: list[str]
    marks: dict[Place, str]
    next: Start | None
    num_rows: int
    num_looked_at: int
    start: Start = field(default_factory=Start)


def read_page(
    cursor: Cursor,
    table: ResultTable,
    asked: Filter,
    start: Start,
    *,
    order: Order = "by file",
    num_rows: int = PAGE_ROWS,
    seconds: float = SECONDS,
    seconds_at_once: float = SECONDS_AT_ONCE,
) -> Page:
    """
    Raises:
        ConfigError: the filter asks for a column that is not there, or is no condition.
        duckdb.Error: a value does not fit its column.
    """
    shards = in_source_order(cursor, table.pipeline, table.version)
    condition = asked.to_sql(cursor, table)
    scores: tuple[float, float] | None = None
    if order == "by file":
        bounds = (seconds, seconds_at_once)
        places, after, looked_at = _in_order(cursor, table, shards, condition, start, num_rows, bounds)
    else:
        places, after, scores = _by_score(cursor, table, condition, start, order, num_rows)
        looked_at = sum(shard.num_rows for shard in shards)
    columns = tuple(name for name, _ in (*table.kept, *table.results))
    by_place = rows_at(cursor, table, places, columns, scores=scores)
    paths = {shard.shard_id: shard.path for shard in shards}
    there = [place for place in places if place in by_place]
    return Page(
        columns,
        [by_place[place] for place in there],
        there,
        [paths[place.shard_id] for place in there],
        labels_at(cursor, table.pipeline, there),
        after,
        sum(shard.num_rows for shard in shards),
        looked_at,
        start,
    )


def rows_at(
    cursor: Cursor,
    table: ResultTable,
    places: Sequence[Place],
    columns: Sequence[str],
    *,
    scores: tuple[float, float] | None = None,
) -> dict[Place, tuple[Any, ...]]:
    """These columns of the rows at some places. That their scores lie between two spares a look at others."""
    if not places:
        return {}
    numbers, shards = [place.row_number for place in places], sorted({place.shard_id for place in places})
    asked = f"SELECT shard_id, row_number, {', '.join(map(identifier, columns))} FROM {identifier(table.name)} WHERE "
    among = "row_number BETWEEN ? AND ? AND row_number IN (SELECT unnest(?::BIGINT[]))"
    bounds: list[object] = [min(numbers), max(numbers), numbers]
    if scores is not None:
        among += " AND score BETWEEN ?::FLOAT AND ?::FLOAT"
        bounds += scores
    of_each = [f"{asked} shard_id = ? AND {among}"] * len(shards)
    values: list[object] = [value for shard in shards for value in (shard, *bounds)]
    if len(shards) > MOST_ONE_BY_ONE:
        of_each, values = [f"{asked} shard_id IN (SELECT unnest(?::VARCHAR[])) AND {among}"], [shards, *bounds]
    rows = cursor.execute(" UNION ALL ".join(of_each), values).fetchall()
    return {Place(shard_id, number): tuple(row) for shard_id, number, *row in rows}


def _in_order(
    cursor: Cursor,
    table: ResultTable,
    shards: Sequence[DonePlace],
    condition: tuple[str, list[object]],
    start: Start,
    num_rows: int,
    bounds: tuple[float, float],
) -> tuple[list[Place], Start | None, int]:
    """The places, where the next page begins, and how many rows of the table were looked at until then."""
    seconds, seconds_at_once = bounds
    began, at, places = time.monotonic(), start, list[Place]()
    num_asked = 1
    while at.shard < len(shards):
        if at.shard > start.shard and 4 * len(places) < num_rows:
            took, rows_asked = time.monotonic() - began, _before(shards, at.shard) - _before(shards, start.shard)
            # The rest is found in a look at every row of the table.
            if took * _before(shards, len(shards)) <= seconds_at_once * AT_ONCE_IS_FASTER * rows_asked:
                num_asked = len(shards)
        group = shards[at.shard : at.shard + num_asked]
        places += _matching(cursor, table, group, condition, at.row_number, num_rows + 1 - len(places))
        if len(places) > num_rows:
            following = places[num_rows]
            number = next(i for i, shard in enumerate(shards) if shard.shard_id == following.shard_id)
            return places[:num_rows], Start(number, following.row_number - 1), _before(shards, number)
        at = Start(at.shard + len(group))
        if time.monotonic() - began > seconds:
            break
        num_asked = min(2 * num_asked, MOST_ONE_BY_ONE)
    return places, at if at.shard < len(shards) else None, _before(shards, at.shard)


def _before(shards: Sequence[DonePlace], number: int) -> int:
    return sum(shard.num_rows for shard in shards[:number])


def _matching(
    cursor: Cursor,
    table: ResultTable,
    group: Sequence[DonePlace],
    condition: tuple[str, list[object]],
    after: int,
    limit: int,
) -> list[Place]:
    """The first places in a group of shards, after a row of the first one, for which the condition holds.

    DuckLake leaves out files for one shard, and for none of a list: a few shards are asked one by one, many as a whole.
    """
    holds, values = condition
    name, given = identifier(table.name), list[object]()
    if len(group) <= MOST_ONE_BY_ONE:
        parts = []
        for nth, shard in enumerate(group):
            beyond = "AND row_number > ?" if nth == 0 else ""
            parts.append(
                f"SELECT {nth} AS nth, shard_id, row_number FROM {name} WHERE shard_id = ? {beyond} AND ({holds})"
            )
            given += [shard.shard_id, *([after] if nth == 0 else []), *values]
        source = " UNION ALL ".join(parts)
    else:
        ids = [shard.shard_id for shard in group]
        source = (
            f"SELECT nth, shard_id, row_number FROM (SELECT shard_id, row_number FROM {name} WHERE {holds}) "
            "JOIN (SELECT unnest(?::VARCHAR[]) AS shard_id, generate_subscripts(?::VARCHAR[], 1) AS nth) "
            "USING (shard_id) WHERE nth > 1 OR row_number > ?"
        )
        given = [*values, ids, ids, after]
    rows = cursor.execute(
        f"SELECT shard_id, row_number FROM ({source}) ORDER BY nth, row_number LIMIT ?", [*given, limit]
    ).fetchall()
    return [Place(*row) for row in rows]


def _by_score(
    cursor: Cursor,
    table: ResultTable,
    condition: tuple[str, list[object]],
    start: Start,
    order: Order,
    num_rows: int,
) -> tuple[list[Place], Start | None, tuple[float, float] | None]:
    """The places, where the next page begins, and between which scores they are."""
    holds, values = condition
    direction, beyond, within = _DIRECTIONS[order]
    onward, given = "score IS NOT NULL", list[object]()
    if start.place is not None:
        onward = f"(score {beyond} ? OR (score = ? AND (shard_id, row_number) > (?, ?)))"
        given = [start.score, start.score, *start.place]
    # The scores alone say how far the page goes: of millions of rows only its own are sorted by their places.
    last = cursor.execute(
        f"SELECT score FROM {identifier(table.name)} WHERE {onward} AND ({holds}) "
        f"ORDER BY score {direction} LIMIT 1 OFFSET ?",
        [*given, *values, num_rows],
    ).fetchone()
    if last is not None:
        onward, given = f"score {within} ? AND {onward}", [*last, *given]
    rows = cursor.execute(
        f"SELECT score, shard_id, row_number FROM {identifier(table.name)} WHERE {onward} AND ({holds}) "
        f"ORDER BY score {direction}, shard_id, row_number LIMIT ?",
        [*given, *values, num_rows + 1],
    ).fetchall()
    if not rows:
        return [], None, None
    places = [Place(shard_id, number) for _, shard_id, number in rows[:num_rows]]
    after = Start(score=rows[num_rows - 1][0], place=places[-1]) if len(rows) > num_rows else None
    lowest, highest = (rows[0][0], rows[-1][0]) if direction == "ASC" else (rows[-1][0], rows[0][0])
    return places, after, (lowest, highest)
