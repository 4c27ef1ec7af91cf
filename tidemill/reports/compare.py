"""Two versions of a table, row by row: which answers are different ones, how far numbers drifted, in which slices.

Rows are matched by shard and row number: the same content at the same place.
What two versions made of different revisions of a file is never compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tidemill.errors import ConfigError
from tidemill.lake import Cursor, Lake, ResultTable
from tidemill.lake.ledger import PATHS_OF_SHARDS
from tidemill.lake.records.marks import MARKED
from tidemill.lake.tables import TEXT_HASH, existing_columns, identifier
from tidemill.models.comparing import Labels, Lists, Maps, Scores, Texts, Vectors
from tidemill.reports.pairs import Shared, TwoVersions, different_pairs, pairs_query
from tidemill.reports.truth import Judge, held_against, highest_label

GROUPS = tuple(kind.group for kind in (Labels, Texts, Scores, Lists, Vectors, Maps))
"""What a report has in any case, empty where there is nothing of the kind."""

LABEL = "label"
"""The result column that a mark says the right value of."""


def compare_versions(
    lake: Lake,
    pipeline: str,
    first: str,
    second: str,
    *,
    by: str | None = None,
    num_examples: int = 5,
    truth: str | None = None,
    positive: str | None = None,
) -> dict[str, Any]:
    """Hold the second version against the first, over the rows that both have, in one snapshot.

    Each result column is compared as its model task says, or else by its type.
    Examples are rows whose answers are different ones; where there are only
    numbers, those that drifted most. Slices come with the least agreement first.
    `truth` is SQL that says of rows what is right, see `reports.truth`; of a boolean, true means `positive`, or else
    the label of the models' highest id.

    Raises:
        LakeError: there is no such pipeline or version.
        InputError: `by` is not a key or kept column, or `truth` cannot be held against the labels.
    """
    cursor = lake.cursor()
    cursor.execute("BEGIN")
    versions = TwoVersions.of(cursor, pipeline, first, second)
    a, b, shared = versions.a, versions.b, versions.shared
    if by is not None and by not in shared.kept:
        raise ConfigError(
            f"--by {by} is not a key or kept column of {pipeline}. Known: {', '.join(shared.kept) or 'none'}. "
            "Name the column in dataset.keep, and `tidemill run` puts it beside the predictions."
        )
    text_hash = f"a.{TEXT_HASH}" if TEXT_HASH in dict(existing_columns(cursor, a.name)) else "NULL::UUID"
    # A view of this connection alone.
    cursor.execute(f"CREATE OR REPLACE TEMP VIEW pairs AS {pairs_query(a, b, shared, text_hash=text_hash)}")
    overall = next(_measure(cursor, shared))
    for comparison, pair in shared.columns:
        overall[comparison.group][pair.name] |= comparison.details(cursor, pair)
    num_compared = overall.pop("rows")
    judged = {} if truth is None else {"truth": _judged(cursor, versions, truth, positive, by)}
    report = {
        "pipeline": pipeline,
        "versions": [a.version, b.version],
        "promoted_version": versions.promoted_version,
        "differences": list(versions.differences),
        "rows": {
            "compared": num_compared,
            "only_in": {table.version: _num_rows(cursor, table) - num_compared for table in (a, b)},
        },
        **overall,
        **judged,
        "marks": _marks(cursor, a, shared),
        "examples": _examples(cursor, a, shared, num_examples),
        "by": by,
        "slices": list(_measure(cursor, shared, by)) if by else [],
        "notes": list(versions.notes),
    }
    cursor.execute("ROLLBACK")
    return report


def _judged(cursor: Cursor, versions: TwoVersions, truth: str, positive: str | None, by: str | None) -> dict[str, Any]:
    shared = versions.shared
    labels = [pair for comparison, pair in shared.columns if isinstance(comparison, Labels)]
    if not labels:
        raise ConfigError("--truth is held against labels, and these versions have none in common. Leave it out.")
    judge = Judge(
        truth,
        [spec.model for spec in versions.specs],
        lambda: positive or next(filter(None, map(highest_label, versions.specs)), None),
    )
    found = held_against(cursor, judge, labels[0], shared.kept, by)
    names = [versions.a.version, versions.b.version]
    for part in (found, *found.get("slices", [])):
        part |= {name: dict(zip(names, part[name], strict=True)) for name in ("accuracy", "f1")}
    return found


def _measure(cursor: Cursor, shared: Shared, by: str | None = None) -> Iterator[dict[str, Any]]:
    """Agreement and drift of all pairs, or of each slice."""
    measures = [comparison.measures(pair) for comparison, pair in shared.columns]
    value = identifier(by) if by else "NULL"
    # Numbers have no common scale to be added up by: they decide where there is nothing else.
    deciding = shared.answers or shared.numbers[:1]
    distance = " + ".join(f"({comparison.distance(pair)})" for comparison, pair in deciding)
    order = [*([f"{distance} DESC"] if distance else []), "count(*) DESC", "_slice"]
    rows = cursor.execute(
        f"SELECT {', '.join([f'{value} AS _slice', 'count(*)', *(each for some in measures for each in some)])} "
        f"FROM pairs {'GROUP BY _slice' if by else ''} ORDER BY {', '.join(order)}"
    ).fetchall()
    for found, num_rows, *values in rows:
        left = iter(values)
        measured: dict[str, Any] = {"rows": num_rows, **{group: {} for group in GROUPS}}
        for (comparison, pair), some in zip(shared.columns, measures, strict=True):
            facts = comparison.facts([next(left) for _ in some], num_rows)
            measured.setdefault(comparison.group, {})[pair.name] = facts
        yield {"value": found, **measured} if by else measured


def _marks(cursor: Cursor, a: ResultTable, shared: Shared) -> dict[str, Any]:
    """Of the rows that people marked, how many each version's label is right of."""
    label = next((pair for comparison, pair in shared.columns if pair.name == LABEL), None)
    if label is None:
        return {"rows": 0, "right": {}}
    sides = [f"count(*) FILTER ({side} = mark)" for side in (label.first, label.second)]
    num_rows, *right = cursor.execute(
        f"SELECT count(*), {', '.join(sides)} FROM pairs "
        f"JOIN ({MARKED}) m ON m.shard_id = _shard_id AND m.row_number = _row_number",
        [a.pipeline],
    ).fetchall()[0]
    return {"rows": num_rows, "right": dict(zip(("first", "second"), right, strict=True))}


