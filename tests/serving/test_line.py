"""Rows wait in a line; a batch is the oldest of them and what is nearest to it in length."""

from __future__ import annotations

import math
import time
from itertools import combinations, pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.serving.answering.calls import Call, Form
from tidemill.serving.answering.line import Line, Waiting, cheapest_ranges

FOREVER = time.monotonic() + 1e6


def call(num_rows: int, form: Any = None, *, deadline: float = FOREVER) -> Call:
    return Call([("a", None)] * num_rows, form or FORM, deadline=deadline)


def waiting(of: Call, *widths: int, num_items: int = 1) -> list[Waiting]:
    return [Waiting(of, row, num_items, width) for row, width in enumerate(widths)]


FORM = Form(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]


def line_of(*rows: Waiting, budget: int = 100, batch_cost: float = math.inf) -> Line:
    line = Line(lambda: budget, batch_cost=batch_cost)
    line.put(list(rows))
    return line


def widths(batch: list[Waiting]) -> list[int]:
    return [row.width for row in batch]


def test_the_oldest_goes_first_and_takes_the_shorter_ones_that_are_nearest_with_it():
    line = line_of(*waiting(call(6), 30, 90, 5, 29, 31, 20))

    assert widths(line.take()) == [30, 29, 20]
    assert len(line) == 3


def test_room_that_is_left_goes_to_longer_ones():
    assert widths(line_of(*waiting(call(3), 10, 20, 60)).take()) == [10, 20]


def test_a_batch_takes_none_whose_padding_would_cost_more_than_a_batch_of_its_own():
    rows = waiting(call(6), 20, 18, 19, 5, 40, 21)

    assert widths(line_of(*rows, budget=1_000, batch_cost=12).take()) == [20, 19, 18, 21]
    assert len(line_of(*rows, budget=1_000, batch_cost=500).take()) == 6


def test_a_batch_does_not_widen_step_by_step_until_all_lengths_are_in_it():
    lengths = list(range(5, 100))
    line, num_padded = line_of(*waiting(call(95), *lengths), budget=100_000, batch_cost=40), 0
    while batch := line.take():
        num_padded += len(batch) * max(widths(batch))

    assert num_padded < 1.1 * sum(lengths)


@given(st.dictionaries(st.integers(0, 60), st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 200))
def test_no_other_ranges_of_widths_cost_less(num_items, budget):
    def cost(ranges):
        counts = [(sum(n for width, n in num_items.items() if first <= width <= last), last) for first, last in ranges]
        return sum(n * width + 7 * max(1, math.ceil(n * width / budget)) for n, width in counts)

    known, found = sorted(num_items), cheapest_ranges(num_items, budget=budget, batch_cost=7)
    cuts = [each for size in range(len(known)) for each in combinations(range(1, len(known)), size)]
    others = [[(known[i], known[j - 1]) for i, j in pairwise((0, *cut, len(known)))] for cut in cuts]

    assert cost(found) == min(map(cost, others))


def test_a_text_above_the_budget_runs_alone():
    assert widths(line_of(*waiting(call(2), 500, 3)).take()) == [500]


def test_rows_of_several_items_count_all_of_them():
    one = call(3)

    assert len(line_of(*waiting(one, 10, 10, 10, num_items=5)).take()) == 2


def test_calls_under_other_options_share_no_batch():
    other = call(1, Form(SimpleNamespace(), SimpleNamespace()))  # type: ignore[arg-type]
    line = line_of(*waiting(call(1), 9), *waiting(other, 9))

    assert (len(line.take()), len(line.take())) == (1, 1)


def test_what_a_client_left_or_waits_for_no_longer_leaves_the_line():
    left, late, failed, here = call(2), call(1, deadline=0.0), call(1), call(1)
    left.leave()
    failed.fail(ValueError())
    line = line_of(*waiting(left, 1, 2), *waiting(late, 3), *waiting(failed, 4), *waiting(here, 5))

    assert widths(line.take()) == [5]
    assert (line.take(), len(line)) == ([], 0)


@given(st.lists(st.integers(0, 120), max_size=40), st.integers(1, 200))
def test_every_row_is_taken_once_and_no_batch_of_several_is_over_the_budget(lengths, budget):
    line, taken = line_of(*waiting(call(len(lengths)), *lengths), budget=budget), []
    while batch := line.take():
        assert len(batch) == 1 or len(batch) * max(widths(batch)) <= budget
        taken += [row.row for row in batch]

    assert sorted(taken) == list(range(len(lengths)))


def test_a_call_has_its_answers_in_order_once_the_last_is_there():
    one = call(3)
    one.settle({2: {"n": 2}, 0: {"n": 0}})
    assert not one.done.done()

    one.settle({1: {"n": 1}})

    assert one.done.result() == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_call_that_failed_stays_failed():
    one = call(1)
    one.fail(ValueError("first"))
    one.settle({0: {}})
    one.fail(ValueError("second"))

    with pytest.raises(ValueError, match="first"):
        one.done.result()
