"""A text behind a prompt, or in lower case, has the tokens that sentence-transformers gives the model."""

from __future__ import annotations

import pyarrow as pa
import pytest
import transformers

from tests.checkpoints import NUM_POSITIONS, reviews, save_tokenizer
from tidemill.encoding.prompted import PromptedTokenizer
from tidemill.encoding.tokenizer import TextTokenizer
from tidemill.errors import ModelError

TEXTS = ["", "a film", "the film " * 100, *reviews(20)]


@pytest.fixture(params=["wordpiece", "bpe"])
def folder(request, tmp_path):
    save_tokenizer(tmp_path, request.param)
    return tmp_path


def load(folder, **options):
    return PromptedTokenizer.load(folder, max_length=NUM_POSITIONS, **options)


def ids_of(tokenizer, texts):
    return tokenizer.encode(pa.array(texts, pa.string())).token_ids.to_pylist()


@pytest.mark.parametrize("prompt", ["query: ", "Represent this:\n", "x"])
def test_a_prompt_is_tokenized_with_its_text_and_cut_with_it(folder, prompt):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    expected = theirs([prompt + text for text in TEXTS], truncation=True, max_length=NUM_POSITIONS)["input_ids"]

    assert ids_of(load(folder, prompt=prompt), TEXTS) == expected


def test_a_text_that_is_missing_stays_missing(folder):
    found = load(folder, prompt="query: ").encode(pa.array(["a", None]))

    assert found.token_ids.is_valid().to_pylist() == [True, False]
    assert found.num_tokens.to_pylist()[1] is None


def test_every_window_begins_with_the_prompt_and_together_they_are_the_text(folder):
    text = " ".join(reviews(8))
    whole = load(folder, prompt="query: ")
    tokenizer = load(folder, prompt="query: ", long_text="windows", overlap=5)

    (windows,) = ids_of(tokenizer, [text])

    prefix, num_after = windows[0][: tokenizer.num_special_tokens - 1], 1
    assert len(windows) > 3
    assert all(len(window) <= NUM_POSITIONS and window[: len(prefix)] == prefix for window in windows)
    read = windows[0][:-num_after]
    for window in windows[1:]:
        assert window[len(prefix) : len(prefix) + 5] == read[-5:]
        read += window[len(prefix) + 5 : -num_after]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert read == theirs("query: " + text)["input_ids"][:-num_after]
    assert windows[0] == ids_of(whole, [text])[0]


def test_a_prompt_that_leaves_windows_no_room_is_refused(folder):
    with pytest.raises(ModelError, match=r"leaves a window no room for text beside the \d+ tokens"):
        PromptedTokenizer.load(folder, prompt="the film " * 20, max_length=30, long_text="windows")


def test_the_prompts_tokens_are_counted_as_sentence_transformers_counts_them(folder):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)

    # All but the last special one.
    assert load(folder, prompt="query: ").num_prompt_tokens == len(theirs("query: ")["input_ids"]) - 1
    assert load(folder).num_prompt_tokens == 0


def test_lower_case_is_the_texts_whatever_the_tokenizer_does(tmp_path):
    save_tokenizer(tmp_path, "bpe")

    lowered = ids_of(load(tmp_path, lower_case=True), ["A FILM, É"])

    assert lowered == ids_of(load(tmp_path), ["a film, é"])
    assert lowered != ids_of(load(tmp_path), ["A FILM, É"])


def test_what_changes_tokens_names_other_token_shards_and_what_does_not_the_same(folder):
    plain = TextTokenizer.load(folder, max_length=NUM_POSITIONS).fingerprint

    assert load(folder).fingerprint == plain
    others = [load(folder, prompt="query: "), load(folder, prompt="passage: "), load(folder, lower_case=True)]
    assert len({plain, *(each.fingerprint for each in others)}) == 4
