"""Models held to a JSON schema: whatever tokens are drawn of those allowed, the answer is as the schema says."""

from __future__ import annotations

import json
import random
import sys

import numpy as np
import pyarrow as pa
import pytest
from transformers import PreTrainedTokenizerFast

from tests.tiny_tokenizers import ALL, END, OF_JSON, bytes_of_words, pieces
from tidemill.errors import ConfigError, ModelError
from tidemill.structured import AnswerSchema, Grammar, allowed_BV, read_json_schema
from tidemill.structured.formats import FORMATS, format_checker
from tidemill.structured.json_matchers import JsonMatchers

UNUSED = 7
REVIEW = {
    "type": "object",
    "properties": {
        "label": {"enum": ["positive", "negative"]},
        "stars": {"type": "integer"},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "at": {"type": "string", "format": "time"},
        "is_new": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 3},
        "by": {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}]},
    },
    "required": ["label", "stars", "is_new", "tags"],
    "additionalProperties": False,
}


def opened(tokenizer, schema=REVIEW):
    end = tokenizer.token_to_id(END)
    return JsonMatchers.of(schema, tokenizer, end_ids=[end], num_logits=tokenizer.get_vocab_size() + UNUSED)


def drawn(matchers, seed, most=400):
    """Ids of a walk that takes any token that is allowed, and whether the answer is whole."""
    draw, matcher = random.Random(seed), matchers.new()
    ids: list[int] = []
    while not matcher.is_finished and len(ids) < most:
        ids.append(draw.choice(np.flatnonzero(matcher.allowed()).tolist()))
        matcher.accept(ids[-1])
    return ids, matcher.is_finished and matcher.problem is None


def answers_of(schema):
    grammar = Grammar.of(json_schema=read_json_schema(schema))
    assert grammar is not None
    return AnswerSchema.of(grammar)


@pytest.mark.parametrize("kind", OF_JSON)
def test_whatever_is_drawn_of_what_is_allowed_is_an_answer(kind):
    tokenizer = ALL[kind]()
    matchers = opened(tokenizer)

    walks = [drawn(matchers, seed) for seed in range(30)]
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids, _ in walks]
    whole = np.array([is_whole for _, is_whole in walks])
    _, reasons = answers_of(REVIEW).parse(pa.array(texts), whole)

    assert whole.sum() > 25
    assert [reason for reason, is_whole in zip(reasons.to_pylist(), whole, strict=True) if is_whole and reason] == []


@pytest.mark.parametrize("name", FORMATS)
def test_what_the_grammar_takes_for_a_format_the_check_takes_for_it_too(name):
    """But for days that no calendar has, and names of more characters than a host may have."""
    tokenizer = bytes_of_words()
    schema = {"type": "object", "properties": {"a": {"type": "string", "format": name}}, "required": ["a"]}
    matchers, checker = opened(tokenizer, {**schema, "additionalProperties": False}), format_checker()

    walks = [drawn(matchers, seed, most=200) for seed in range(20)]
    values = [json.loads(tokenizer.decode(ids))["a"] for ids, is_whole in walks if is_whole]

    assert len(values) > 3
    assert sum(checker.conforms(value, name) for value in values) >= 0.75 * len(values)


@pytest.mark.parametrize("kind", OF_JSON)
def test_an_end_token_is_allowed_only_where_the_answer_may_end(kind):
    tokenizer = ALL[kind]()
    end, matcher = tokenizer.token_to_id(END), opened(tokenizer).new()

    for token_id in tokenizer.encode(
        '{"label": "negative", "stars": 1, "is_new": true, "tags": []', add_special_tokens=False
    ).ids:
        mask_V = matcher.allowed()
        assert mask_V[token_id]
        assert not mask_V[end]
        matcher.accept(token_id)
    assert not matcher.is_finished
    matcher.accept(next(i for i in np.flatnonzero(matcher.allowed()).tolist() if tokenizer.decode([i]) == "}"))

    assert matcher.is_finished
    assert matcher.problem is None
    assert np.flatnonzero(matcher.allowed()).tolist() == [end]


def test_a_token_of_texts_that_ends_an_answer_too_is_not_allowed_within_one():
    tokenizer = bytes_of_words()
    ids = tokenizer.get_vocab()
    end, a = ids[END], ids["a"]
    matcher = JsonMatchers.of(REVIEW, tokenizer, end_ids=[end, a], num_logits=len(ids)).new()

    for token in ("{", '"', "l"):
        matcher.accept(ids[token])

    assert not matcher.allowed()[a]


def test_a_mask_covers_logits_that_no_token_has_and_no_control_token():
    tokenizer = bytes_of_words()
    mask_V = opened(tokenizer).new().allowed()

    assert mask_V.shape == (tokenizer.get_vocab_size() + UNUSED,)
    assert not mask_V[-UNUSED:].any()


