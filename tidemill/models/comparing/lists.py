"""A list a row, such as of entities: which of its elements both versions found, as sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.tables import fields_in, identifier
from tidemill.models.comparing.comparison import Comparison, Pair
from tidemill.models.comparing.scores import Scores

FLOATS = frozenset({"float", "double"})
ELEMENT = "_element"
"""What lambdas call an element: DuckDB takes `x.start` for a field of a column x, if there is one."""


@dataclass(frozen=True)
class Lists(Comparison):
    """Elements are the same if the fields in `by` are; without it, all that hold no scores."""

    group = "lists"
    distance_called, moved_called = "share that only one of both found", "share of a row's elements that both found"
    by: tuple[str, ...] = ()

    def derived(self, pair: Pair) -> dict[str, str]:
        first, second = (f"list_distinct({self._keys(pair, side)})" for side in (pair.first, pair.second))
        return {
            "first": f"len({first})",
            "second": f"len({second})",
            "both": f"len(list_intersect({first}, {second}))",
        }

    def measures(self, pair: Pair) -> list[str]:
        counts = [f"coalesce(sum({pair.derived(name)}), 0)::BIGINT" for name in ("first", "second", "both")]
        return [f"count(*) FILTER (NOT {self.differs(pair)})", *counts]

    def facts(self, values: Sequence[Any], num_rows: int) -> dict[str, Any]:
        """`agreement` is what both found, twice, of what either found: the F1 of one version held against the other."""
        same, first, second, both = values
        return {
            "agreement": _share(2 * both, first + second) if num_rows else None,
            "same": same,
            "both": both,
            "only_first": first - both,
            "only_second": second - both,
            "share_of_first": _share(both, first) if num_rows else None,
            "share_of_second": _share(both, second) if num_rows else None,
        }

    def differs(self, pair: Pair) -> str:
        both = pair.derived("both")
        return f"({pair.derived('first')} <> {both} OR {pair.derived('second')} <> {both})"

    def distance(self, pair: Pair) -> str:
        both, found = f"sum({pair.derived('both')})", _found(pair, "sum({})")
        return f"CASE WHEN {found} > 0 THEN 1 - 2 * {both} / {found} ELSE 0 END"

    def moved(self, pair: Pair) -> str:
        found = _found(pair, "{}")
        return f"CASE WHEN {found} > 0 THEN 2 * {pair.derived('both')} / {found} END"

    def order(self, pair: Pair) -> str:
        return f"{pair.derived('both')} / {_found(pair, '{}')}, {_found(pair, '{}')} DESC"

    def apart(self, pair: Pair) -> dict[str, str]:
        keys = [self._keys(pair, side) for side in (pair.first, pair.second)]
        sides = [pair.first, pair.second]
        return {
            f"only_{name}": (
                f"list_filter({sides[i]}, lambda {ELEMENT}: "
                f"NOT list_contains({keys[1 - i]}, {self._key(pair, ELEMENT)}))"
            )
            for i, name in enumerate(("first", "second"))
        }

    def details(self, cursor: Cursor, pair: Pair) -> dict[str, Any]:
        """The same counts by label, the least agreement first; and how far scores drifted of what both found."""
        cursor.execute(f"CREATE OR REPLACE TEMP TABLE matched AS {self.matched(pair)}")
        found = {
            "by": list(self._by(pair)),
            "labels": _by_label(cursor) if self.label_of(pair) else [],
            "score": _drift(cursor) if _score_of(pair) else None,
        }
        cursor.execute("DROP TABLE matched")
        return found

    def label_of(self, pair: Pair) -> str | None:
        """The field that says what an element is, if one does."""
        fields = fields_in(pair.kind)
        return next((name for name in self._by(pair) if fields.get(name) == "varchar"), None)

    def matched(self, pair: Pair) -> str:
        """A query of `pairs`: every element that either version found, once, with its label and its score in each."""
        label, score = self.label_of(pair), _score_of(pair)

        def found(side: str) -> str:
            elements = f"SELECT _shard_id, _row_number, unnest({side}) AS x FROM pairs"
            values = f"{self._key(pair, 'x')} AS key, {_field(score)} AS score, {_field(label)} AS label"
            # Of elements that are the same, the surest one counts.
            return (
                "SELECT _shard_id, _row_number, key, any_value(label) AS label, max(score) AS score "
                f"FROM (SELECT _shard_id, _row_number, {values} FROM ({elements})) GROUP BY ALL"
            )

        score_of = Pair("score", "FLOAT")
        return (
            "SELECT coalesce(f.label, s.label) AS label, "
            "f.key IS NOT NULL AS in_first, s.key IS NOT NULL AS in_second, "
            f"f.score AS {score_of.first}, s.score AS {score_of.second} "
            f"FROM ({found(pair.first)}) f FULL JOIN ({found(pair.second)}) s USING (_shard_id, _row_number, key)"
        )

    def _by(self, pair: Pair) -> tuple[str, ...]:
        return self.by or tuple(name for name, kind in fields_in(pair.kind).items() if kind not in FLOATS)

    def _keys(self, pair: Pair, side: str) -> str:
        """SQL: what the elements of a side are known by; of no list there are none."""
        return f"coalesce(list_transform({side}, lambda {ELEMENT}: {self._key(pair, ELEMENT)}), [])"

    def _key(self, pair: Pair, element: str) -> str:
        by = self._by(pair)
        named = ", ".join(f"{identifier(name)} := {element}.{identifier(name)}" for name in by)
        return f"struct_pack({named})" if by else element


def _score_of(pair: Pair) -> str | None:
    return next((name for name, kind in fields_in(pair.kind).items() if kind in FLOATS), None)


def _field(name: str | None) -> str:
    return f"x.{identifier(name)}" if name else "NULL"


def _found(pair: Pair, form: str) -> str:
    """SQL: how many elements the two sides have together."""
    return f"({form.format(pair.derived('first'))} + {form.format(pair.derived('second'))})"


def _share(part: int, whole: int) -> float:
    """Of nothing, all."""
    return part / whole if whole else 1.0


def _by_label(cursor: Cursor) -> list[dict[str, Any]]:
    rows = cursor.execute(
        "SELECT label, count(*) FILTER (in_first AND in_second) AS num_both, count(*) FILTER (NOT in_second), "
        "count(*) FILTER (NOT in_first) FROM matched GROUP BY ALL ORDER BY num_both / count(*), count(*) DESC, label"
    ).fetchall()
    return [
        {"label": label, "both": both, "only_first": only_first, "only_second": only_second}
        for label, both, only_first, only_second in rows
    ]


def _drift(cursor: Cursor) -> dict[str, Any]:
    scores = Scores()
    measures = ", ".join(scores.measures(Pair("score", "FLOAT")))
    values = cursor.execute(f"SELECT {measures} FROM matched WHERE in_first AND in_second").fetchall()[0]
    return scores.facts(values, 0)
