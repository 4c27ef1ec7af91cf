"""Text classification of pairs answers as `transformers.pipeline` does, in architectures of every kind."""

from __future__ import annotations

import inspect

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers

from tests.checkpoints import reviews
from tests.opened import task_of
from tests.pair_models import PAIR_MODELS, save_pair_model
from tests.variants import variants
from tidemill.checkpoints.loading import load_config, max_positions, usual_length
from tidemill.config import Inference
from tidemill.errors import ModelError
from tidemill.inference.runner import ModelRunner
from tidemill.models.tasks import Reading
from tidemill.models.tasks.text_classification import TextClassification

TASK = "text-classification"
LENGTH = 64
FIRST = [*reviews(12), "", "a", "a query", "the film " * 60, "the film " * 60]
SECOND = [*reviews(24)[12:], "a good one", "b", "naïve café 電影 😀", "the actor " * 80, ""]


@pytest.fixture(scope="module", params=variants(PAIR_MODELS, ["bert"]))
def folder(request, tmp_path_factory):
    return save_pair_model(tmp_path_factory.mktemp(request.param), request.param, "five labels")


def prepared(folder, task=TASK, *, first=FIRST, second=SECOND, **reading):
    config = load_config(folder)
    bounds = {"max_length": LENGTH, "model_max_length": max_positions(config), "usual_length": usual_length(config)}
    preparer = task_of(folder, task, is_pair=True).preparer(folder, Reading(**{**bounds, **reading}, is_pair=True))
    return preparer.prepare(
        pa.table({"text": pa.array(first, pa.string()), "text_pair": pa.array(second, pa.string())})
    )


def ask_tidemill(folder, rows, task=TASK, *, engine="torch", dtype="float32", **options):
    inference = Inference(device="cpu", engine=engine, dtype=dtype)
    runner = ModelRunner.load(folder, task=task, inference=inference, is_pair=True, **options)
    predictions = runner.predict(rows)
    assert predictions.reason.null_count == rows.num_rows
    return predictions.columns


def ask_model(folder, **options):
    """Logits of each pair alone, by Transformers, which is given whatever its tokenizer gives."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
    logits = []
    for pair in zip(FIRST, SECOND, strict=True):
        inputs = tokenizer(*([text] for text in pair), return_tensors="pt", max_length=LENGTH, **options)
        if not takes_types:
            inputs.pop("token_type_ids", None)
        with torch.no_grad():
            logits.append(model(**inputs).logits[0].numpy())
    return np.array(logits)


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_labels_and_scores_are_those_of_the_model_given_both_texts(folder, engine):
    exponentials = np.exp(ask_model(folder, truncation=True))
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)

    ours = ask_tidemill(folder, prepared(folder), engine=engine, all_scores=True)

    names = list(load_config(folder).id2label.values())
    scores = np.array([[dict(each)[name] for name in names] for each in ours["scores"].to_pylist()])
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert ours["label"].to_pylist() == [names[best] for best in expected.argmax(axis=1)]


def test_answers_are_those_of_the_pipeline(tmp_path):
    folder = save_pair_model(tmp_path, "bert", "five labels")
    pipeline = transformers.pipeline(TASK, model=str(folder), dtype=torch.float32, device="cpu")
    pairs = [{"text": a, "text_pair": b} for a, b in zip(FIRST, SECOND, strict=True) if b]
    answers = [pipeline(pair, truncation=True, max_length=LENGTH) for pair in pairs]

    ours = ask_tidemill(folder, prepared(folder))
    with_second = pa.array([bool(b) for b in SECOND])

    assert ours["label"].filter(with_second).to_pylist() == [answer["label"] for answer in answers]
    np.testing.assert_allclose(
        ours["score"].filter(with_second).to_numpy(), [answer["score"] for answer in answers], atol=1e-4
    )


@pytest.mark.parametrize("architecture", ["bert", "electra", "xlnet"])
def test_a_model_that_tells_types_apart_is_given_them(tmp_path, architecture):
    folder = save_pair_model(tmp_path, architecture, "five labels")
    rows = prepared(folder)
    zeros = pa.ListArray.from_arrays(
        rows["type_ids"].combine_chunks().offsets,
        pa.array(np.zeros(len(rows["type_ids"].combine_chunks().values), np.int8)),
    )
    forgotten = rows.set_column(rows.column_names.index("type_ids"), "type_ids", zeros)

    apart, alike = (ask_tidemill(folder, each)["score"].to_numpy() for each in (rows, forgotten))

    assert np.abs(apart - alike).max() > 1e-3


@pytest.mark.parametrize("architecture", ["deberta-v2", "distilbert"])
def test_a_model_that_tells_no_types_apart_is_given_none(tmp_path, architecture):
    assert "type_ids" not in prepared(save_pair_model(tmp_path, architecture, "five labels")).column_names


def test_only_the_second_text_is_cut_where_that_is_asked_for(tmp_path):
    folder = save_pair_model(tmp_path, "bert", "five labels")
    pairs = {"first": ["a film " * 5, "the " * 100], "second": ["the " * 100, "a film"]}

    rows = prepared(folder, truncation="only_second", **pairs)

    oracle = transformers.AutoTokenizer.from_pretrained(folder)
    expected = oracle(["a film " * 5], ["the " * 100], truncation="only_second", max_length=LENGTH)["input_ids"]
    assert rows["token_ids"].to_pylist() == [*expected, None]
    assert rows["reason"].to_pylist()[1].startswith("the first text has 100 tokens")


def test_pairs_that_differ_in_where_they_part_alone_have_answers_of_their_own(tmp_path):
    folder = save_pair_model(tmp_path, "roberta", "five labels")
    rows = prepared(
        folder, first=["a film that", "a film", "a film"], second=["is good", "that is good", "that is good"]
    )

    scores = ask_tidemill(folder, rows)["score"].to_pylist()

    assert scores[0] != pytest.approx(scores[1], abs=1e-6)
    assert scores[1] == scores[2]


def test_a_task_that_reads_one_text_refuses_pairs(tmp_path):
    class OfOneText(TextClassification):
        takes_pairs = False

    with pytest.raises(ModelError, match=r"dataset\.text_pair gives a row two texts, and .* reads one\. Remove it"):
        OfOneText(load_config(save_pair_model(tmp_path, "bert", "five labels")), is_pair=True)
