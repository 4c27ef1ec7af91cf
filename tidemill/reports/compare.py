"""Two versions of a table, row by row: which labels flipped, how far scores drifted, and in which slices.

Rows are matched by shard and row number: the same content at the same place.
What two versions made of different revisions of a file is never compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tidemill.errors import ConfigError
from tidemill.lake import Cursor, Lake, ResultTable
from tidemill.lake.ledger import PATHS_OF_SHARDS
from tidemill.lake.pipelines import load_spec
from tidemill.lake.tables import identifier
from tidemill.planning.versions import NUM_WINDOWS, VersionSpec
from tidemill.results.promotion import existing_state, find_version, load_table, standings

ABSOLUTE_QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
SIGNED_QUANTILES = {"p05": 0.05, "p50": 0.5, "p95": 0.95}
LABEL_TYPES = frozenset({"VARCHAR", "BOOLEAN", "INTEGER", "BIGINT"})
SCORE_TYPES = frozenset({"FLOAT", "DOUBLE"})


@dataclass(frozen=True)
class Shared:
    """What two versions' tables are compared by. Labels flip, scores drift; other result columns are left out."""

    labels: tuple[str, ...]
    scores: tuple[str, ...]
    kept: tuple[str, ...]
    """Key and kept columns that either table has."""

    @classmethod
    def of(cls, a: ResultTable, b: ResultTable) -> Shared:
        both = [column for column in a.results if column in b.results and column[0] != NUM_WINDOWS]
        return cls(
            labels=tuple(name for name, kind in both if kind in LABEL_TYPES),
            scores=tuple(name for name, kind in both if kind in SCORE_TYPES),
            kept=tuple(dict.fromkeys(name for name, _ in (*a.kept, *b.kept))),
        )


def compare_versions(
    lake: Lake, pipeline: str, first: str, second: str, *, by: str | None = None, num_examples: int = 5
) -> dict[str, Any]:
    """Hold the second version against the first, over the rows that both have, in one snapshot.

    Drift is the second version's number less the first's; quantiles interpolate
    linearly. Examples are the flips that both versions are surest of; slices
    come with the least agreement first.

    Raises:
        LakeError: there is no such pipeline or version.
        ConfigError: `by` is not a key or kept column.
    """
    cursor = lake.cursor()
    cursor.execute("BEGIN")
    state = existing_state(cursor, pipeline)
    by_name = {standing.version: standing for standing in standings(cursor, pipeline)}
    a, b = (
        load_table(cursor, pipeline, find_version(list(by_name), asked, state.promoted_version))
        for asked in (first, second)
    )
    shared = Shared.of(a, b)
    if by is not None and by not in shared.kept:
        raise ConfigError(
            f"--by {by} is not a key or kept column of {pipeline}. Known: {', '.join(shared.kept) or 'none'}. "
            "Name the column in dataset.keep, and `tidemill run` puts it beside the predictions."
        )
    _pair_rows(cursor, a, b, shared)
    overall = next(_measure(cursor, shared))
    report = {
        "pipeline": pipeline,
        "versions": [a.version, b.version],
        "promoted_version": state.promoted_version,
        "differences": _differences(cursor, a, b),
        "rows": {
            "compared": overall["rows"],
            "only_in": {table.version: _num_rows(cursor, table) - overall["rows"] for table in (a, b)},
        },
        "labels": {name: {**facts, "confusion": _confusion(cursor, name)} for name, facts in overall["labels"].items()},
        "scores": overall["scores"],
        "examples": _examples(cursor, a, shared, num_examples),
        "by": by,
        "slices": list(_measure(cursor, shared, by)) if by else [],
        "notes": [
            f"{version} is incomplete at the target revision: {by_name[version].lacking}."
            for version in dict.fromkeys((a.version, b.version))
            if not by_name[version].is_complete
        ],
    }
    cursor.execute("ROLLBACK")
    return report


def _pair_rows(cursor: Cursor, a: ResultTable, b: ResultTable, shared: Shared) -> None:
    """Name the rows that both versions have `pairs`, as a view of this connection alone."""
    results = [
        f"{side}.{identifier(name)} AS {_of(side, name)}" for name in (*shared.labels, *shared.scores) for side in "ab"
    ]
    own = {name for name, _ in a.kept}
    kept = [f"{'a' if name in own else 'b'}.{identifier(name)}" for name in shared.kept]
    cursor.execute(
        f"CREATE OR REPLACE TEMP VIEW pairs AS SELECT {', '.join([*results, *kept])}, "
        "a.shard_id AS _shard_id, a.row_number AS _row_number "
        f"FROM lake.{identifier(a.name)} a JOIN lake.{identifier(b.name)} b USING (shard_id, row_number)"
    )


