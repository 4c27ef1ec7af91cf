"""Entities are those of `transformers.pipeline`, whichever engine computes them and whatever shares their batches."""

from __future__ import annotations

import functools
import itertools
import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers

from tests.checkpoints import NUM_POSITIONS, reviews
from tests.opened import module_of, task_of
from tests.token_classifiers import ARCHITECTURES, BIOES, PLAIN, save_sure_classifier, save_token_classifier
from tests.variants import variants
from tidemill.checkpoints.loading import load_config, max_positions, usual_length
from tidemill.config import Inference
from tidemill.encoding.pooling import Pooling
from tidemill.errors import ConfigError, ModelError
from tidemill.inference.runner import ModelRunner
from tidemill.models.tasks import Reading, task_options

TASK = "token-classification"
STRATEGIES = ("none", "simple", "first", "average", "max")
TEXTS = [*reviews(24), "", "a", "naïve café 電影 😀😀 don't", "Anna\nBob\tCarl", "the film " * 300]


@pytest.fixture(scope="module", params=variants(ARCHITECTURES, ["bert"]))
def folder(request, tmp_path_factory):
    return save_token_classifier(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_token_classifier(tmp_path_factory.mktemp("bert"), "bert")


@functools.cache
def ask_pipeline(folder, strategy, texts=tuple(TEXTS), **options):
    pipeline = transformers.pipeline(
        TASK, model=str(folder), dtype=torch.float32, device="cpu", aggregation_strategy=strategy, **options
    )
    name = "entity" if strategy == "none" else "entity_group"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        # One by one: the oracle pads nothing.
        return [[{**one, "entity": one[name]} for one in pipeline(text)] for text in texts]


def prepare(folder, texts, options, **how):
    config = load_config(folder)
    reading = Reading(model_max_length=max_positions(config), usual_length=usual_length(config), **how)
    rows = pa.table({"text": pa.array(texts, pa.string())})
    prepared = task_of(folder, TASK, options=options).preparer(folder, reading).prepare(rows)
    return prepared.append_column("text", rows["text"])


@functools.cache
def load_runner(folder, engine, dtype, token_budget, pooling, **options):
    inference = Inference(device="cpu", engine=engine, dtype=dtype, token_budget=token_budget)
    return ModelRunner.load(folder, task=TASK, inference=inference, task_options=options, pooling=pooling)


def ask_tidemill(
    folder, strategy, texts=tuple(TEXTS), *, engine="torch", dtype="float32", token_budget=512, pooling=None, **reading
):
    options = {"aggregation_strategy": strategy}
    runner = load_runner(folder, engine, dtype, token_budget, pooling, **options)
    predictions = runner.predict(prepare(folder, texts, options, **reading))
    assert predictions.reason.null_count == len(texts)
    assert predictions.columns.schema == task_of(folder, TASK, options=options).schema
    return predictions.columns["entities"].to_pylist()


def spans(rows):
    return [[(one["entity"], one["start"], one["end"]) for one in entities] for entities in rows]


def scores(rows):
    return [one["score"] for entities in rows for one in entities]


# What becomes of a token's answer does not ask which engine gave it.
@pytest.mark.parametrize(
    ("engine", "strategy"), [("auto", "simple"), ("auto", "average"), *(("torch", strategy) for strategy in STRATEGIES)]
)
def test_entities_are_those_of_the_pipeline(folder, strategy, engine):
    expected = ask_pipeline(folder, strategy)

    found = ask_tidemill(folder, strategy, engine=engine)

    assert spans(found) == spans(expected)
    np.testing.assert_allclose(scores(found), scores(expected), atol=1e-4)
    if strategy in ("none", "simple"):
        for ours, theirs in zip(found, expected, strict=True):
            for one, other in zip(ours, theirs, strict=True):
                assert one["word"] == other["word"] or "\ufffd" in other["word"]


@pytest.mark.parametrize("labels", [PLAIN, BIOES], ids=["plain", "BIOES"])
def test_labels_of_other_schemes_are_those_of_the_pipeline_token_by_token(tmp_path, labels):
    folder = save_token_classifier(tmp_path, "bert", labels)

    assert spans(ask_tidemill(folder, "none")) == spans(ask_pipeline(folder, "none"))
    if labels == PLAIN:
        assert spans(ask_tidemill(folder, "simple")) == spans(ask_pipeline(folder, "simple"))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["none", "average"])
def test_entities_are_the_same_whatever_the_batches(bert, strategy):
    alone = [entities for text in TEXTS for entities in ask_tidemill(bert, strategy, (text,), token_budget=64)]

    for budget in (64, 100, 4096):
        together = ask_tidemill(bert, strategy, token_budget=budget)
        assert spans(together) == spans(alone)
        np.testing.assert_allclose(scores(together), scores(alone), atol=1e-5)


def test_texts_that_are_the_same_tokens_have_entities_where_they_themselves_have_them(bert):
    texts = ("the film", "the  film", "The FILM", "  the film")

    found = ask_tidemill(bert, "none", texts)

    assert spans(found) == spans(ask_pipeline(bert, "none", texts))
    prepared = prepare(bert, texts, {})
    assert len({tuple(ids) for ids in prepared["token_ids"].to_pylist()}) == 1


