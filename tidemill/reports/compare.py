"""Two versions of a table, row by row: which answers are different ones, how far numbers drifted, in which slices.

Rows are matched by shard and row number: the same content at the same place.
What two versions made of different revisions of a file is never compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tidemill.errors import ConfigError
from tidemill.lake import Cursor, Lake, ResultTable
from tidemill.lake.ledger import PATHS_OF_SHARDS
from tidemill.lake.pipelines import load_spec
from tidemill.lake.records.marks import MARKED
from tidemill.lake.tables import TEXT_HASH, existing_columns, identifier
from tidemill.models.comparing import Comparison, Labels, Lists, Maps, Pair, Scores, Texts, Vectors, comparison_of
from tidemill.models.tasks import MODEL_TASKS
from tidemill.planning.versions import NUM_WINDOWS, VersionSpec
from tidemill.reports.truth import held_against
from tidemill.results.promotion import existing_state, find_version, load_table, standings

GROUPS = tuple(kind.group for kind in (Labels, Texts, Scores, Lists, Vectors, Maps))
"""What a report has in any case, empty where there is nothing of the kind."""

LABEL = "label"
"""The result column that a mark says the right value of."""

Compared = tuple[Comparison, Pair]


@dataclass(frozen=True)
class Shared:
    """What two versions' tables are compared by; other result columns are left out."""

    columns: tuple[Compared, ...]
    kept: tuple[str, ...]
    """Key and kept columns that either table has."""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, a: ResultTable, b: ResultTable, specs: tuple[VersionSpec, VersionSpec]) -> Shared:
        theirs, columns, notes = dict(b.results), [], []
        own = _comparisons_of(*specs)
        for name, kind in a.results:
            comparison = own.get(name) or comparison_of(kind)
            if name == NUM_WINDOWS or name not in theirs or comparison is None:
                continue
            if kind == theirs[name]:
                columns.append((comparison, Pair(name, kind)))
            else:
                notes.append(f"{name} is {kind} in {a.version} and {theirs[name]} in {b.version}, and is not compared.")
        kept = dict.fromkeys(name for name, _ in (*a.kept, *b.kept))
        return cls(tuple(columns), tuple(kept), tuple(notes))

    @property
    def names(self) -> list[str]:
        return [pair.name for _, pair in self.columns]

    @property
    def answers(self) -> tuple[Compared, ...]:
        """Those of which a row's two answers are the same one or not."""
        return tuple((comparison, pair) for comparison, pair in self.columns if comparison.differs(pair))

    @property
    def numbers(self) -> tuple[Compared, ...]:
        """Those that only drift."""
        return tuple((comparison, pair) for comparison, pair in self.columns if not comparison.differs(pair))


def compare_versions(
    lake: Lake,
    pipeline: str,
    first: str,
    second: str,
    *,
    by: str | None = None,
    num_examples: int = 5,
    truth: str | None = None,
) -> dict[str, Any]:
    """Hold the second version against the first, over the rows that both have, in one snapshot.

    Each result column is compared as its model task says, or else by its type.
    Examples are rows whose answers are different ones; where there are only
    numbers, those that drifted most. Slices come with the least agreement first.
    `truth` is SQL that says of rows what is right: see `reports.truth`.

    Raises:
        LakeError: there is no such pipeline or version.
        InputError: `by` is not a key or kept column, or `truth` cannot be held against the labels.
    """
    cursor = lake.cursor()
    cursor.execute("BEGIN")
    state = existing_state(cursor, pipeline)
    by_name = {standing.version: standing for standing in standings(cursor, pipeline)}
    a, b = (
        load_table(cursor, pipeline, find_version(list(by_name), asked, state.promoted_version))
        for asked in (first, second)
    )
    specs = _spec_of(cursor, a), _spec_of(cursor, b)
    shared = Shared.of(a, b, specs)
    if by is not None and by not in shared.kept:
        raise ConfigError(
            f"--by {by} is not a key or kept column of {pipeline}. Known: {', '.join(shared.kept) or 'none'}. "
            "Name the column in dataset.keep, and `tidemill run` puts it beside the predictions."
        )
    _pair_rows(cursor, a, b, shared)
    overall = next(_measure(cursor, shared))
    for comparison, pair in shared.columns:
        overall[comparison.group][pair.name] |= comparison.details(cursor, pair)
    num_compared = overall.pop("rows")
    judged = {} if truth is None else {"truth": _judged(cursor, shared, truth, specs, (a, b), by)}
    report = {
        "pipeline": pipeline,
        "versions": [a.version, b.version],
        "promoted_version": state.promoted_version,
        "differences": specs[0].differences(specs[1]),
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
        "notes": [
            *shared.notes,
            *(
                f"{version} is incomplete at the target revision: {by_name[version].lacking}."
                for version in dict.fromkeys((a.version, b.version))
                if not by_name[version].is_complete
            ),
        ],
    }
    cursor.execute("ROLLBACK")
    return report