def test_blanks_come_at_most_one_at_a_time_outside_of_strings():
    tokenizer = bytes_of_words()
    matchers = opened(tokenizer, {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]})
    matcher = matchers.new()
    for token_id in tokenizer.encode('{"a": ').ids:
        matcher.accept(token_id)

    begins_with_a_blank = [
        i for i in np.flatnonzero(matcher.allowed()).tolist() if tokenizer.decode([i]).startswith((" ", "\n"))
    ]

    assert matcher.problem is None
    assert begins_with_a_blank == []


def test_an_integer_without_bounds_has_an_end_that_a_column_holds():
    tokenizer = bytes_of_words()
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    matcher = opened(tokenizer, schema).new()
    nine = tokenizer.token_to_id("9")
    for token_id in tokenizer.encode('{"a":').ids:
        matcher.accept(token_id)
    num_digits = 0
    while matcher.allowed()[nine]:
        matcher.accept(nine)
        num_digits += 1

    assert num_digits == 18


def test_what_the_grammar_leaves_out_is_left_to_the_check():
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"enum": ["x", "y"]}, "uniqueItems": True, "maxItems": 2}},
        "required": ["a"],
        "additionalProperties": False,
    }
    tokenizer = bytes_of_words()
    matchers = opened(tokenizer, schema)

    walks = [drawn(matchers, seed) for seed in range(40)]
    texts = [tokenizer.decode(ids).removeprefix(" ") for ids, _ in walks]
    columns, reasons = answers_of(schema).parse(pa.array(texts), np.array([is_whole for _, is_whole in walks]))

    kept = [value for value in columns[0].to_pylist() if value is not None]
    assert kept == [json.loads(text)["a"] for text, reason in zip(texts, reasons, strict=True) if not reason.is_valid]
    assert all(len(set(value)) == len(value) for value in kept)
    assert 0 < len(kept) < len(texts)


def test_a_copy_goes_its_own_way():
    matcher = opened(bytes_of_words()).new()
    other = matcher.copy()
    other.accept(int(np.flatnonzero(other.allowed())[0]))

    assert (matcher.allowed() != other.allowed()).any()


def test_a_token_that_was_not_allowed_ends_the_answer_with_a_reason():
    tokenizer = bytes_of_words()
    matcher = opened(tokenizer).new()
    matcher.accept(tokenizer.get_vocab()["x"])

    assert matcher.is_finished
    assert "cannot go on" in str(matcher.problem)
    assert not matcher.allowed().any()


def test_a_tokenizer_without_braces_is_refused():
    tokenizer = pieces()
    described = json.loads(tokenizer.to_str())
    described["model"]["vocab"] = [[piece.replace("{", "("), score] for piece, score in described["model"]["vocab"]]

    with pytest.raises(ModelError, match=r"cannot write JSON of model.options.json_schema.*set model.options.choices"):
        opened(type(tokenizer).from_str(json.dumps(described)))


def test_a_tokenizer_that_puts_blanks_between_words_is_refused():
    with pytest.raises(ModelError, match="cannot write JSON"):
        opened(ALL["words"]())


def test_a_name_that_the_tokenizer_cannot_write_is_refused():
    with pytest.raises(ModelError, match='what it writes for "größe" reads'):
        opened(pieces(), {"type": "object", "properties": {"größe": {"type": "integer"}}})


def test_without_the_package_the_way_to_install_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)

    with pytest.raises(ConfigError, match=r'not installed: pip install "tidemill\[structured\]"'):
        opened(bytes_of_words())


def test_a_pattern_that_no_grammar_is_made_for_is_refused_before_anything_is_written():
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)x+"}}}

    with pytest.raises(
        ModelError, match=r"No grammar can be made of model.options.json_schema.*look-ahead.*Take that out"
    ):
        opened(bytes_of_words(), schema)


@pytest.mark.parametrize("asked", [{"choices": ["yes", "no"]}, {"json_schema": read_json_schema(REVIEW)}])
def test_a_grammar_is_known_by_what_it_asks_and_opens_the_tokenizer_of_a_folder(tmp_path, asked):
    PreTrainedTokenizerFast(tokenizer_object=bytes_of_words(), eos_token=END).save_pretrained(tmp_path)
    grammar, same = Grammar.of(**asked), Grammar.of(**asked)
    assert grammar is not None
    assert (grammar, hash(grammar)) == (same, hash(same))

    matchers = grammar.matcher(tmp_path, end_ids={0, 3, 430, 5_000}, num_logits=450)
    mask_BV = allowed_BV([matchers.new(), matchers.new()], 450)

    assert mask_BV.shape == (2, 450)
    assert mask_BV.any(axis=1).all()


def test_a_model_without_an_end_token_of_its_own_is_refused(tmp_path):
    PreTrainedTokenizerFast(tokenizer_object=bytes_of_words(), eos_token=END).save_pretrained(tmp_path)
    grammar = Grammar.of(choices=["yes", "no"])
    assert grammar is not None

    with pytest.raises(ModelError, match="names no end token"):
        grammar.matcher(tmp_path, end_ids={5_000}, num_logits=450)


def test_no_form_is_no_grammar():
    assert Grammar.of() is None