def _examples(cursor: Cursor, a: ResultTable, shared: Shared, num_examples: int) -> list[dict[str, Any]]:
    if not shared.columns or not num_examples:
        return []
    apart = [(pair.name, *each) for comparison, pair in shared.columns for each in comparison.apart(pair).items()]
    firsts, seconds = ([getattr(pair, side) for _, pair in shared.columns] for side in ("first", "second"))
    shown = [*map(identifier, shared.kept), *firsts, *seconds, *(value for *_, value in apart)]
    condition, order = different_pairs(shared)
    in_order = ", ".join([*order, "_path", "_row_number"])
    # What is apart in them is worked out of the examples alone.
    found = (
        f"SELECT pairs.*, l.path AS _path FROM pairs JOIN ({PATHS_OF_SHARDS}) l ON l.shard_id = _shard_id "
        f"WHERE {condition} ORDER BY {in_order} LIMIT ?"
    )
    rows = cursor.execute(
        f"SELECT {', '.join(['_path', '_row_number', *shown])} FROM ({found}) ORDER BY {in_order}",
        [a.pipeline, a.version, num_examples],
    ).fetchall()
    return [_example(row, shared, [names for *names, _ in apart]) for row in rows]


def _example(row: Sequence[Any], shared: Shared, apart: Sequence[Sequence[str]]) -> dict[str, Any]:
    left = iter(row)
    example: dict[str, Any] = {"path": next(left), "row_number": next(left)}
    for part, names in (("columns", shared.kept), ("first", shared.names), ("second", shared.names)):
        example[part] = {name: next(left) for name in names}
    for column, name in apart:
        example.setdefault("apart", {}).setdefault(column, {})[name] = next(left)
    return example


def _num_rows(cursor: Cursor, table: ResultTable) -> int:
    return int(cursor.execute(f"SELECT count(*) FROM {identifier(table.name)}").fetchall()[0][0])
