"""Which rows of a table to mark: those of which a person's label says most, and some at random to measure by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Literal, get_args

from tidemill.config import Pipeline
from tidemill.errors import ConfigError
from tidemill.lake import Cursor, Lake, ResultTable
from tidemill.lake.ledger import PATHS_OF_SHARDS
from tidemill.lake.records.marks import MARKED, Place
from tidemill.lake.records.samples import Picked, replace_sample
from tidemill.lake.runs import user_name
from tidemill.lake.tables import fields_in, identifier, literal
from tidemill.pictures.making import find_subject
from tidemill.results.promotion import find_standing, load_table

Way = Literal["unsure", "disagreeing", "random"]
WAYS: tuple[Way, ...] = get_args(Way)
MAX_SLICES = 1_000
"""Slices of which rows are picked at random: those that have most rows."""


@dataclass(frozen=True)
class Picking:
    """How rows are picked. `truth` gives, in SQL over the table's columns, the answer that is held against the label,
    and the label that is right; `against` is another version's table.
    """

    num_rows: int
    ways: Sequence[Way] = ()
    by: str | None = None
    truth: tuple[str, str] | None = None
    against: ResultTable | None = None
    seed: int = 0


def sample_rows(
    pipeline: Pipeline,
    *,
    num_rows: int,
    ways: Sequence[str] = (),
    by: str | None = None,
    against: str | None = None,
    seed: int = 0,
) -> list[Picked]:
    """Pick rows of a pipeline's table, and let them be what is to be marked of it.

    Raises:
        LakeError: there is no lake, pipeline or version.
        ConfigError: there is no such way, or it needs what the table does not have; or all rows are marked.
    """
    if unknown := [way for way in ways if way not in WAYS]:
        raise ConfigError(f"--how {unknown[0]} is no way to pick rows. Ways: {', '.join(WAYS)}.")
    Lake(pipeline.lake, read_only=True).close()
    with Lake(pipeline.lake, scans=True) as lake:
        with lake.snapshot() as cursor:
            subject = find_subject(cursor, pipeline, texts=False)
            other = None
            if against is not None:
                other = load_table(cursor, pipeline.name, find_standing(cursor, pipeline.name, against).version)
            # What is right by marks is marked already.
            by_columns = subject.truth if subject.truth and not subject.truth.names_marks else None
            truth = (by_columns.answer, by_columns.truth) if by_columns else None
            asked = [way for way in WAYS if way in ways]
            picking = Picking(num_rows, asked, by, truth, other, seed)
            picked = pick_rows(cursor, subject.table, picking)
        if not picked:
            raise ConfigError(f"{pipeline.name} has no row to mark: the table is empty, or its rows are marked.")
        replace_sample(lake, pipeline.name, picked, who=user_name())
    return picked


def pick_rows(cursor: Cursor, table: ResultTable, picking: Picking) -> list[Picked]:
    """Rows that are not marked yet, the ways in turn, each way's best first. The same rows for the same table and seed.

    Ways that are not asked for by name are left out where the table does not have what they need.

    Raises:
        ConfigError: a way that was asked for, or `by`, needs what the table does not have.
    """
    if picking.by is not None and picking.by not in {name for name, _ in table.shown}:
        kept = ", ".join(name for name, _ in table.kept) or "none"
        raise ConfigError(f"--by {picking.by} is not a column of {table.pipeline}. Key and kept columns: {kept}.")
    ways = picking.ways or [way for way in WAYS if not _missing(table, picking, way)]
    for way in ways:
        if problem := _missing(table, picking, way):
            raise ConfigError(problem)
    found = [_rows(cursor, table, _QUERIES[way](table, picking)) for way in ways]
    in_turn = (row for row in chain.from_iterable(zip_longest(*found)) if row is not None)
    by_place: dict[Place, Picked] = {}
    for row in in_turn:
        by_place.setdefault(row.place, row)
    return list(by_place.values())[: picking.num_rows]


def _missing(table: ResultTable, picking: Picking, way: Way) -> str | None:
    """What the table lacks for a way, and what to do about it."""
    if way == "unsure" and _confidence(table) is None:
        return f"Nothing in {table.name} says how sure an answer is. Leave out --how unsure, or set model.all_scores."
    if way == "disagreeing" and not (_has_label(table) and (picking.truth or picking.against)):
        return (
            f"--how disagreeing needs a label in {table.name} and something to hold it against. Set report.truth to an "
            "SQL expression that gives the right label, or name another version: --against VERSION."
        )
    return None


def _has_label(table: ResultTable) -> bool:
    return any(name == "label" for name, _ in table.results)


def _confidence(table: ResultTable) -> str | None:
    """SQL: how sure an answer is; the least of a list's."""
    kinds = dict(table.results)
    if "scores" in kinds and kinds["scores"].startswith("MAP"):
        best = "list_reverse_sort(map_values(scores))"
        return f"{best}[1] - coalesce({best}[2], 0)"
    if "label" in kinds and "score" in kinds:
        return "score"
    lists = [name for name, kind in kinds.items() if "score" in fields_in(kind)]
    return f"list_min(list_transform({identifier(lists[0])}, lambda one: one.score))" if lists else None


