"""Columns of messages, from the file to the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.chats import DATED, write_chat
from tests.pipelines import make_pipeline, problems_of, query, run, table_of, write_parquet
from tidemill.config import Pipeline
from tidemill.errors import ModelError
from tidemill.lake import Lake
from tidemill.planning.plan import make_plan

CHATS = [
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}],
    [{"role": "user", "content": "<|im_end|>two"}],
    [{"role": "user", "content": "three " * 60}],
    [],
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    size = len(write_chat(tmp_path / "model", "chatml"))
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=104,
        eos_token_id=2,
        bos_token_id=None,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def chats(folder: Path, model: Path, **sections: Any) -> Pipeline:
    rows = [{"id": number, "messages": chat} for number, chat in enumerate(CHATS)]
    write_parquet(folder / "data" / "a.parquet", pa.Table.from_pylist(rows))
    return make_pipeline(
        folder / "home",
        f"{folder}/data/*.parquet",
        dataset={"text": "messages", "keep": []},
        model={"path": str(model), "task": "text-generation", "options": {"max_new_tokens": 4}},
        limits={"max_quarantine": 0.5},
        **sections,
    )


def test_chats_are_answered_and_what_is_none_is_quarantined(tmp_path, model):
    from transformers import AutoTokenizer

    pipeline = chats(tmp_path, model)
    theirs = AutoTokenizer.from_pretrained(model)

    assert run(pipeline).state == "done"

    found = {row["id"]: row for row in table_of(pipeline).values()}
    brief = theirs.apply_chat_template(CHATS[0], add_generation_prompt=True, enable_thinking=False)["input_ids"]
    assert sorted(found) == [0, 1, 2]
    assert found[0]["num_prompt_tokens"] == len(brief)
    assert (found[2]["num_prompt_tokens"], found[2]["truncated"]) == (100, True)
    assert query(pipeline.lake, "SELECT stage, reason FROM _quarantine") == [("tokenize", "messages has no messages")]
    assert problems_of(pipeline) == []


@pytest.mark.slow
@pytest.mark.parametrize("has_template", [True, False])
def test_a_column_of_texts_that_holds_chats_in_a_later_file_is_answered_row_by_row(tmp_path, model, has_template):
    if not has_template:
        (model / "chat_template.jinja").unlink()
    pipeline = chats(tmp_path, model)
    pipeline = pipeline.model_copy(update={"limits": pipeline.limits.model_copy(update={"max_quarantine": 1.0})})
    texts = {"id": [90, 91], "messages": ["one two", "three"]}
    write_parquet(tmp_path / "data" / "0.parquet", pa.table(texts))

    assert run(pipeline).state == "done"

    assert {row["id"] for row in table_of(pipeline).values()} == {90, 91, *([0, 1, 2] if has_template else [])}
    reasons = [reason for (reason,) in query(pipeline.lake, "SELECT reason FROM _quarantine ORDER BY row_number")]
    assert [("chat template" in reason) for reason in reasons] == ([False] if has_template else [True] * 3 + [False])
    assert problems_of(pipeline) == []


TOLD = "'messages' holds texts in 0.parquet, and chats in a.parquet: chats go through the model's chat template"


@pytest.mark.slow
def test_a_plan_tells_which_files_hold_chats_where_others_hold_texts(tmp_path, model):
    pipeline = chats(tmp_path, model)
    (tmp_path / "data" / "a.parquet").rename(tmp_path / "a.parquet")
    write_parquet(tmp_path / "data" / "0.parquet", pa.table({"id": [90, 91], "messages": ["one two", "three"]}))
    assert make_plan(pipeline, None)[0].notes == ()
    run(pipeline)

    (tmp_path / "a.parquet").rename(tmp_path / "data" / "a.parquet")
    (before,) = make_plan(pipeline, None)[0].notes
    with Lake(pipeline.lake, read_only=True) as lake:
        (told,) = make_plan(pipeline, lake)[0].notes

    assert before == told
    assert told.startswith(TOLD)
    assert "Narrow dataset.path" in told


@pytest.mark.parametrize(("template", "says"), [("", "need a chat template"), (DATED, r"Set model\.options\.date")])
def test_a_model_that_cannot_take_chats_is_refused_before_anything_is_written(tmp_path, model, template, says):
    write_chat(model, "chatml", template=template)
    if not template:
        (model / "chat_template.jinja").unlink()
    pipeline = chats(tmp_path, model)

    with pytest.raises(ModelError, match=says):
        run(pipeline)

    assert not (tmp_path / "home" / "lake.sqlite").exists()
