"""Where tokens stand in a text, as Transformers says it, however the text is cut."""

from __future__ import annotations

import functools

import pyarrow as pa
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoints import reviews
from tests.token_classifiers import save_any_tokenizer
from tidemill.encoding import tokenizer as tokenization
from tidemill.encoding.offsets import OffsetTokenizer
from tidemill.encoding.tokenizer import TextTokenizer

KINDS = ["wordpiece", "bpe", "unigram"]
SIDES = ["right", "left"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {(kind, side): tmp_path_factory.mktemp(f"{kind}-{side}") for kind in KINDS for side in SIDES}
    for (kind, side), folder in made.items():
        save_any_tokenizer(folder, kind, truncation_side=side)
    return made


load = functools.cache(OffsetTokenizer.load)
load_plain = functools.cache(TextTokenizer.load)
load_oracle = functools.cache(transformers.AutoTokenizer.from_pretrained)


def prepare(folder, texts, **options):
    return load(folder, **options).prepare(pa.table({"text": pa.array(texts, pa.string())}))


def spans(prepared):
    pairs = zip(prepared["starts"].to_pylist(), prepared["ends"].to_pylist(), strict=True)
    return [None if starts is None else list(zip(starts, ends, strict=True)) for starts, ends in pairs]


def expected_spans(folder, texts, **options):
    """Of what is no special token."""
    found = load_oracle(folder)(texts, return_offsets_mapping=True, return_special_tokens_mask=True, **options)
    return [
        [span for span, special in zip(offsets, mask, strict=True) if not special]
        for offsets, mask in zip(found["offset_mapping"], found["special_tokens_mask"], strict=True)
    ]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=20)
@given(st.data())
def test_offsets_are_those_of_transformers_with_truncation(folders, kind, side, data):
    texts = data.draw(st.lists(st.text() | st.sampled_from(reviews(100)), min_size=1, max_size=6))
    max_length = data.draw(st.sampled_from([3, 4, 9, 40]))

    prepared = prepare(folders[kind, side], texts, max_length=max_length)

    expected = expected_spans(folders[kind, side], texts, truncation=True, max_length=max_length)
    # What is cut before it leaves to the first token that is kept a space that others lose.
    first = 1 if side == "left" else 0
    assert [row[first:] for row in spans(prepared)] == [row[first:] for row in expected]
    assert prepared["counts"].to_pylist() == [[len(row)] for row in spans(prepared)]
    plain = load_plain(folders[kind, side], max_length=max_length).encode(pa.array(texts, pa.string()))
    assert prepared["token_ids"].to_pylist() == plain.token_ids.to_pylist()
    assert prepared["num_tokens"].to_pylist() == plain.num_tokens.to_pylist()


@pytest.mark.parametrize("long_text", ["truncate", "windows"])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_giant_text_has_the_offsets_of_the_whole(folders, kind, side, long_text, monkeypatch):
    text = " ".join(reviews(40))
    options = {"truncation": True, "max_length": 60} if long_text == "truncate" else {}
    expected = expected_spans(folders[kind, side], [text], **options)
    monkeypatch.setattr(tokenization, "PIECE_CHARS", 100)

    prepared = prepare(folders[kind, side], ["short", text], max_length=60, long_text=long_text)

    # The first token of a piece may keep the space before it.
    found = spans(prepared)[1]
    assert [text[slice(*span)].strip() for span in found] == [text[slice(*span)].strip() for span in expected[0]]
    assert prepared["num_tokens"][1].as_py() == len(expected_spans(folders[kind, side], [text])[0]) + 2


def test_rows_without_tokens_have_no_offsets(folders):
    texts = ["short", None, "long " * 100, ""]

    prepared = prepare(folders["wordpiece", "right"], texts, max_length=16, long_text="quarantine")

    assert [row is None for row in spans(prepared)] == [False, True, True, False]
    assert prepared["reason"].to_pylist() == [None, None, "102 tokens exceed tokenizer.max_length 16", None]
    assert spans(prepared)[3] == []
    assert prepare(folders["wordpiece", "right"], []).schema == prepared.schema


def test_a_text_with_more_tokens_in_windows_than_a_row_may_have_is_quarantined(folders, monkeypatch):
    monkeypatch.setattr(tokenization, "PIECE_CHARS", 100)
    monkeypatch.setattr(tokenization, "MAX_ROW_TOKENS", 100)
    monkeypatch.setattr("tidemill.encoding.offsets.MAX_ROW_TOKENS", 100)

    prepared = prepare(folders["wordpiece", "right"], ["a " * 400, "a"], max_length=16, long_text="windows")

    assert prepared["reason"][0].as_py().endswith("in windows, more than the 100 of one row")
    assert [row is None for row in spans(prepared)] == [True, False]


def test_token_shards_with_offsets_are_never_taken_for_those_without(folders):
    folder = folders["wordpiece", "right"]

    assert load(folder, max_length=16).fingerprint != load_plain(folder, max_length=16).fingerprint


def test_windows_are_in_the_order_of_the_text_whichever_side_is_cut(folders):
    texts = [" ".join(reviews(3))]
    found = {side: prepare(folders["bpe", side], texts, max_length=16, long_text="windows") for side in SIDES}

    assert found["left"]["token_ids"].to_pylist() == found["right"]["token_ids"].to_pylist()
    assert spans(found["left"]) == expected_spans(folders["bpe", "left"], texts)
