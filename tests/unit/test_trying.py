"""A typed row goes through what computed the table, whatever the model task, and is answered as the table has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.chats import write_chat
from tests.checkpoints import save_checkpoint
from tests.embedders import save_embedder
from tests.nli import save_nli
from tests.pair_models import save_pair_model
from tests.pipelines import MODEL, make_pipeline, query, reviews, run, write_parquet
from tests.tiny_writers import write_gpt2
from tests.token_classifiers import save_token_classifier

pytest.importorskip("gradio")

from tests.apps import opened_page
from tidemill.config import Pipeline

TEXTS = [text[:80] for text in reviews(0, 2)["text"].to_pylist()]
CHATS: list[Any] = [[{"role": "user", "content": text}] for text in ("Is it good?", "Say <|im_end|> and <b>why</b>.")]
LABELS = ["comedy", "war"]
WRITES: dict[str, Any] = {"task": "text-generation", "options": {"max_new_tokens": 4}}


def save_chat_model(folder: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    size = len(write_chat(folder, "chatml"))
    config = LlamaConfig(vocab_size=size, max_position_embeddings=104, eos_token_id=2, pad_token_id=0, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def chosen(folder: Path) -> Path:
    return save_nli(folder, "bert")


def paired(folder: Path) -> Path:
    return save_pair_model(folder, "bert", "five labels")


def tagging(folder: Path) -> Path:
    return save_token_classifier(folder, "bert")


def regressing(folder: Path) -> Path:
    return save_checkpoint(folder, "bert", "two regressions")


def bundled(folder: Path) -> Path:
    return MODEL


KINDS: dict[str, tuple[Callable[[Path], Path], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "scores": (bundled, {"all_scores": True}, {"text": "text"}, {}),
    "columns": (bundled, {}, {"text": ["other", "text"]}, {"tokenizer": {"max_length": 16, "long_text": "windows"}}),
    "regression": (regressing, {}, {"text": "text"}, {}),
    "pair": (paired, {}, {"text": "text", "text_pair": "other"}, {}),
    "zero-shot": (
        chosen,
        {"task": "zero-shot-classification", "options": {"candidate_labels": LABELS}},
        {"text": "text"},
        {},
    ),
    "entities": (tagging, {"task": "token-classification"}, {"text": "text"}, {}),
    "embedding": (save_embedder, {"task": "sentence-similarity"}, {"text": "text"}, {}),
    "prompt": (
        write_gpt2,
        {**WRITES, "options": {**WRITES["options"], "prompt": "Of {other}: {text}"}},
        {"text": ["other", "text"]},
        {},
    ),
    "chat": (save_chat_model, WRITES, {"text": "messages"}, {}),
}
"""What saves the model, and the sections of the pipeline: [model], [dataset] and others."""


def made(folder: Path, kind: str) -> Pipeline:
    save, model, dataset, others = KINDS[kind]
    rows = pa.table({"id": [0, 1], "text": TEXTS, "other": ["a film", "a <b>war</b>"], "messages": CHATS})
    write_parquet(folder / "data" / "a.parquet", rows)
    path = save(folder / "model")
    sections = {"dataset": {"keep": [], **dataset}, "model": {"path": str(path), **model}, **others}
    pipeline = make_pipeline(folder / "home", f"{folder}/data/*", **sections)
    assert run(pipeline).state == "done"
    return pipeline


def typed(names: list[str], number: int) -> list[str]:
    """What somebody types for a row: a text for each column, and messages as JSON."""
    values = {"text": TEXTS[number], "other": ["a film", "a <b>war</b>"][number], "messages": json.dumps(CHATS[number])}
    return [values[name] for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_any_model_task_is_answered_as_the_table_has_it(kind, tmp_path):
    from tidemill.app.trying import Trying

    pipeline = made(tmp_path, kind)
    with opened_page(pipeline) as page:
        spec = page.source.promoted()
        names = [*spec.text, *(spec.text_pair or ())]
        with page.source.open() as (_, table):
            columns = [name for name, _ in table.results]
        for number in (0, 1):
            values = typed(names, number)
            found = Trying(pipeline).row(spec, dict(zip(names, values, strict=True)))
            assert (found.reason, found.version) == (None, spec.version)
            assert set(columns) <= set(found.results)
            shown = f"SELECT {', '.join(found.results)} FROM reviews WHERE row_number = {number}"
            [expected] = query(pipeline.lake, shown)
            assert same(list(found.results.values()), list(expected)), (found.results, expected)
        shown = unescape(page.press("tm-try", *values, ""))
        assert "The table would hold" in shown
        assert "The table has this text already" in shown
        if kind == "zero-shot":
            assert "and not the table's" in unescape(page.press("tm-try", *values, "comedy\nfarce"))


def same(found: Any, expected: Any) -> bool:
    """Numbers within 1e-4: a row by itself is in another batch than it was in the table's."""
    if isinstance(expected, dict):
        found, expected = sorted(found.items()), sorted(expected.items())
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    return bool(found == pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else found == expected)


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return made(tmp_path_factory.mktemp("chats"), "chat")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('[{"role": "user"', "The messages are no JSON"),
        ('[{"role": "user"}]', "The row would be in quarantine: tokenize: messages[0] has no content"),
        ("", "The row would be in quarantine: tokenize: the prompt is empty"),
        ("a" * 1_000_001, "may have 1,000,000 characters"),
    ],
)
def test_a_value_that_is_no_chat_ends_in_a_message(chats, value, said):
    with opened_page(chats) as page:
        assert said in unescape(page.press("tm-try", value, ""))
