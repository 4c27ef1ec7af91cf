"""Numbers in bins: every row is in the bin that its number lies in, whatever the numbers are."""

from __future__ import annotations

from typing import Any

import _duckdb as duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.pictures.figures.bins import NUM_BINS, binned


def binned_of(kind: str, values: list[Any], **options: Any) -> list[tuple[Any, ...]]:
    with duckdb.connect() as cursor:
        cursor.execute(f"CREATE TABLE t (width {kind}, name VARCHAR)")
        cursor.executemany("INSERT INTO t VALUES (?, 'n' || ?)", [(value, i % 2) for i, value in enumerate(values)])
        return cursor.execute(binned("t", "width", **options)).fetchall()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_bins_hold_all_numbers_and_lie_beside_each_other(values):
    found = binned_of("DOUBLE", values)

    assert sum(count for *_, count in found) == len(values)
    assert len(found) <= 2 * NUM_BINS + 1
    for start, end, count in found:
        edge = 1e-9 * max(1, abs(start), abs(end))
        assert sum(start - edge <= value <= end + edge for value in values) >= count


def test_edges_are_round_and_the_greatest_share_is_not_beyond_one():
    found = binned_of("FLOAT", [0.0, 0.31, 0.5, 1.0, 1.0])

    assert found == [(0.0, 0.05, 1), (0.3, 0.35, 1), (0.5, 0.55, 1), (0.95, 1.0, 2)]


def test_whole_numbers_have_whole_bins():
    assert binned_of("INTEGER", [0, 1, 1, 3], whole=True) == [(0, 1, 1), (1, 2, 2), (3, 4, 1)]


def test_each_series_has_its_own_counts_though_a_column_has_the_name_of_what_is_joined():
    assert binned_of("INTEGER", [1, 1, 1, 2], series="name", whole=True) == [
        (1, 2, "n0", 2),
        (1, 2, "n1", 1),
        (2, 3, "n1", 1),
    ]


@pytest.mark.parametrize("values", [[None], [float("nan"), float("inf"), None]])
def test_what_is_no_number_is_in_no_bin(values):
    assert binned_of("DOUBLE", values) == []


def test_one_number_is_one_bin():
    assert binned_of("DOUBLE", [5.0, 5.0]) == [(5.0, 5.1, 2)]