def _unsure(table: ResultTable, picking: Picking) -> str:
    sure = _confidence(table)
    return (
        f"SELECT shard_id, row_number, 'unsure: ' || round({sure}, 4) AS reason FROM unmarked "
        f"WHERE ({sure}) IS NOT NULL AND NOT isnan({sure}) ORDER BY {sure}, shard_id, row_number "
        f"LIMIT {picking.num_rows}"
    )


def _disagreeing(table: ResultTable, picking: Picking) -> str:
    """The surest first: there the model or the truth is plainly wrong."""
    answer, right, join = *(picking.truth or ("", "")), ""
    told = f"'the model says ' || ({answer}) || ', the truth ' || ({right})"
    if picking.against is not None:
        other, answer, right = picking.against, "label", "_other"
        told = f"label || ' in {table.version}, ' || _other || ' in {other.version}'"
        columns = "shard_id, row_number, label AS _other"
        join = f"JOIN (SELECT {columns} FROM {identifier(other.name)}) USING (shard_id, row_number)"
    return (
        f"SELECT shard_id, row_number, {told} AS reason FROM unmarked {join} WHERE ({answer}) <> ({right}) "
        f"ORDER BY {_confidence(table) or 0} DESC NULLS LAST, shard_id, row_number LIMIT {picking.num_rows}"
    )


def _random(table: ResultTable, picking: Picking) -> str:
    """As many of each slice, in turn. A hash of the place decides, so that no table is sorted."""
    chance = f"hash(shard_id, row_number, {picking.seed})"
    column = f"{identifier(picking.by)}::VARCHAR" if picking.by else "NULL::VARCHAR"
    told = f"{literal(f'random of {picking.by} = ')} || coalesce(slice, 'NULL')" if picking.by else "'random'"
    slices = (
        f"SELECT slice, arg_min((shard_id, row_number), chance, {picking.num_rows}) AS places "
        f"FROM (SELECT shard_id, row_number, {column} AS slice, {chance} AS chance FROM unmarked) "
        f"GROUP BY slice ORDER BY count(*) DESC, slice LIMIT {MAX_SLICES}"
    )
    return (
        f"SELECT place[1] AS shard_id, place[2] AS row_number, {told} AS reason FROM "
        f"(SELECT slice, unnest(places) AS place, generate_subscripts(places, 1) AS turn FROM ({slices})) "
        f"ORDER BY turn, hash(place), slice LIMIT {picking.num_rows}"
    )


_QUERIES = {"unsure": _unsure, "disagreeing": _disagreeing, "random": _random}


def _rows(cursor: Cursor, table: ResultTable, query: str) -> list[Picked]:
    """Of each row that a query gives, in its order: the place, the file and the reason."""
    unmarked = f"SELECT * FROM {identifier(table.name)} ANTI JOIN ({MARKED}) USING (shard_id, row_number)"
    rows = cursor.execute(
        f"WITH unmarked AS ({unmarked}), picked AS ({query}) SELECT p.shard_id, p.row_number, l.path, p.reason "
        f"FROM (SELECT *, row_number() OVER () AS nth FROM picked) p JOIN ({PATHS_OF_SHARDS}) l USING (shard_id) "
        "ORDER BY p.nth",
        [table.pipeline, table.pipeline, table.version],
    ).fetchall()
    return [Picked(Place(shard_id, number), path, reason) for shard_id, number, path, reason in rows]