def test_a_text_that_one_window_holds_is_answered_as_without_windows(folder):
    texts = tuple(text for text in reviews(200) if len(text) < 60)
    windows = {"long_text": "windows", "overlap": 9, "pooling": Pooling("mean", 2)}

    assert ask_tidemill(folder, "simple", texts, **windows) == ask_tidemill(folder, "simple", texts)


def test_long_texts_have_each_token_once_by_the_window_in_which_it_is_farthest_from_a_cut(bert):
    text = " ".join(reviews(12))
    overlap, room = 8, NUM_POSITIONS - 2
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    windows = tokenizer(text, truncation=True, return_overflowing_tokens=True, stride=overlap, return_tensors=None)
    model = module_of(bert, TASK)
    by_place: dict[int, list[tuple[int, int, int]]] = {}
    with torch.inference_mode():
        for number, ids in enumerate(windows["input_ids"]):
            labels = model(input_ids=torch.tensor([ids])).logits[0].argmax(dim=-1).tolist()[1:-1]
            for place, label in enumerate(labels):
                first, last = number == 0, number == len(windows["input_ids"]) - 1
                edge = min(10**6 if first else place, 10**6 if last else len(labels) - 1 - place)
                # The earlier of two that are as far.
                by_place.setdefault(number * (room - overlap) + place, []).append((-edge, number, label))
    labels = [min(found)[2] for _, found in sorted(by_place.items())]
    names = load_config(bert).id2label
    expected = [names[label] for label in labels if names[label] != "O"]

    (found,) = ask_tidemill(
        bert, "none", (text,), long_text="windows", overlap=overlap, pooling=Pooling("mean", 2), token_budget=4096
    )

    assert len(windows["input_ids"]) > 4
    assert [one["entity"] for one in found] == expected
    assert all(one["start"] < other["start"] for one, other in itertools.pairwise(found))


@pytest.mark.slow
def test_bfloat16_finds_the_entities_of_float32_in_all_but_a_few_rows(tmp_path):
    folder = save_sure_classifier(tmp_path)
    texts = tuple(reviews(200))
    expected = ask_tidemill(folder, "simple", texts)

    for engine in ("torch", "auto"):
        found = ask_tidemill(folder, "simple", texts, engine=engine, dtype="bfloat16", token_budget=2048)
        same = [ours == theirs for ours, theirs in zip(spans(found), spans(expected), strict=True)]
        assert np.mean(same) >= 0.995
        assert sum(map(len, found)) > len(texts)


def test_a_model_with_another_head_is_refused_before_its_weights_are_read(bert):
    config = load_config(bert)
    config.architectures = ["BertForSequenceClassification"]

    with pytest.raises(ModelError, match=r"is a BertForSequenceClassification.*Set model\.path"):
        type(task_of(bert, TASK))(config)


def test_a_head_that_would_stay_random_is_refused(bert):
    headless = bert.with_name("headless")
    transformers.AutoModel.from_pretrained(bert).save_pretrained(headless)
    (headless / "config.json").write_text((bert / "config.json").read_text())

    with pytest.raises(ModelError, match="would stay random"):
        module_of(headless, TASK)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"all_scores": True}, r"model\.all_scores = true .* Set it to false"),
        ({"is_pair": True}, r"dataset\.text_pair .* reads one"),
        ({"pooling": Pooling("max", 2)}, r'tokenizer\.aggregate = "max" .* Leave it out'),
        ({"options": {"ignore_labels": ["B-PRE"]}}, r'ignore_labels has "B-PRE".*Did you mean "B-PER"\?'),
        ({"options": {"aggregation_strategy": "max", "ignore_labels": ["x"]}}, r'"x".*It has LOC, O, PER\.'),
    ],
)
def test_what_does_not_go_with_entities_is_refused(bert, made, message):
    with pytest.raises(ModelError, match=message):
        task_of(bert, TASK, **made)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregation_strategy": "mean"}, r"model\.options\.aggregation_strategy = 'mean'"),
        ({"agregation_strategy": "max"}, r"Did you mean model\.options\.aggregation_strategy\?"),
        ({"pooling": "mean"}, r'model\.options\.pooling is no option of model\.task = "token-classification"'),
    ],
)
def test_options_of_another_task_and_misspelt_ones_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        task_options(TASK, options)


@pytest.mark.slow
def test_ignored_labels_are_those_of_the_pipeline(bert):
    for strategy, ignored in (("none", ["O", "B-PER"]), ("simple", ["PER"]), ("first", [])):
        options = {"aggregation_strategy": strategy, "ignore_labels": ignored}
        inference = Inference(device="cpu", engine="torch", dtype="float32")
        runner = ModelRunner.load(bert, task=TASK, inference=inference, task_options=options)
        found = runner.predict(prepare(bert, TEXTS, options)).columns["entities"].to_pylist()
        expected = ask_pipeline(bert, strategy, ignore_labels=tuple(ignored))
        assert spans(found) == spans(expected)
