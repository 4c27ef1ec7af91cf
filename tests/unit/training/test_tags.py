"""What is said of tokens comes from tags of words or from spans of a text."""

from __future__ import annotations

import pytest

from tidemill.errors import ConfigError
from tidemill.training.examples.tags import marked, tags_of_tokens


def test_a_words_first_token_has_its_tag_and_the_others_go_on():
    row = marked(["Anna", "Karenina", "left"], ["B-PER", "I-PER", "O"])

    assert row.text == "Anna Karenina left"
    offsets = [(0, 0), (0, 2), (2, 4), (5, 10), (10, 13), (14, 18), (0, 0)]
    assert tags_of_tokens(row, offsets) == [None, "B-PER", "I-PER", "I-PER", "I-PER", "O", None]


def test_a_span_begins_with_the_token_that_holds_its_first_character():
    row = marked(
        "to Paris, to Rome", [{"start": 13, "end": 17, "label": "LOC"}, {"start": 3, "end": 8, "label": "LOC"}]
    )

    offsets = [(0, 2), (3, 5), (5, 8), (8, 9), (10, 12), (13, 17)]
    assert tags_of_tokens(row, offsets) == ["O", "B-LOC", "I-LOC", "O", "O", "B-LOC"]


@pytest.mark.parametrize(
    ("text", "labels", "message"),
    [
        (["a", "b"], ["O"], "2 words and 1 tags"),
        ("a text", ["O"], "a list of spans, objects of start, end and label"),
        ("a text", [{"start": 2, "end": 60, "label": "X"}], "from 2 to 60 in a text of 6 characters"),
    ],
)
def test_tags_that_do_not_fit_their_text_are_refused_with_the_counts(text, labels, message):
    with pytest.raises(ConfigError, match=message):
        marked(text, labels)
