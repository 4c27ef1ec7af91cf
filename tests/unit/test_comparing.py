"""Two versions' answers held against each other: every number is the one that is worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import _duckdb as duckdb
import numpy as np
import pytest

from tidemill.models.comparing import Comparison, Lists, Pair, Texts, comparison_of

ENTITIES = 'STRUCT(entity VARCHAR, score FLOAT, word VARCHAR, "start" INTEGER, "end" INTEGER)[]'
ANNA = {"entity": "PER", "score": 0.75, "word": "Anna", "start": 0, "end": 4}
BERLIN = {"entity": "LOC", "score": 0.5, "word": "Berlin", "start": 14, "end": 20}


class Pairs:
    """Answers of two versions, row by row, as `compare` names them, with kept columns of short names."""

    def __init__(self, kind: str, rows: Sequence[tuple[Any, Any]], comparison: Comparison | None = None) -> None:
        found = comparison or comparison_of(kind)
        assert found is not None
        self.comparison, self.pair, self._rows = found, Pair("x", kind), rows
        self.cursor = duckdb.connect()
        self.cursor.execute(
            f'CREATE TABLE rows_of_both ("a.x" {kind}, "b.x" {kind}, _shard_id VARCHAR, _row_number BIGINT, '
            "x INTEGER, key INTEGER, element INTEGER)"
        )
        for number, (first, second) in enumerate(rows):
            self.cursor.execute("INSERT INTO rows_of_both VALUES (?, ?, 's', ?, 1, 1, 1)", [first, second, number])
        derived = [f"{sql} AS {self.pair.derived(name)}" for name, sql in found.derived(self.pair).items()]
        self.cursor.execute(f"CREATE TEMP VIEW pairs AS SELECT {', '.join(['*', *derived])} FROM rows_of_both")

    def one(self, columns: str, rest: str = "") -> Any:
        return self.cursor.execute(f"SELECT {columns} FROM pairs {rest}").fetchall()

    @property
    def facts(self) -> dict[str, Any]:
        [values] = self.one(", ".join(self.comparison.measures(self.pair)))
        return self.comparison.facts(values, len(self._rows))

    @property
    def details(self) -> dict[str, Any]:
        return self.comparison.details(self.cursor, self.pair)

    @property
    def in_order(self) -> list[int]:
        """Numbers of the rows that are examples."""
        order = self.comparison.order(self.pair)
        condition = self.comparison.differs(self.pair) or "true"
        return [number for (number,) in self.one("_row_number", f"WHERE {condition} ORDER BY {order}")]

    @property
    def apart(self) -> list[dict[str, Any]]:
        parts = self.comparison.apart(self.pair)
        return [
            dict(zip(parts, row, strict=True)) for row in self.one(", ".join(parts.values()), "ORDER BY _row_number")
        ]


@pytest.mark.parametrize(
    ("kind", "group"),
    [
        ("VARCHAR", "labels"),
        ("BIGINT", "labels"),
        ("FLOAT", "scores"),
        ("FLOAT[]", "vectors"),
        ("FLOAT[384]", "vectors"),
        ("MAP(VARCHAR, FLOAT)", "maps"),
        (ENTITIES, "lists"),
        ("VARCHAR[]", "lists"),
        ("BLOB", None),
        ("TIMESTAMP", None),
    ],
)
def test_a_type_says_how_a_column_is_compared(kind, group):
    found = comparison_of(kind)
    assert (found.group if found else None) == group


def test_entities_are_compared_as_sets_and_scores_of_those_that_both_found_drift():
    moved = {**BERLIN, "end": 21}
    pairs = Pairs(
        ENTITIES,
        [
            ([ANNA, BERLIN], [{**BERLIN, "score": 0.25}, ANNA]),
            ([ANNA, BERLIN], [ANNA, moved]),
            ([], []),
            ([], [ANNA]),
            ([ANNA, ANNA], [ANNA]),
        ],
        Lists(by=("start", "end", "entity")),
    )

    assert pairs.facts == {
        "agreement": pytest.approx(2 * 4 / (5 + 6)),
        "same": 3,
        "both": 4,
        "only_first": 1,
        "only_second": 2,
        "share_of_first": 4 / 5,
        "share_of_second": 4 / 6,
    }
    details = pairs.details
    assert details["by"] == ["start", "end", "entity"]
    assert details["labels"] == [
        {"label": "LOC", "both": 1, "only_first": 1, "only_second": 1},
        {"label": "PER", "both": 3, "only_first": 0, "only_second": 1},
    ]
    assert (details["score"]["absolute"]["max"], details["score"]["signed"]["min"]) == (0.25, -0.25)
    assert pairs.in_order == [3, 1]
    assert pairs.apart[1] == {"only_first": [BERLIN], "only_second": [moved]}
    assert pairs.apart[0] == {"only_first": [], "only_second": []}


def test_elements_of_which_no_task_says_more_are_known_by_all_but_their_scores():
    other_score, other_word = {**ANNA, "score": 0.1}, {**ANNA, "word": "Ann"}
    pairs = Pairs(ENTITIES, [([ANNA], [other_score]), ([ANNA], [other_word]), (None, None)])

    assert pairs.details["by"] == ["entity", "word", "start", "end"]
    assert (pairs.facts["same"], pairs.in_order) == (2, [1])


def test_lists_of_labels_are_sets_of_labels():
    pairs = Pairs("VARCHAR[]", [(["a", "b"], ["b", "a"]), (["a"], ["c"])])

    assert (pairs.facts["both"], pairs.facts["only_first"], pairs.facts["only_second"]) == (2, 1, 1)
    assert pairs.details == {"by": [], "labels": [], "score": None}


@pytest.mark.parametrize("kind", ["FLOAT[]", "FLOAT[3]"])
def test_vectors_are_compared_by_the_cosine(kind):
    draw = np.random.default_rng(3)
    first = draw.normal(size=(20, 3)).astype(np.float32)
    second = (first + draw.normal(scale=0.2, size=(20, 3))).astype(np.float32)
    second[0] = first[0]
    pairs = Pairs(kind, [(a.tolist(), b.tolist()) for a, b in zip(first, second, strict=True)])
    a, b = first.astype(float), second.astype(float)
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)

    facts = pairs.facts
    assert facts["cosine"] == pytest.approx(
        {
            "min": cosines.min(),
            **{f"p{100 * q:02.0f}": np.quantile(cosines, q) for q in (0.01, 0.05, 0.1, 0.5)},
            "mean": cosines.mean(),
        }
    )
    assert (facts["same"], facts["incomparable"]) == (1, 0)
    assert pairs.in_order == [int(i) for i in np.argsort(cosines) if i]
    assert pairs.apart[3]["cosine"] == pytest.approx(cosines[3])


def test_vectors_of_other_sizes_have_no_cosine_and_are_counted():
    facts = Pairs("FLOAT[]", [([1.0, 0.0], [1.0]), ([1.0, 0.0], [1.0, 0.0])]).facts

    assert (facts["incomparable"], facts["same"], facts["cosine"]["min"]) == (1, 1, 1.0)


def test_of_a_map_of_scores_the_one_that_drifted_most_counts():
    pairs = Pairs(
        "MAP(VARCHAR, FLOAT)",
        [
            ({"a": 0.25, "b": 0.75}, {"a": 0.5, "b": 0.5}),
            ({"a": 0.25, "b": 0.75}, {"b": 0.75, "a": 0.25}),
            ({"a": 0.25}, {"a": 1.0, "c": 0.0}),
        ],
    )

    assert (pairs.facts["absolute"]["max"], pairs.facts["absolute"]["p50"]) == (0.75, 0.25)
    assert pairs.facts["other_keys"] == 1
    assert pairs.in_order == [2, 0, 1]


@pytest.mark.parametrize("kind", ["VARCHAR", "FLOAT", "FLOAT[]", "MAP(VARCHAR, FLOAT)", ENTITIES])
def test_of_no_rows_nothing_is_said(kind):
    facts = Pairs(kind, []).facts

    assert all(not value for value in leaves(facts))


def leaves(value: Any) -> list[Any]:
    return [leaf for inner in value.values() for leaf in leaves(inner)] if isinstance(value, dict) else [value]


@pytest.mark.parametrize("kind", ["VARCHAR", "FLOAT", "FLOAT[]", "MAP(VARCHAR, FLOAT)", ENTITIES])
def test_answers_that_are_the_same_are_no_distance_apart(kind):
    value = {"VARCHAR": "a", "FLOAT": 0.5, "FLOAT[]": [3.0, 4.0], "MAP(VARCHAR, FLOAT)": {"a": 0.5}}.get(kind, [ANNA])
    pairs = Pairs(kind, [(value, value)])

    [(distance,)] = pairs.one(pairs.comparison.distance(pairs.pair))
    assert math.isclose(distance, 0.0, abs_tol=1e-9)


def test_texts_are_the_same_or_different_ones_to_the_character():
    pairs = Pairs("VARCHAR", [("a good film", "a good film"), ("a good film", "a good film "), ("", "bad")], Texts())

    assert pairs.facts == {
        "agreement": pytest.approx(1 / 3),
        "same": 1,
        "different": 2,
        "mean_characters": [pytest.approx(22 / 3), pytest.approx(26 / 3)],
    }
    assert pairs.one("_row_number", f"WHERE {pairs.comparison.differs(pairs.pair)}") == [(1,), (2,)]
    assert Pairs("VARCHAR", [], Texts()).facts["agreement"] is None


def test_few_different_texts_are_counted_as_labels_and_many_are_not():
    few = Pairs("VARCHAR", [("yes", "no"), ("yes", "yes"), ("yes", "no"), ("yes", "no")], Texts())
    many = Pairs("VARCHAR", [(f"text {i % 21}", "yes") for i in range(50)], Texts())
    apart = Pairs("VARCHAR", [("a text", "another"), ("a third", "a fourth")], Texts())

    assert few.details["confusion"][0] == {"first": "yes", "second": "no", "rows": 3}
    assert many.details == apart.details == {"confusion": []}


@pytest.mark.parametrize(
    ("kind", "comparison", "rows", "moved"),
    [
        ("FLOAT", None, [(0.25, 0.75), (None, 0.5)], [0.5, None]),
        ("VARCHAR", Texts(), [("a film", "a good film"), ("same", "same")], [5, None]),
        ("FLOAT[]", None, [([1.0, 0.0], [0.0, 1.0]), ([1.0], [1.0, 2.0])], [0.0, None]),
        ("MAP(VARCHAR, FLOAT)", None, [({"a": 0.25, "b": 0.5}, {"a": 0.5, "b": 0.5})], [0.25]),
        (ENTITIES, None, [([ANNA, BERLIN], [ANNA]), ([], [])], [2 / 3, None]),
        ("VARCHAR", None, [("a", "b")], None),
    ],
)
def test_how_far_a_pair_moved_is_one_number_and_null_where_it_has_none(kind, comparison, rows, moved):
    pairs = Pairs(kind, rows, comparison)
    sql = pairs.comparison.moved(pairs.pair)

    found = sql and [value for (value,) in pairs.one(sql, "ORDER BY _row_number")]
    assert found == (moved and [value if value is None else pytest.approx(value) for value in moved])
    assert bool(pairs.comparison.moved_called) == (sql is not None)
