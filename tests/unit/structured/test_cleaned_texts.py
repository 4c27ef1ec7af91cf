"""A tokenizer that takes blanks out of what it decodes leaves answers of a form as they were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast

from tests.tiny_tokenizers import ALL, END
from tidemill.engines.writing.generation.written import STOP, Written, answers_of, outputs_of
from tidemill.models.tasks import find_task, task_options

CHOICES = ["yes , of course", "no ."]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    PreTrainedTokenizerFast(
        tokenizer_object=ALL["pieces"](), eos_token=END, clean_up_tokenization_spaces=True
    ).save_pretrained(tmp_path)
    return tmp_path


def texts_of(folder: Path, answers: list[str], **options: Any) -> list[str | None]:
    """What the task makes of the ids of these answers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = PretrainedConfig(name_or_path=str(folder), eos_token_id=0)
    task = find_task("text-generation")(config, task_options("text-generation", options))
    task.decode_with(folder)
    ids = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
    written = answers_of(outputs_of([Written(each, STOP, 1, len(each)) for each in ids]))
    rows, _ = task.rows(pa.ListArray.from_arrays(range(len(ids) + 1), written), pa.table({}))
    found: list[str | None] = rows["text"].to_pylist()
    return found


def test_a_choice_with_a_blank_before_a_comma_is_stored_as_it_was_declared(folder):
    assert texts_of(folder, CHOICES, choices=CHOICES) == CHOICES


def test_texts_without_a_form_are_cleaned_as_the_tokenizer_says(folder):
    assert texts_of(folder, CHOICES) == ["yes, of course", "no."]
