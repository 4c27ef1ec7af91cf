"""Labels and scores are those of `pipeline("zero-shot-classification")` where that is right, and a model's own logits
taken by the names of its classes where it is not."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.checkpoints import reviews
from tests.nli import KINDS, save_nli
from tests.opened import task_of
from tests.variants import variants
from tidemill.checkpoints.loading import load_config, max_positions, usual_length
from tidemill.config import Inference
from tidemill.inference.runner import ModelRunner
from tidemill.models.tasks import Reading

TASK = "zero-shot-classification"
LABELS = ["comedy", "war", "a love story"]
TEXTS = [*reviews(12), "a", "naïve café 電影 😀", "the film " * 300]
NEUTRAL_FIRST = ("neutral", "contradiction", "entailment")


@pytest.fixture(scope="module", params=variants(KINDS, ["bert"]))
def folder(request, tmp_path_factory):
    return save_nli(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_nli(tmp_path_factory.mktemp("bert"), "bert")


def with_larger_logits(folder: Path, copy: Path, *, times: float) -> Path:
    """A model that gives so many times the logits."""
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = load_file(copy / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] *= times
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return copy


@functools.cache
def opened(folder):
    return transformers.pipeline(TASK, model=str(folder), dtype=torch.float32, device="cpu")


def ask_pipeline(folder, texts, labels=LABELS, **options):
    """label → score of each text; one by one, so that nothing is padded."""
    answers = [opened(folder)(text, candidate_labels=labels, **options) for text in texts]
    return [dict(zip(answer["labels"], answer["scores"], strict=True)) for answer in answers]


def ask_by_hand(folder, texts, labels=LABELS, *, entailment, contradiction=None):
    """label → score of each text, by the places of classes: of entailment alone, or against contradiction."""
    model, tokenizer = opened(folder).model, opened(folder).tokenizer
    answers = []
    for text in texts:
        logits_LC = []
        for label in labels:
            pair = tokenizer(text, f"This example is {label}.", truncation="only_first", return_tensors="pt")
            with torch.inference_mode():
                logits_LC.append(model(**pair).logits[0].double())
        evidence_L = torch.stack(logits_LC)[:, entailment]
        if contradiction is None:
            scores = evidence_L.softmax(0)
        else:
            scores = (evidence_L - torch.stack(logits_LC)[:, contradiction]).sigmoid()
        answers.append(dict(zip(labels, scores.tolist(), strict=True)))
    return answers


def ask_tidemill(folder, texts, labels=LABELS, *, all_scores=True, inference=None, **options):
    options = {"candidate_labels": labels, **options}
    config = load_config(folder)
    reading = Reading(model_max_length=max_positions(config), usual_length=usual_length(config))
    preparer = task_of(folder, TASK, options=options).preparer(folder, reading)
    predictions = runner_of(folder, all_scores=all_scores, inference=inference, **options).predict(
        preparer.prepare(pa.table({"text": pa.array(texts, pa.string())}))
    )
    assert predictions.reason.null_count == len(texts)
    return predictions


def runner_of(folder, *, all_scores=True, inference=None, **options):
    return ModelRunner.load(
        folder,
        task=TASK,
        task_options=options,
        inference=Inference(device="cpu", **{"engine": "torch", "dtype": "float32", **(inference or {})}),
        all_scores=all_scores,
    )


def scores_of(predictions):
    return [dict(row) for row in predictions.columns["scores"].to_pylist()]


def assert_same(ours, expected, *, atol=1e-4):
    assert [list(row) for row in ours] == [LABELS] * len(ours) or len(ours[0]) != len(LABELS)
    for row, other in zip(ours, expected, strict=True):
        assert row == pytest.approx(other, abs=atol)


@pytest.mark.parametrize(("engine", "multi_label"), [("torch", False), ("auto", True)])
def test_labels_and_scores_are_those_of_the_pipeline(folder, engine, multi_label):
    expected = ask_pipeline(folder, TEXTS, multi_label=multi_label)

    ours = ask_tidemill(folder, TEXTS, multi_label=multi_label, inference={"engine": engine})

    assert_same(scores_of(ours), expected)
    best = [max(row, key=row.__getitem__) for row in expected]
    labels = ours.columns["label"].to_pylist()
    # Two labels may be as good as each other to the last digit.
    assert [row[label] for row, label in zip(expected, labels, strict=True)] == pytest.approx(
        [row[label] for row, label in zip(expected, best, strict=True)], abs=1e-4
    )
    assert len(set(labels)) > 1
    np.testing.assert_allclose(ours.columns["score"].to_numpy(), [max(row.values()) for row in expected], atol=1e-4)


@pytest.mark.parametrize("multi_label", [False, True])
def test_one_label_is_scored_as_by_the_pipeline(bert, multi_label):
    expected = ask_pipeline(bert, TEXTS, ["comedy"], multi_label=multi_label)

    ours = ask_tidemill(bert, TEXTS, ["comedy"], multi_label=multi_label)

    assert_same(scores_of(ours), expected)
    assert set(ours.columns["label"].to_pylist()) == {"comedy"}


def test_a_template_of_ones_own_is_used_as_by_the_pipeline(bert):
    template = "It is {0}, truly {0}."

    ours = ask_tidemill(bert, TEXTS, hypothesis_template=template)

    assert_same(scores_of(ours), ask_pipeline(bert, TEXTS, hypothesis_template=template))


def test_contradiction_is_the_class_of_that_name_where_the_pipeline_takes_another(tmp_path):
    folder = save_nli(tmp_path, "bert", NEUTRAL_FIRST)

    ours = scores_of(ask_tidemill(folder, TEXTS, multi_label=True))

    assert_same(ours, ask_by_hand(folder, TEXTS, entailment=2, contradiction=1))
    by_pipeline = ask_pipeline(folder, TEXTS, multi_label=True)
    assert max(abs(row[LABELS[0]] - other[LABELS[0]]) for row, other in zip(ours, by_pipeline, strict=True)) > 0.1


@pytest.mark.parametrize("multi_label", [False, True])
def test_logits_of_hundreds_have_scores_where_the_pipeline_gives_nan(bert, tmp_path, multi_label):
    folder = with_larger_logits(bert, tmp_path, times=300)
    with np.errstate(all="ignore"):
        assert np.isnan([list(row.values()) for row in ask_pipeline(folder, TEXTS, multi_label=multi_label)]).any()

    ours = ask_tidemill(folder, TEXTS, multi_label=multi_label)

    contradiction = 0 if multi_label else None
    assert_same(scores_of(ours), ask_by_hand(folder, TEXTS, entailment=2, contradiction=contradiction), atol=0.02)


def test_an_empty_text_is_answered_which_the_pipeline_refuses(folder):
    with pytest.raises(ValueError, match="at least one sequence"):
        ask_pipeline(folder, [""])

    assert_same(scores_of(ask_tidemill(folder, [""])), ask_by_hand(folder, [""], entailment=2))


def test_a_text_is_cut_and_no_hypothesis_is_where_that_is_the_longer_one(folder):
    labels = ["the end of a war, and what becomes of those who come home from it", "a comedy"]
    texts = ["the worst film of all, and the best " * 3]

    assert_same(scores_of(ask_tidemill(folder, texts, labels)), ask_by_hand(folder, texts, labels, entailment=2))


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("inference", [{"token_budget": 64}, {"token_budget": 4096}, {"deduplicate": False}], ids=str)
def test_scores_are_the_same_whatever_the_batches_and_the_order_of_rows(bert, inference, multi_label):
    expected = scores_of(ask_tidemill(bert, TEXTS, multi_label=multi_label))

    ours = scores_of(ask_tidemill(bert, TEXTS[::-1], multi_label=multi_label, inference=inference))

    assert_same(ours[::-1], expected)


def test_label_pairs_of_rows_that_are_alike_are_computed_once(bert):
    ours = ask_tidemill(bert, ["a good film", "a bad film", "a good film", "A good  film"])

    # Word pieces know neither capitals nor how many blanks there are.
    assert (ours.stats.num_rows, ours.stats.num_distinct) == (4, 2 * len(LABELS))
    first, _, third, fourth = ours.columns["scores"].to_pylist()
    assert first == third == fourth


def test_a_row_one_of_whose_label_pairs_cannot_be_computed_has_a_reason_and_takes_no_other_with_it(bert):
    fine, unknown = [2, 5, 6, 3, 7, 3], [2, 5, 6, 3, 10_000, 3]
    ids = pa.array([[fine] * 3, [fine, unknown, fine], None, [fine] * 3], pa.list_(pa.list_(pa.int32())))
    types = pa.array([row and [[0] * 4 + [1] * 2] * 3 for row in ids.to_pylist()], pa.list_(pa.list_(pa.int8())))

    predictions = runner_of(bert, candidate_labels=LABELS).predict(pa.table({"token_ids": ids, "type_ids": types}))

    assert [reason is not None for reason in predictions.reason.to_pylist()] == [False, True, False, False]
    assert "the label pair of 'war': token id 10000 is outside of the model" in predictions.reason[1].as_py()
    assert [label is None for label in predictions.columns["label"].to_pylist()] == [False, True, True, False]


def test_the_columns_are_those_of_the_schema(bert):
    for all_scores in (False, True):
        schema = task_of(bert, TASK, options={"candidate_labels": LABELS}, all_scores=all_scores).schema
        assert ask_tidemill(bert, TEXTS[:2], all_scores=all_scores).columns.schema == schema


def test_bfloat16_gives_the_scores_of_float32_and_the_labels_of_all_rows_but_those_that_are_even(bert):
    texts = reviews(100)
    expected = scores_of(ask_tidemill(bert, texts))

    ours = ask_tidemill(bert, texts, inference={"dtype": "bfloat16"})

    drift = [
        abs(row[label] - other[label]) for row, other in zip(scores_of(ours), expected, strict=True) for label in LABELS
    ]
    assert np.quantile(drift, 0.99) <= 0.02
    for label, row in zip(ours.columns["label"].to_pylist(), expected, strict=True):
        assert row[label] >= max(row.values()) - 0.02