def _of(side: str, name: str) -> str:
    return identifier(f"{side}.{name}")


def _measure(cursor: Cursor, shared: Shared, by: str | None = None) -> Iterator[dict[str, Any]]:
    """Agreement and drift of all pairs, or of each slice."""
    measures = ["count(*)", *(f"count(*) FILTER ({_flips(name)})" for name in shared.labels)]
    for name in shared.scores:
        drift = f"({_of('b', name)}::DOUBLE - {_of('a', name)}::DOUBLE)"
        measures += [
            f"quantile_cont(abs({drift}), {list(ABSOLUTE_QUANTILES.values())})",
            f"max(abs({drift}))",
            f"quantile_cont({drift}, {list(SIGNED_QUANTILES.values())})",
            f"[min({drift}), max({drift}), avg({drift})]",
        ]
    value = identifier(by) if by else "NULL"
    flips = " + ".join(f"count(*) FILTER ({_flips(name)})" for name in shared.labels) or "0"
    rows = cursor.execute(
        f"SELECT {value} AS _slice, {', '.join(measures)} FROM pairs {'GROUP BY _slice' if by else ''} "
        f"ORDER BY ({flips}) / count(*) DESC, count(*) DESC, _slice"
    ).fetchall()
    for found, num_rows, *facts in rows:
        drifts = facts[len(shared.labels) :]
        measured = {
            "rows": num_rows,
            "labels": {
                name: {"agreement": 1 - flipped / num_rows if num_rows else None, "flipped": flipped}
                for name, flipped in zip(shared.labels, facts, strict=False)
            },
            "scores": {name: _drift(*drifts[4 * i : 4 * i + 4]) for i, name in enumerate(shared.scores)},
        }
        yield {"value": found, **measured} if by else measured


def _flips(label: str) -> str:
    return f"{_of('a', label)} IS DISTINCT FROM {_of('b', label)}"


def _drift(
    absolute: list[float] | None, largest: float | None, signed: list[float] | None, ends: list[float | None]
) -> dict[str, dict[str, float | None]]:
    low, high, mean = ends
    return {
        "absolute": {**_named(ABSOLUTE_QUANTILES, absolute), "max": largest},
        "signed": {"min": low, **_named(SIGNED_QUANTILES, signed), "max": high, "mean": mean},
    }


def _named(quantiles: dict[str, float], values: list[float] | None) -> dict[str, float | None]:
    return dict(zip(quantiles, values or len(quantiles) * [None], strict=True))


def _confusion(cursor: Cursor, label: str) -> list[dict[str, Any]]:
    """How many rows have which label in the first and which in the second version, the diagonal included."""
    rows = cursor.execute(
        f"SELECT {_of('a', label)}, {_of('b', label)}, count(*) FROM pairs GROUP BY ALL ORDER BY 3 DESC, 1, 2"
    ).fetchall()
    return [{"first": first, "second": second, "rows": count} for first, second, count in rows]


def _examples(cursor: Cursor, a: ResultTable, shared: Shared, num_examples: int) -> list[dict[str, Any]]:
    if not shared.labels or not num_examples:
        return []
    results = (*shared.labels, *shared.scores)
    sides = [_of(side, name) for side in "ab" for name in results]
    surest = [f"least({_of('a', name)}, {_of('b', name)}) DESC" for name in shared.scores]
    rows = cursor.execute(
        f"SELECT {', '.join(['l.path', '_row_number', *map(identifier, shared.kept), *sides])} FROM pairs "
        f"JOIN ({PATHS_OF_SHARDS}) l ON l.shard_id = _shard_id "
        f"WHERE {' OR '.join(_flips(name) for name in shared.labels)} "
        f"ORDER BY {', '.join([*surest, 'l.path', '_row_number'])} LIMIT ?",
        [a.pipeline, a.version, num_examples],
    ).fetchall()
    return [
        {
            "path": path,
            "row_number": row_number,
            "columns": dict(zip(shared.kept, values, strict=False)),
            "first": dict(zip(results, values[len(shared.kept) :], strict=False)),
            "second": dict(zip(results, values[len(shared.kept) + len(results) :], strict=True)),
        }
        for path, row_number, *values in rows
    ]


def _num_rows(cursor: Cursor, table: ResultTable) -> int:
    return int(cursor.execute(f"SELECT count(*) FROM {identifier(table.name)}").fetchall()[0][0])


def _differences(cursor: Cursor, a: ResultTable, b: ResultTable) -> list[str]:
    """What the second version has other than the first, in words."""
    first, second = (VersionSpec.from_json(load_spec(cursor, t.pipeline, t.version) or {}) for t in (a, b))
    return first.differences(second)
