"""Tiny models that write, held to choices and to a JSON schema: whatever their weights prefer, every answer is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.contract.writers import CPU, ids_of, prompts, write
from tests.writers_in_form import TOKENIZERS, save_writer
from tidemill.engines.writing.generation.settings import Sampling, Settings
from tidemill.engines.writing.generation.written import LENGTH, STOP
from tidemill.engines.writing.torch_writer import TorchWriter
from tidemill.structured import AnswerSchema, Grammar, read_json_schema

CHOICES = ["yes", "no", "no idea", "maybe"]
SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"enum": ["positive", "negative"]},
        "score": {"type": "integer", "minimum": 0, "maximum": 5},
        "by": {"type": "string", "maxLength": 4},
    },
    "required": ["label", "score"],
    "additionalProperties": False,
}


def opened(folder: Path, family: str, grammar: Grammar | None, **settings: Any) -> tuple[TorchWriter, Any]:
    """The model in its engine, and its tokenizer."""
    model, tokenizer = save_writer(folder, family)
    engine = TorchWriter.open(
        folder,
        load=lambda *, dtype: type(model).from_pretrained(folder, dtype=dtype).eval(),
        settings=Settings.of(folder, model.config, grammar=grammar, **settings),
        inference=CPU,
        tokenizer=folder,
    )
    return engine, tokenizer


def texts_of(tokenizer: Any, found: list[dict[str, Any]]) -> list[str]:
    return [tokenizer.decode(ids, skip_special_tokens=True).removeprefix(" ") for ids in ids_of(found)]


@pytest.mark.parametrize("family", TOKENIZERS)
@pytest.mark.parametrize("sampling", [None, Sampling(seed=3, temperature=2.0)], ids=["greedy", "drawn"])
def test_every_answer_is_a_choice_and_ends_by_itself(tmp_path: Path, family: str, sampling: Sampling | None) -> None:
    engine, tokenizer = opened(tmp_path, family, Grammar.of(CHOICES), sampling=sampling, max_new_tokens=12)

    found = write(engine, prompts(20), size=7)

    assert set(texts_of(tokenizer, found)) <= set(CHOICES)
    assert len(set(texts_of(tokenizer, found))) > 1
    assert {each["finish"] for each in found} == {STOP}


@pytest.mark.parametrize("family", TOKENIZERS)
@pytest.mark.parametrize("sampling", [None, Sampling(seed=3)], ids=["greedy", "drawn"])
def test_every_answer_that_is_not_cut_is_as_the_schema_says(
    tmp_path: Path, family: str, sampling: Sampling | None
) -> None:
    grammar = Grammar.of(json_schema=read_json_schema(SCHEMA))
    assert grammar is not None
    engine, tokenizer = opened(tmp_path, family, grammar, sampling=sampling, max_new_tokens=70)

    found = write(engine, prompts(12), size=5)
    is_whole = np.array([each["finish"] == STOP for each in found])
    _, reasons = AnswerSchema.of(grammar).parse(pa.array(texts_of(tokenizer, found)), is_whole)

    assert is_whole.sum() > 5
    assert {each["finish"] for each in found} <= {STOP, LENGTH}
    assert reasons.filter(pa.array(is_whole)).null_count == is_whole.sum()


@pytest.mark.parametrize("family", TOKENIZERS)
def test_an_answer_of_a_form_is_the_rows_own_whoever_is_in_its_batch(tmp_path: Path, family: str) -> None:
    engine, _ = opened(tmp_path, family, Grammar.of(CHOICES), max_new_tokens=12)
    rows = prompts(8)

    assert ids_of(write(engine, rows)) == [ids_of(write(engine, [row]))[0] for row in rows]
