"""What goes to a server: a row's prompt as text, or its messages."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from tidemill.encoding.prompts import Prompt, ServedPrompts, packed, unpacked


def prepared(prompt, *rows):
    texts = pa.array([None if row is None else json.dumps(row) for row in rows], pa.string())
    return ServedPrompts(prompt).prepare(pa.table({"text": texts})).to_pylist()


def sent(row):
    return json.loads(unpacked(np.array(row["token_ids"])))


def test_a_prompt_is_sent_as_text_and_a_chat_as_messages():
    chat = [{"role": "user", "content": "é <|im_end|>", "name": "eve"}]

    text, messages = prepared(Prompt(columns=("text",)), ["é <|im_end|>"], [chat])

    assert sent(text) == "é <|im_end|>"
    assert sent(messages) == chat
    assert text["num_tokens"] == messages["num_tokens"] == 3


@pytest.mark.parametrize("text", ["", "a", "ab", "abc", "abcd", "漢字 🌊", "\0"])
def test_any_text_is_packed_and_comes_back(text):
    ids = packed(json.dumps(text, ensure_ascii=False).encode())
    assert json.loads(unpacked(np.array(ids, dtype=np.int64))) == text
    assert len(ids) <= len(json.dumps(text, ensure_ascii=False).encode()) // 4 + 1


def test_a_system_prompt_is_sent_as_a_message():
    (row,) = prepared(Prompt(template="Film: {text}", columns=("text",), system_prompt="Be brief."), ["x"])

    assert sent(row) == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Film: x"}]


def test_a_row_without_a_prompt_says_why():
    missing, empty = prepared(Prompt(columns=("text",)), None, [""])

    assert (missing["token_ids"], missing["num_tokens"], missing["reason"]) == (None, None, None)
    assert (empty["token_ids"], empty["reason"]) == (None, "the prompt is empty")


def test_another_prompt_has_another_fingerprint():
    prompts = [Prompt(columns=("text",)), Prompt(columns=("text",), system_prompt="x"), Prompt(columns=("a", "b"))]

    assert len({ServedPrompts(prompt).fingerprint for prompt in prompts}) == 3
