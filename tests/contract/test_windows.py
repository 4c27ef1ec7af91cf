"""A text read in windows has the scores that Transformers gives each window, brought together by hand."""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers

from tests.checkpoints import NUM_POSITIONS, reviews, save_checkpoint
from tidemill.checkpoints.loading import load_config, max_positions
from tidemill.config import Inference
from tidemill.encoding.items import prepared_rows
from tidemill.encoding.pooling import Pooling
from tidemill.encoding.tokenizer import TextTokenizer
from tidemill.inference.runner import ModelRunner

OVERLAP = 9
AGGREGATES = ["mean", "max", "length_weighted"]
TEXTS = ["", "a film", " ".join(reviews(3)), " ".join(reviews(8)), " ".join(reviews(30)[10:])]


@functools.cache
def reference(task, folder):
    """For each text: (label → score, tokens of the text) of each of its windows, one by one in float32."""
    pipeline = transformers.pipeline(task, model=str(folder), dtype=torch.float32, device="cpu")
    options = {"truncation": True, "max_length": NUM_POSITIONS, "stride": OVERLAP, "return_overflowing_tokens": True}
    found = []
    for text in TEXTS:
        encoded = pipeline.tokenizer(text, return_special_tokens_mask=True, **options)
        windows = []
        for ids, special in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
            with torch.inference_mode():
                logits = pipeline.model(input_ids=torch.tensor([ids])).logits
            answer = pipeline.postprocess({"logits": logits}, top_k=None)
            windows.append(({one["label"]: one["score"] for one in answer}, len(ids) - sum(special)))
        found.append(windows)
    return found


def by_hand(windows, aggregate):
    scores, lengths = zip(*windows, strict=True)
    if aggregate == "max":
        return {label: max(one[label] for one in scores) for label in scores[0]}
    weights = [1] * len(scores) if aggregate == "mean" or sum(lengths) == 0 else lengths
    return {
        label: sum(weight * one[label] for weight, one in zip(weights, scores, strict=True)) / sum(weights)
        for label in scores[0]
    }


@functools.cache
def load_tokenizer(folder, long_text="windows"):
    length = max_positions(load_config(folder))
    return TextTokenizer.load(folder, model_max_length=length, long_text=long_text, overlap=OVERLAP)


@functools.cache
def load_runner(task, folder, aggregate=None, token_budget=512):
    inference = Inference(device="cpu", engine="torch", dtype="float32", token_budget=token_budget)
    pooling = Pooling(aggregate, load_tokenizer(folder).num_special_tokens) if aggregate else None
    return ModelRunner.load(folder, task=task, inference=inference, all_scores=True, pooling=pooling)


def ask_tidemill(task, folder, texts, aggregate, **inference):
    tokenizer, runner = load_tokenizer(folder), load_runner(task, folder, aggregate, **inference)
    return runner.predict(tokenizer.prepare(pa.table({"text": pa.array(texts, pa.string())})))


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_the_scores_of_windows_are_those_of_transformers_brought_together(checkpoint, aggregate):
    task, folder = checkpoint
    expected = [by_hand(windows, aggregate) for windows in reference(task, folder)]

    rows = ask_tidemill(task, folder, TEXTS, aggregate).columns.to_pylist()

    assert [len(windows) for windows in reference(task, folder)][:2] == [1, 1]
    assert len(reference(task, folder)[-1]) > 5
    for row, scores in zip(rows, expected, strict=True):
        assert dict(row["scores"]) == pytest.approx(scores, abs=1e-4)
        assert row["label"] == max(scores, key=scores.get)
        assert row["score"] == pytest.approx(max(scores.values()), abs=1e-4)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("bert"), "bert", "five labels")


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_a_text_has_the_scores_that_it_has_alone_whatever_else_is_in_its_batches(bert, aggregate):
    together = ask_tidemill("text-classification", bert, [*reviews(40), *TEXTS], aggregate, token_budget=4096)

    for text, row in zip(TEXTS, together.columns.to_pylist()[40:], strict=True):
        alone = ask_tidemill("text-classification", bert, [text], aggregate, token_budget=64).columns.to_pylist()[0]
        assert dict(row["scores"]) == pytest.approx(dict(alone["scores"]), abs=1e-5)


def test_texts_that_one_window_holds_are_answered_as_without_windows(bert):
    texts = [text for text in reviews(300) if len(text) < 60]
    runner = load_runner("text-classification", bert)
    plain = runner.predict(prepared_rows(load_tokenizer(bert, "truncate").encode(pa.array(texts)).token_ids))

    for aggregate in AGGREGATES:
        windows = ask_tidemill("text-classification", bert, texts, aggregate)
        assert windows.columns == plain.columns


def test_windows_are_computed_once_in_batches_of_all_rows(bert):
    text = " ".join(reviews(30))

    stats = ask_tidemill("text-classification", bert, [text, "a film", text], "mean", token_budget=4096).stats

    windows = load_tokenizer(bert).encode(pa.array([text])).token_ids.to_pylist()[0]
    assert len(windows) > 5
    assert (stats.num_rows, stats.num_distinct) == (3, len(windows) + 1)
    assert stats.num_tokens == sum(map(len, windows)) + 4


def test_a_row_one_of_whose_windows_cannot_be_computed_gets_a_reason_that_names_it(bert):
    fine, unknown = [2, 5, 6, 3], [2, 10_000, 3]
    rows = pa.array([[fine, fine], [fine, unknown, fine], None, [fine]], pa.list_(pa.list_(pa.int32())))

    predictions = load_runner("text-classification", bert, "mean").predict(prepared_rows(rows))

    assert [reason is not None for reason in predictions.reason.to_pylist()] == [False, True, False, False]
    assert predictions.reason[1].as_py().startswith("window 2 of 3: token id 10000 is outside of the model")
    scores = predictions.columns["score"].to_pylist()
    assert scores[1:3] == [None, None]
    assert scores[0] == scores[3] is not None
    assert np.isfinite(scores[0])
