"""What a model wrote goes from the engine to an answer, and from there to a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from transformers import GPT2Config, T5Config

from tests.tiny_writers import write_words
from tidemill.encoding.items import prepared_rows
from tidemill.engines.writing.generation.settings import Sampling, Settings
from tidemill.engines.writing.generation.written import (
    ANSWER,
    FAILED,
    LENGTH,
    STOP,
    Written,
    answers_of,
    failed,
    outputs_of,
)
from tidemill.errors import ModelError
from tidemill.models.tasks.writing.options import TextGenerationOptions
from tidemill.models.tasks.writing.text_generation import TextGeneration

NOTHING = prepared_rows(pa.array([[1]], pa.list_(pa.int32())))


def answers(*rows: list[Written] | None) -> pa.ListArray:
    written = answers_of(outputs_of([each for row in rows for each in row or []]))
    ends = np.cumsum([0, *(len(row or []) for row in rows)])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), written, mask=pa.array([row is None for row in rows]))


def test_ids_come_back_with_how_they_ended_and_what_is_not_known_is_null():
    found = answers_of(outputs_of([Written([5, 0, 7], STOP, 4, 3), Written([], LENGTH), failed("nö")]))
    assert found.type == ANSWER
    assert found.to_pylist() == [
        {"finish": STOP, "num_prompt_tokens": 4, "num_new_tokens": 3, "ids": [5, 0, 7]},
        {"finish": LENGTH, "num_prompt_tokens": None, "num_new_tokens": None, "ids": []},
        {"finish": FAILED, "num_prompt_tokens": None, "num_new_tokens": None, "ids": list("nö".encode())},
    ]
    assert answers_of(outputs_of([])).to_pylist() == []


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_words(tmp_path_factory.mktemp("words"))


def generation(words: Path, **options: object) -> TextGeneration:
    config = GPT2Config(vocab_size=400, architectures=["GPT2LMHeadModel"])
    config.name_or_path = str(words)
    task = TextGeneration(config, TextGenerationOptions(**options))  # type: ignore[arg-type]
    task.decode_with(words)
    return task


def ids_of(words: Path, text: str) -> list[int]:
    from transformers import AutoTokenizer

    ids: list[int] = AutoTokenizer.from_pretrained(words)(text)["input_ids"]
    return ids


def test_a_row_has_its_text_its_end_and_its_counts_and_a_failed_one_its_reason(words):
    task = generation(words)
    rows, reasons = task.rows(
        answers([Written([*ids_of(words, " the cat"), 0], STOP, 3, 4)], None, [failed("no room")], []), NOTHING
    )
    assert rows.to_pylist()[0] == {
        "text": " the cat",
        "finish_reason": "stop",
        "num_prompt_tokens": 3,
        "num_new_tokens": 4,
    }
    assert rows["text"].to_pylist()[1:3] == [None, None]
    assert reasons.to_pylist()[:3] == [None, None, "no room"]


def test_a_text_ends_before_the_first_of_its_stop_strings(words):
    task = generation(words, stop=["dog", "mat"])
    rows, _ = task.rows(answers([Written(ids_of(words, "the cat on the mat and the dog"), STOP, 1, 9)]), NOTHING)
    assert rows["text"].to_pylist() == ["the cat on the "]


def test_what_a_model_thinks_is_no_answer_and_one_that_thinks_to_the_end_has_none(words):
    def row(text: str, finish: int, **options: object) -> tuple[str | None, str | None]:
        task = generation(words, max_new_tokens=40, **options)
        rows, reasons = task.rows(answers([Written(ids_of(words, text), finish, 1, 40)]), NOTHING)
        return rows["text"][0].as_py(), reasons[0].as_py()

    assert row("<think>the cat</think>\n\nthe dog", STOP) == ("the dog", None)
    assert row("the cat</think>the dog", LENGTH, thinking=True) == ("the dog", None)
    text, reason = row("<think>the cat", LENGTH)
    assert (text, reason) == (
        None,
        "the model thought for all of its 40 new tokens and gave no answer: raise model.options.max_new_tokens",
    )
    assert row("the cat", LENGTH, thinking=True)[0] is None
    assert row("the cat</think>", LENGTH) == ("the cat</think>", None)


def test_the_texts_of_windows_follow_each_other_and_their_counts_add_up(words):
    windows = [Written(ids_of(words, "the cat"), STOP, 5, 2), Written(ids_of(words, "the dog"), LENGTH, 6, 3)]
    rows, _ = generation(words).rows(answers(windows), NOTHING)
    assert rows.to_pylist() == [
        {"text": "the cat\nthe dog", "finish_reason": "length", "num_prompt_tokens": 11, "num_new_tokens": 5}
    ]


def test_sampling_is_only_turned_on_by_an_option_and_the_rest_of_the_checkpoint_holds(tmp_path):
    (tmp_path / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 0.2, "top_k": 5, "repetition_penalty": 1.3, "eos_token_id": [7, 9]}'
    )
    config = GPT2Config(eos_token_id=0)
    greedy = Settings.of(tmp_path, config)
    assert (greedy.generation.do_sample, greedy.generation.temperature, greedy.sampling) == (False, None, None)
    assert greedy.generation.repetition_penalty == 1.3
    assert greedy.end_ids == {7, 9}
    assert greedy.facts()["repetition_penalty"] == 1.3
    drawn = Settings.of(tmp_path, config, sampling=Sampling(seed=3, temperature=0.5))
    assert (drawn.generation.do_sample, drawn.generation.temperature, drawn.generation.top_k) == (True, 0.5, 0)
    assert drawn.facts()["seed"] == 3


@pytest.mark.parametrize(
    ("saved", "config", "expected"),
    [
        ("{}", GPT2Config(), 256),
        ('{"max_new_tokens": 9}', GPT2Config(), 9),
        ('{"max_length": 62}', T5Config(), 61),
        ('{"max_length": 20}', T5Config(), 256),
        ('{"max_length": 62}', GPT2Config(), 256),
    ],
)
def test_there_is_always_a_most_of_new_tokens(tmp_path, saved, config, expected):
    (tmp_path / "generation_config.json").write_text(saved)
    settings = Settings.of(tmp_path, config)
    assert (settings.max_new_tokens, settings.facts()["max_new_tokens"]) == (expected, expected)
    assert Settings.of(tmp_path, config, max_new_tokens=3).max_new_tokens == 3


def test_a_checkpoint_whose_settings_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "generation_config.json").write_text("[1]")
    with pytest.raises(ModelError, match="generation_config"):
        Settings.of(tmp_path, GPT2Config())