def _judged(
    cursor: Cursor,
    shared: Shared,
    truth: str,
    specs: tuple[VersionSpec, VersionSpec],
    tables: tuple[ResultTable, ResultTable],
    by: str | None,
) -> dict[str, Any]:
    labels = [pair for comparison, pair in shared.columns if isinstance(comparison, Labels)]
    if not labels:
        raise ConfigError("--truth is held against labels, and these versions have none in common. Leave it out.")
    found = held_against(cursor, truth, labels[0], shared.kept, [spec.model for spec in specs], by)
    versions = [table.version for table in tables]
    for part in (found, *found.get("slices", [])):
        part |= {name: dict(zip(versions, part[name], strict=True)) for name in ("accuracy", "f1")}
    return found


def _spec_of(cursor: Cursor, table: ResultTable) -> VersionSpec:
    return VersionSpec.from_json(load_spec(cursor, table.pipeline, table.version) or {})


def _comparisons_of(*specs: VersionSpec) -> dict[str, Comparison]:
    """By result column, where the versions' model tasks say how it is compared: the first one's word counts."""
    tasks = [MODEL_TASKS[spec.task] for spec in reversed(specs) if spec.task in MODEL_TASKS]
    return {name: comparison for task in tasks for name, comparison in task.comparisons.items()}


def _pair_rows(cursor: Cursor, a: ResultTable, b: ResultTable, shared: Shared) -> None:
    """Name the rows that both versions have `pairs`, as a view of this connection alone."""
    results = [f"{side}.{identifier(name)} AS {identifier(f'{side}.{name}')}" for name in shared.names for side in "ab"]
    own = {name for name, _ in a.kept}
    kept = [f"{'a' if name in own else 'b'}.{identifier(name)}" for name in shared.kept]
    derived = [
        f"{value} AS {pair.derived(name)}"
        for comparison, pair in shared.columns
        for name, value in comparison.derived(pair).items()
    ]
    has_hashes = TEXT_HASH in dict(existing_columns(cursor, a.name))
    joined = (
        f"SELECT {', '.join([*results, *kept])}, a.shard_id AS _shard_id, a.row_number AS _row_number, "
        f"{f'a.{TEXT_HASH}' if has_hashes else 'NULL::UUID'} AS _text_hash "
        f"FROM lake.{identifier(a.name)} a JOIN lake.{identifier(b.name)} b USING (shard_id, row_number)"
    )
    cursor.execute(f"CREATE OR REPLACE TEMP VIEW pairs AS SELECT {', '.join(['*', *derived])} FROM ({joined})")


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
    condition, order = _different(shared)
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


def _different(shared: Shared) -> tuple[str, list[str]]:
    """SQL: which pairs are examples, and in which order: the farthest apart first, then the surest."""
    if not shared.answers:
        condition = " OR ".join(f"{pair.first} IS DISTINCT FROM {pair.second}" for _, pair in shared.numbers)
        return condition, [comparison.order(pair) for comparison, pair in shared.numbers]
    condition = " OR ".join(str(comparison.differs(pair)) for comparison, pair in shared.answers)
    order = [comparison.order(pair) for comparison, pair in shared.answers]
    surest = [comparison.surest(pair) for comparison, pair in shared.numbers if isinstance(comparison, Scores)]
    return condition, [*filter(None, order), *surest]


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
