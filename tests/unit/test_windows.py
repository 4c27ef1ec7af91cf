"""Scores of windows become a row's: what each way of it gives, and that a row is alone in it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.encoding import pooling
from tidemill.encoding.items import Items, prepared_rows
from tidemill.encoding.windowing import Windowing, are_windows, num_tokens, sequences
from tidemill.models.tasks.scores import values_of, vectors

AGGREGATES = ["mean", "max", "length_weighted"]
NESTED = pa.list_(pa.list_(pa.int32()))
WINDOW = [2, 7, 8, 9, 3]
SHORT_WINDOW = [2, 9, 3]
TWO_SPECIAL = 2


def pooled(aggregate, rows, scores, *, index=None, reasons=None):
    """(scores by row or None, reasons by row) of rows of windows with `scores`, one a window."""
    prepared = prepared_rows(pa.array(rows, NESTED))
    scores = np.array(scores, dtype=np.float32)
    index = pa.array(list(range(len(scores))) if index is None else index, pa.int64())
    reasons = pa.array(reasons or [None] * len(index), pa.string())
    answers, reasons_R = Items.of(prepared, deduplicate=False).to_rows(
        vectors(scores, scores.shape[1]).take(index), reasons, named=lambda number, count: f"window {number} of {count}"
    )
    found = pooling.pooled(values_of(answers.flatten()), answers, prepared, pooling.Pooling(aggregate, TWO_SPECIAL))
    assert found.dtype == np.float32
    of_row = iter(found.tolist())
    return [None if row is None else next(of_row) for row in answers.to_pylist()], reasons_R.to_pylist()


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [("mean", [0.5, 0.5]), ("max", [0.75, 0.75]), ("length_weighted", [0.625, 0.375])],
)
def test_the_scores_of_two_windows_give_what_a_hand_gives(aggregate, expected):
    rows, reasons = pooled(aggregate, [[WINDOW, SHORT_WINDOW]], [[0.75, 0.25], [0.25, 0.75]])

    # The first has three tokens of the text, the second one: (3 * 0.75 + 1 * 0.25) / 4.
    assert rows == [expected]
    assert reasons == [None]


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_a_row_of_one_window_has_its_scores_to_the_last_bit(aggregate):
    third = float(np.float32(1 / 3))

    assert pooled(aggregate, [[WINDOW], [[2, 3]]], [[third], [0.1]])[0] == [[third], [float(np.float32(0.1))]]


def test_rows_without_windows_stay_without_scores_and_reasons():
    rows, reasons = pooled("mean", [None, [WINDOW, WINDOW], None, [WINDOW], None], [[0.0], [1.0], [0.25]])

    assert rows == [None, [0.5], None, [0.25], None]
    assert reasons == [None] * 5


@pytest.mark.parametrize("rows", [[], [None, None]])
def test_no_windows_at_all_are_no_scores(rows):
    assert pooled("max", rows, np.zeros((0, 3))) == ([None] * len(rows), [None] * len(rows))


def test_windows_that_are_alike_share_their_scores():
    rows, _ = pooled("mean", [[WINDOW, SHORT_WINDOW], [SHORT_WINDOW]], [[0.0], [1.0]], index=[0, 1, 1])

    assert rows == [[0.5], [1.0]]


def test_a_row_with_a_window_that_failed_has_no_scores_and_the_first_such_window_is_named():
    rows, reasons = pooled(
        "mean",
        [[WINDOW], [WINDOW, WINDOW, WINDOW], [SHORT_WINDOW], [WINDOW, WINDOW]],
        [[0.5], [0.25], [0.75]],
        index=[0, 0, None, None, None, 1, 2],
        reasons=[None, None, "the model failed", "too long", "out of memory", None, None],
    )

    assert rows == [[0.5], None, None, [0.5]]
    assert reasons == [None, "window 2 of 3: the model failed", "out of memory", None]


@pytest.mark.slow
@settings(deadline=None)
@given(st.data())
def test_pooling_is_the_same_for_a_row_alone_and_lies_between_its_windows(data):
    lengths = data.draw(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=5))
    rows = [[[2, *[5] * length, 3] for length in windows] or None for windows in lengths]
    num_windows = sum(len(row or []) for row in rows)
    score = st.floats(0, 1, width=32)
    scores = data.draw(st.lists(st.lists(score, min_size=2, max_size=2), min_size=num_windows, max_size=num_windows))
    scores = np.array(scores, dtype=np.float32).reshape(num_windows, 2)

    for aggregate in AGGREGATES:
        together, _ = pooled(aggregate, rows, scores)
        start = 0
        for row, windows, found in zip(rows, lengths, together, strict=True):
            own = scores[start : start + len(windows)]
            start += len(windows)
            if row is None:
                assert found is None
                continue
            assert pooled(aggregate, [row], own)[0] == [found]
            weights = {"length_weighted": np.maximum(windows, 1)}.get(aggregate, np.ones(len(windows)))
            by_hand = own.max(axis=0) if aggregate == "max" else np.average(own, axis=0, weights=weights)
            np.testing.assert_allclose(found, by_hand, rtol=1e-6, atol=1e-9)
            assert (own.min(axis=0) <= found).all()
            assert (found <= own.max(axis=0)).all()


@given(num_text=st.integers(0, 60), room=st.integers(1, 9), data=st.data())
def test_windows_cover_a_text_and_share_only_their_overlap(num_text, room, data):
    overlap, from_the_end = data.draw(st.integers(0, room - 1)), data.draw(st.booleans())
    windowing = Windowing([101], [102, 103], room=room, overlap=overlap, from_the_end=from_the_end)
    text = list(range(num_text))

    cut = windowing.cut(pa.array([None, [101, *text, 102, 103]], pa.list_(pa.int32())))

    windows = cut[1].as_py()
    assert cut[0].as_py() is None
    assert all(ids[0] == 101 and ids[-2:] == [102, 103] for ids in windows)
    inner = [ids[1:-2] for ids in windows]
    assert all(len(ids) == room for ids in inner[:-1])
    assert len(inner[-1]) > overlap or len(inner) == 1
    for ids, following in pairwise(inner):
        mine, shared = (ids[:overlap], following[-overlap:]) if from_the_end else (ids[-overlap:], following[:overlap])
        assert not overlap or mine == shared
    new = [inner[0], *(ids[: len(ids) - overlap] if from_the_end else ids[overlap:] for ids in inner[1:])]
    assert [token for ids in (new[::-1] if from_the_end else new) for token in ids] == text
    assert sum(map(len, windows)) == windowing.num_window_tokens(num_text + 3)


def test_slices_and_chunks_of_a_column_are_its_rows():
    rows = pa.array([[WINDOW], None, [WINDOW, SHORT_WINDOW], [SHORT_WINDOW]], NESTED)

    def laid_out(token_ids):
        items = Items.of(prepared_rows(token_ids), deduplicate=False)
        ids = [items.collate(np.array([i]), pad_id=0)["input_ids"][0].tolist() for i in range(len(items))]
        return np.array(items.counts).tolist(), ids

    whole = ([1, 0, 2, 1], [WINDOW, WINDOW, SHORT_WINDOW, SHORT_WINDOW])
    assert laid_out(rows) == laid_out(pa.chunked_array([rows.slice(0, 2), rows.slice(2)])) == whole
    assert laid_out(rows.slice(1, 2)) == ([0, 2], [WINDOW, SHORT_WINDOW])
    assert laid_out(pa.chunked_array([], NESTED)) == ([], [])


def test_tokens_are_counted_as_often_as_windows_read_them():
    rows = pa.array([[WINDOW], None, [WINDOW, SHORT_WINDOW]], NESTED)
    plain = pa.array([WINDOW, None, SHORT_WINDOW], pa.list_(pa.int32()))

    assert (are_windows(rows), are_windows(plain)) == (True, False)
    assert sequences(rows).to_pylist() == [WINDOW, WINDOW, SHORT_WINDOW]
    assert sequences(plain) is plain
    assert (num_tokens(rows), num_tokens(plain)) == (13, 8)
    assert (num_tokens(pa.chunked_array([rows, rows])), num_tokens(rows.slice(0, 0))) == (26, 0)
