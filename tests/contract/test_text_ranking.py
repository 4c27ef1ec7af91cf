"""Text ranking scores pairs as `CrossEncoder` of sentence-transformers does, and refuses what scores otherwise."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import transformers

from tests.contract.test_text_pairs import FIRST, LENGTH, SECOND, ask_model, ask_tidemill, prepared
from tests.opened import task_of
from tests.pair_models import save_pair_model
from tests.variants import variants
from tidemill.config import Inference, Pipeline
from tidemill.encoding.pairs import PairTokenizer
from tidemill.errors import ModelError
from tidemill.inference.runner import ModelRunner
from tidemill.models.tasks import Reading, find_task
from tidemill.planning.versions import declared

TASK = "text-ranking"
TRANSFORMER = {
    "idx": 0,
    "name": "0",
    "path": "",
    "type": "sentence_transformers.base.modules.transformer.Transformer",
}
SETTINGS = {
    "config_sentence_transformers.json": {"model_type": "CrossEncoder", "prompts": {}, "default_prompt_name": None},
    "sentence_bert_config.json": {
        "transformer_task": "sequence-classification",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
        "module_output_name": "scores",
    },
}
IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"


@pytest.fixture(scope="module", params=variants(["bert", "roberta", "distilbert", "gpt2"], ["bert"]))
def folder(request, tmp_path_factory):
    return save_pair_model(tmp_path_factory.mktemp(request.param), request.param, "one output")


@pytest.fixture
def ranker(tmp_path):
    return save_pair_model(tmp_path, "bert", "one output")


def say(folder, name, **facts):
    """In a file of the folder; those of sentence-transformers lie beside each other, as its release 6.2 saves them."""
    if name != "config.json":
        (folder / "modules.json").write_text(json.dumps([TRANSFORMER]))
        for saved, as_saved in SETTINGS.items():
            (folder / saved).write_text(json.dumps(as_saved))
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def sigmoid(values):
    return 1 / (1 + np.exp(-values.astype(np.float64)))


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_scores_are_the_sigmoid_of_the_models_output(folder, engine):
    expected = sigmoid(ask_model(folder, truncation=True)[:, 0])

    ours = ask_tidemill(folder, prepared(folder, TASK), TASK, engine=engine)

    assert ours.schema == pa.schema([("score", pa.float32())])
    np.testing.assert_allclose(ours["score"].to_numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("files", "is_raw"),
    [
        ({}, False),
        ({"config.json": {"sentence_transformers": {"activation_fn": IDENTITY}}}, True),
        ({"config.json": {"sbert_ce_default_activation_function": IDENTITY}}, True),
        ({"config_sentence_transformers.json": {"activation_fn": "torch.nn.Identity"}}, True),
        (
            {
                "config_sentence_transformers.json": {"activation_fn": SIGMOID},
                "config.json": {"sentence_transformers": {"activation_fn": IDENTITY}},
            },
            False,
        ),
    ],
)
def test_scores_are_those_of_a_cross_encoder_whichever_file_says_what_is_done_to_the_output(ranker, files, is_raw):
    for name, facts in files.items():
        say(ranker, name, **facts)
    logits = ask_model(ranker, truncation=True)[:, 0]

    task = task_of(ranker, TASK, is_pair=True)
    ours = ask_tidemill(ranker, prepared(ranker, TASK), TASK)["score"].to_numpy()

    assert task.is_regression == is_raw
    np.testing.assert_allclose(ours, logits if is_raw else sigmoid(logits), atol=1e-4)
    sentence_transformers = pytest.importorskip("sentence_transformers")
    theirs = sentence_transformers.CrossEncoder(str(ranker), device="cpu", max_length=LENGTH)
    np.testing.assert_allclose(ours, theirs.predict(list(zip(FIRST, SECOND, strict=True))), atol=1e-4)


def test_a_sigmoid_is_computed_in_float32_whatever_the_dtype(ranker):
    scores = task_of(ranker, TASK, is_pair=True).answers(np.array([[7], [9]], np.float32), np.array([3, 3]))

    assert scores.to_pylist() == pytest.approx([0.9990889, 0.9998766], abs=1e-6)


def test_scores_of_bfloat16_are_near_those_of_float32(ranker):
    rows = prepared(ranker, TASK)

    exact, ours = (ask_tidemill(ranker, rows, TASK, dtype=dtype)["score"] for dtype in ("float32", "bfloat16"))

    np.testing.assert_allclose(ours.to_numpy(), exact.to_numpy(), atol=0.02)


def test_a_row_without_tokens_has_no_score(ranker):
    rows = prepared(ranker, TASK, first=["a film", None, "a film"], second=["a", "a", "b"])

    runner = ModelRunner.load(ranker, task=TASK, inference=Inference(device="cpu", engine="torch"), is_pair=True)
    assert runner.predict(rows).columns["score"].is_null().to_pylist() == [False, True, False]


def test_a_saved_length_counts_where_the_pipeline_file_says_none(ranker):
    say(ranker, "sentence_bert_config.json", max_seq_length=24)
    task = task_of(ranker, TASK, is_pair=True)

    saved = task.preparer(ranker, Reading(is_pair=True, model_max_length=64))
    given = task.preparer(ranker, Reading(is_pair=True, model_max_length=64, max_length=40))

    assert isinstance(saved, PairTokenizer)
    assert isinstance(given, PairTokenizer)
    assert (saved.max_length, given.max_length) == (24, 40)


@pytest.mark.parametrize(
    ("name", "facts", "said"),
    [
        ("config_sentence_transformers.json", {"activation_fn": "torch.nn.modules.activation.Tanh"}, "Tanh.* Choose"),
        ("config_sentence_transformers.json", {"activation_fn": "mine.Identity"}, r"mine\.Identity.* Choose"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "default_prompt_name = 'query'"),
        ("config_sentence_transformers.json", {"model_type": "SentenceTransformer"}, "model_type = 'SentenceTransf"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case = True"),
        ("sentence_bert_config.json", {"max_seq_length": "64"}, "max_seq_length = '64'"),
        ("sentence_bert_config.json", {"transformer_task": "text-generation"}, "transformer_task = 'text-generation'"),
    ],
)
def test_what_a_cross_encoder_would_do_otherwise_is_refused(ranker, name, facts, said):
    say(ranker, name, **facts)

    with pytest.raises(ModelError, match=said):
        task_of(ranker, TASK, is_pair=True)


@pytest.mark.parametrize(
    ("further", "named"),
    [("sentence_transformers.base.modules.dense.Dense", "Dense"), ("mine.LogitScore", r"mine\.LogitScore")],
)
def test_modules_behind_the_transformer_are_refused_by_name(ranker, further, named):
    (ranker / "modules.json").write_text(json.dumps([TRANSFORMER]))
    task_of(ranker, TASK, is_pair=True)
    (ranker / "modules.json").write_text(json.dumps([TRANSFORMER, {"type": further, "path": "1_X"}]))

    with pytest.raises(ModelError, match=rf"names the modules Transformer, {named}, and"):
        task_of(ranker, TASK, is_pair=True)


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("Qwen3ForCausalLM", r"is a Qwen3ForCausalLM, which ranks by writing an answer.*Set model\.path"),
        ("BertForMaskedLM", r"is a BertForMaskedLM.*Set model\.path to a cross-encoder"),
    ],
)
def test_models_that_score_no_pair_are_refused_by_what_they_are(ranker, architecture, said):
    say(ranker, "config.json", architectures=[architecture])

    with pytest.raises(ModelError, match=said):
        task_of(ranker, TASK, is_pair=True)


def test_a_classifier_is_led_to_its_task(tmp_path):
    folder = save_pair_model(tmp_path, "bert", "five labels")

    with pytest.raises(ModelError, match=r'has 5 outputs.*Set model\.task = "text-classification"'):
        task_of(folder, TASK, is_pair=True)


def test_texts_without_a_second_are_refused_with_the_option(ranker):
    with pytest.raises(ModelError, match=r"scores pairs of texts\. .*dataset\.text_pair"):
        task_of(ranker, TASK)


def test_scores_of_classes_are_refused(ranker):
    with pytest.raises(ModelError, match=r"model\.all_scores = true .* Leave it out\."):
        task_of(ranker, TASK, is_pair=True, all_scores=True)


def test_drift_is_the_difference_of_scores_in_their_own_unit(ranker):
    task = task_of(ranker, TASK, is_pair=True)
    ours, theirs = pa.array([0.25, 0.5], pa.float32()), pa.array([0.5, 0.5], pa.float32())

    assert task.drift(ours, theirs).tolist() == [0.25, 0.0]
    assert task.same(ours, theirs).tolist() == [True, True]


def test_files_of_sentence_transformers_count_only_where_they_lie_beside_their_modules(ranker):
    say(ranker, "config_sentence_transformers.json", activation_fn=IDENTITY)
    assert task_of(ranker, TASK, is_pair=True).is_regression
    (ranker / "modules.json").unlink()

    assert not task_of(ranker, TASK, is_pair=True).is_regression
    assert not find_task(TASK)(transformers.BertConfig(num_labels=1), is_pair=True).is_regression


def test_what_is_done_to_the_output_is_part_of_a_rankers_version_and_of_no_other(ranker):
    def versions():
        made = {"name": "a", "dataset": {"path": "x", "text": "text", "text_pair": "other"}}
        tasks = (TASK, "text-classification")
        models = [{"path": str(ranker), "task": task} for task in tasks]
        return [declared(Pipeline.model_validate({**made, "model": model})).version for model in models]

    say(ranker, "config_sentence_transformers.json", activation_fn=SIGMOID)
    before = versions()
    say(ranker, "config_sentence_transformers.json", activation_fn=IDENTITY)
    ranked, classified = versions()

    assert ranked != before[0]
    assert classified == before[1]
