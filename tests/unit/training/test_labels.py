"""Labels of rows and of a base are matched by name."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tidemill.errors import ConfigError
from tidemill.training.examples.labels import cleaned, kind_of, settle_outputs

SENTIMENT = ["NEGATIVE", "POSITIVE"]


def outputs(values, base=SENTIMENT, **options):
    return settle_outputs(values, "single_label", base, "single_label", new_head=options.pop("new_head", False))


def test_labels_that_the_base_has_keep_its_order_and_its_head():
    found = outputs(["POSITIVE", "NEGATIVE"])

    assert (found.names, found.of_base) == (("NEGATIVE", "POSITIVE"), (0, 1))
    assert found.encoded(["POSITIVE", "NEGATIVE", "NEGATIVE"]).tolist() == [1, 0, 0]
    assert "The base's head goes on: 0 = NEGATIVE, 1 = POSITIVE." in found.notes


def test_labels_are_never_matched_by_number():
    found = outputs(["0", "1"])

    assert (found.names, found.of_base) == (("0", "1"), None)
    assert "The head is new: it answers 0, 1 in place of NEGATIVE, POSITIVE." in found.notes


def test_case_counts_for_nothing_where_no_two_labels_differ_by_it_and_the_rows_spelling_stays():
    assert outputs(["positive", "negative"]).names == ("negative", "positive")


def test_a_label_that_the_base_lacks_beside_one_that_it_has_is_refused_with_both_lists():
    with pytest.raises(ConfigError, match=r'the base has no NEUTRAL.*base.head = "new"'):
        outputs(["POSITIVE", "NEUTRAL"])

    assert outputs(["POSITIVE", "NEUTRAL"], new_head=True).names == ("NEUTRAL", "POSITIVE")


def test_what_the_base_answers_beside_the_rows_labels_is_said():
    found = outputs(["bad", "good"], base=["bad", "fair", "good"])

    assert found.names == ("bad", "fair", "good")
    assert "The base also answers fair, of which there are no rows." in found.notes


def test_outputs_that_nobody_named_match_nothing():
    assert outputs(["LABEL_0", "LABEL_1"], base=["LABEL_0", "LABEL_1"]).of_base is None


def test_one_label_is_refused():
    with pytest.raises(ConfigError, match="All rows have one label, 'ham'"):
        outputs(["ham", "ham"])


def test_a_thousand_and_one_labels_look_like_a_key():
    with pytest.raises(ConfigError, match="looks like a text or a key"):
        outputs([str(i) for i in range(1001)])


def test_a_columns_type_says_what_is_learned():
    assert kind_of(pa.string()) == kind_of(pa.int64()) == kind_of(pa.bool_()) == "single_label"
    assert kind_of(pa.float64()) == "regression"
    assert kind_of(pa.list_(pa.string())) == "multi_label"
    with pytest.raises(ConfigError, match=r"data\.label has type"):
        kind_of(pa.timestamp("s"))


def test_values_get_the_names_that_the_file_gives_them():
    assert cleaned([1, 0, None], "single_label", {"1": "POSITIVE", "0": "NEGATIVE"}) == ["POSITIVE", "NEGATIVE", None]
    assert cleaned([["a", "a", "b"]], "multi_label", {}) == [["a", "b"]]
    assert cleaned([1.5, float("nan")], "regression", {}) == [1.5, None]


def test_several_labels_a_row_are_ones_among_zeros():
    found = settle_outputs([["a"], ["a", "b"], []], "multi_label", ["x"], "single_label", new_head=False)

    assert found.encoded([["b"], []]).tolist() == [[0, 1], [0, 0]]
