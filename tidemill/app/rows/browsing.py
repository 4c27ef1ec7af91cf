"""Pages of a table, by SQL: what is read is a page of rows and the columns that a filter asks for.

Without a filter, the ledger says in which shards a page lies. With one, shards are
asked in the order of their files, more at a time as they prove quick, until a page is full
or a bound of time has passed; then the page says how far it has looked, and the next one goes on
from there. Sorted by score, a page is the rows after the last one's score and place.
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
FIRST_ROWS = 300_000
"""Of how many rows shards are asked at first: in some tenths of a second, whatever the filter."""
_DIRECTIONS = {"least score first": ("ASC", ">"), "highest score first": ("DESC", "<")}


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
) -> Page:
    """
    Raises:
        ConfigError: the filter asks for a column that is not there, or is no condition.
        duckdb.Error: a value does not fit its column.
    """
    shards = in_source_order(cursor, table.pipeline, table.version)
    condition, values = asked.to_sql(cursor, table)
    if order == "by file":
        places, after, looked_at = _in_order(cursor, table, shards, condition, values, start, num_rows, seconds)
    else:
        places, after = _by_score(cursor, table, condition, values, start, order, num_rows)
        looked_at = sum(shard.num_rows for shard in shards)
    columns = tuple(name for name, _ in (*table.kept, *table.results))
    by_place = rows_at(cursor, table, places, columns)
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
    cursor: Cursor, table: ResultTable, places: Sequence[Place], columns: Sequence[str]
) -> dict[Place, tuple[Any, ...]]:
    """These columns of the rows at some places."""
    if not places:
        return {}
    numbers = [place.row_number for place in places]
    shown = ", ".join(map(identifier, columns))
    rows = cursor.execute(
        f"SELECT shard_id, row_number, {shown} FROM {identifier(table.name)} "
        f"WHERE shard_id IN ({_listed({place.shard_id for place in places})}) AND row_number BETWEEN ? AND ? "
        "AND row_number IN (SELECT unnest(?::BIGINT[]))",
        [min(numbers), max(numbers), numbers],
    ).fetchall()
    return {Place(shard_id, number): tuple(row) for shard_id, number, *row in rows}


def _in_order(
    cursor: Cursor,
    table: ResultTable,
    shards: Sequence[DonePlace],
    condition: str,
    values: Sequence[object],
    start: Start,
    num_rows: int,
    seconds: float,
) -> tuple[list[Place], Start | None, int]:
    began, at, places = time.monotonic(), start, list[Place]()
    bound = FIRST_ROWS if condition != "true" else num_rows + 1
    while at.shard < len(shards):
        group = _group(shards, at, bound)
        asked_at = time.monotonic()
        found = _matching(cursor, table, group, condition, values, at.row_number, num_rows + 1 - len(places))
        places += found
        at = Start(at.shard + len(group))
        if len(places) > num_rows:
            kept, following = places[:num_rows], places[num_rows]
            number = [shard.shard_id for shard in shards].index(following.shard_id)
            return kept, Start(number, following.row_number - 1), _before(shards, number)
        left = seconds - (time.monotonic() - began)
        if left <= 0:
            break
        rate = sum(shard.num_rows for shard in group) / max(time.monotonic() - asked_at, 1e-3)
        bound = max(bound, int(min(rate * left, 8 * max(bound, FIRST_ROWS))))
    return places, at if at.shard < len(shards) else None, _before(shards, at.shard)


def _before(shards: Sequence[DonePlace], number: int) -> int:
    return sum(shard.num_rows for shard in shards[:number])


def _group(shards: Sequence[DonePlace], at: Start, bound: int) -> Sequence[DonePlace]:
    """The next shards, of about so many rows together; one at least."""
    rows, stop = shards[at.shard].num_rows, at.shard + 1
    while stop < len(shards) and rows < bound:
        rows += shards[stop].num_rows
        stop += 1
    return shards[at.shard : stop]


def _matching(
    cursor: Cursor,
    table: ResultTable,
    group: Sequence[DonePlace],
    condition: str,
    values: Sequence[object],
    after: int,
    limit: int,
) -> list[Place]:
    """The first places in a group of shards, after a row of the first one, for which the condition holds."""
    ids = [shard.shard_id for shard in group]
    rows = cursor.execute(
        f"SELECT shard_id, row_number FROM {identifier(table.name)} WHERE shard_id IN ({_listed(ids)}) "
        f"AND (shard_id <> ? OR row_number > ?) AND ({condition}) "
        "ORDER BY list_position(?, shard_id), row_number LIMIT ?",
        [ids[0], after, *values, ids, limit],
    ).fetchall()
    return [Place(*row) for row in rows]


def _by_score(
    cursor: Cursor,
    table: ResultTable,
    condition: str,
    values: Sequence[object],
    start: Start,
    order: Order,
    num_rows: int,
) -> tuple[list[Place], Start | None]:
    direction, beyond = _DIRECTIONS[order]
    onward, given = "score IS NOT NULL", list[object]()
    if start.place is not None:
        onward = f"(score {beyond} ? OR (score = ? AND (shard_id, row_number) > (?, ?)))"
        given = [start.score, start.score, *start.place]
    rows = cursor.execute(
        f"SELECT score, shard_id, row_number FROM {identifier(table.name)} WHERE {onward} AND ({condition}) "
        f"ORDER BY score {direction}, shard_id, row_number LIMIT ?",
        [*given, *values, num_rows + 1],
    ).fetchall()
    places = [Place(shard_id, number) for _, shard_id, number in rows[:num_rows]]
    after = Start(score=rows[num_rows - 1][0], place=places[-1]) if len(rows) > num_rows else None
    return places, after


def _listed(shard_ids: Sequence[str] | set[str]) -> str:
    """SQL: as literals, by which DuckDB leaves out row groups."""
    return ", ".join(f"'{shard_id}'" for shard_id in sorted(shard_ids))
