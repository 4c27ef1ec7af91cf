"""Rows wait in a line; a batch is the oldest of them and what is nearest to it in length."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.serving.answering.calls import Call, Form
from tidemill.serving.answering.line import Line, Waiting

FOREVER = time.monotonic() + 1e6


def call(num_rows: int, form: Any = None, *, deadline: float = FOREVER) -> Call:
    rows = pa.table({"row_number": pa.array(range(num_rows))})
    return Call(rows, form or FORM, deadline=deadline)


def waiting(of: Call, *widths: int, num_items: int = 1) -> list[Waiting]:
    return [Waiting(of, row, num_items, width) for row, width in enumerate(widths)]


FORM = Form(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]


def line_of(*rows: Waiting, budget: int = 100, worthwhile: float = math.inf) -> Line:
    line = Line(lambda: budget, worthwhile=worthwhile)
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


def test_a_batch_that_is_worthwhile_takes_none_that_would_be_mostly_padding():
    rows = waiting(call(6), 20, 18, 19, 5, 40, 21)

    assert widths(line_of(*rows, budget=1_000, worthwhile=50).take()) == [20, 19, 18, 21]
    assert len(line_of(*rows, budget=1_000, worthwhile=500).take()) == 6


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
