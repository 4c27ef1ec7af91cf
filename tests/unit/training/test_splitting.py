"""Which side a row is on depends on its text alone, and a text is on one side."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ConfigError
from tidemill.training.examples.splitting import contradictions, normalised, num_duplicates, split

TEXTS = [f"this is text number {i}" for i in range(400)]


def test_about_the_share_that_is_asked_for_is_held_out():
    found = split(TEXTS, 0.25)

    assert sorted([*found.train, *found.held_out]) == list(range(400))
    assert 70 < len(found.held_out) < 130


def test_rows_stay_on_their_side_as_others_come_and_go():
    before = split(TEXTS[:200], 0.2)
    after = split([*reversed(TEXTS)], 0.2)

    held_out_before = {TEXTS[i] for i in before.held_out}
    held_out_after = {TEXTS[399 - i] for i in after.held_out}
    assert held_out_before == held_out_after & set(TEXTS[:200])


@given(st.lists(st.sampled_from(["Hello  world", "hello world", "HELLO WORLD\n", "bye", "Ｂye"]), min_size=1))
def test_one_text_never_stands_on_both_sides_however_it_is_written(texts):
    found = split(texts, 0.5)

    sides = [{normalised(texts[i]) for i in side} for side in (found.train, found.held_out)]
    assert not sides[0] & sides[1]


def test_a_group_stays_on_one_side():
    groups = [i // 10 for i in range(400)]

    found = split(TEXTS, 0.3, groups=groups)

    assert not {groups[i] for i in found.train} & {groups[i] for i in found.held_out}


def test_a_text_on_both_sides_is_refused_or_only_measured_by():
    texts, parts = ["one", "two", "ONE ", "three"], ["train", "train", "test", "train"]

    with pytest.raises(ConfigError, match=r"1 row to learn from has the text of a held-out row.*--drop-duplicates"):
        split(texts, parts)
    found = split(texts, parts, drop_duplicates=True)

    assert (found.train, found.held_out, found.num_dropped) == ([1, 3], [2], 1)


def test_a_column_says_which_rows_are_held_out_in_words_or_by_true():
    assert split(["a", "b", "c"], ["Test", "train", None]).held_out == [0]
    assert split(["a", "b", "c"], [True, False, True]).held_out == [0, 2]


def test_few_rows_are_always_among_more():
    few, more = split(TEXTS, 0.2, max_rows=50), split(TEXTS, 0.2, max_rows=200)

    assert (len(few.train), len(more.train)) == (50, 200)
    assert set(few.train) < set(more.train)
    assert few.held_out == more.held_out


def test_a_text_with_two_labels_is_found_whatever_its_case():
    assert contradictions(["a", "b", "A", "b", "a "], [0, 1, 1, 1, 1]) == [(0, 2)]
    assert num_duplicates(["a", "b", "A", "b"]) == 2
