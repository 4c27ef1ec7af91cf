"""A bare encoder's vectors are those that are pooled by hand of what Transformers computes, a text alone."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.checkpoints import NUM_POSITIONS, reviews
from tests.contract.embeddings import TEXTS, ask_tidemill, prepare
from tests.embedders import ENCODERS, save_encoder
from tests.variants import variants
from tidemill.checkpoints.loading import load_config
from tidemill.config import Inference
from tidemill.encoding.pooling import Pooling
from tidemill.errors import InputError, ModelError
from tidemill.inference.runner import ModelRunner
from tidemill.models.tasks import find_task, task_options

TASK = "feature-extraction"
HANDS = {
    "mean": lambda hidden_TH: hidden_TH.mean(dim=0),
    "cls": lambda hidden_TH: hidden_TH[0],
    "last_token": lambda hidden_TH: hidden_TH[-1],
    "max": lambda hidden_TH: hidden_TH.amax(dim=0),
}


@functools.cache
def hidden_states(folder):
    """Of each text alone, as `transformers.pipeline` gives them."""
    classes = {"t5": transformers.T5EncoderModel}
    config = load_config(folder)
    model = classes.get(config.model_type, transformers.AutoModel).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = []
    for text in TEXTS:
        inputs = tokenizer([text], truncation=True, max_length=NUM_POSITIONS, return_tensors="pt")
        with torch.inference_mode():
            hidden_TH = model(input_ids=inputs["input_ids"]).last_hidden_state[0]
        found.append(hidden_TH)
    return found


@pytest.fixture(scope="module", params=variants(ENCODERS, ["bert", "qwen3"]))
def folder(request, tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("bert"), "bert")


def pooled_by_hand(folder, pooling):
    return np.stack([HANDS[pooling](hidden_TH).numpy() for hidden_TH in hidden_states(folder)])


@pytest.mark.parametrize("pooling", HANDS)
def test_vectors_are_those_pooled_by_hand(folder, pooling):
    ours = ask_tidemill(TASK, folder, TEXTS, pooling=pooling)

    np.testing.assert_allclose(ours, pooled_by_hand(folder, pooling), atol=1e-4)


@pytest.mark.parametrize("pooling", variants(HANDS, ["mean"]))
def test_openvino_pools_as_torch_does(bert, pooling):
    ours = ask_tidemill(TASK, bert, TEXTS, engine="openvino", pooling=pooling)

    np.testing.assert_allclose(ours, pooled_by_hand(bert, pooling), atol=1e-4)


def test_dimensions_are_cut_and_then_made_one_long(bert):
    whole = ask_tidemill(TASK, bert, TEXTS, pooling="mean")

    ours = ask_tidemill(TASK, bert, TEXTS, pooling="mean", truncate_dim=8, normalize=True)

    np.testing.assert_allclose(ours, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True), atol=1e-5)


def test_a_prompt_is_read_with_the_text(bert):
    behind = ask_tidemill(TASK, bert, [f"query: {text}" for text in TEXTS], pooling="mean")

    np.testing.assert_allclose(ask_tidemill(TASK, bert, TEXTS, pooling="mean", prompt="query: "), behind, atol=1e-6)


@pytest.mark.parametrize("aggregate", ["mean", "length_weighted", "max"])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_vectors_of_windows_become_one_that_is_as_long_as_theirs(bert, aggregate, normalize):
    text, options = " ".join(reviews(8)), {"pooling": "mean", "normalize": normalize}
    windows = prepare(TASK, bert, [text], long_text="windows", **options)
    alone = [ask_tidemill(TASK, bert, prepared=pa.table({"token_ids": [ids]}), **options)[0]
             for ids in windows["token_ids"].to_pylist()[0]]  # fmt: skip
    weights = np.array([len(ids) - 2 for ids in windows["token_ids"].to_pylist()[0]])
    weighted = np.average(alone, axis=0, weights=weights if aggregate == "length_weighted" else None)
    expected = np.max(alone, axis=0) if aggregate == "max" else weighted
    expected = expected / np.linalg.norm(expected) if normalize else expected

    ours = ask_tidemill(TASK, bert, prepared=windows, windows=Pooling(aggregate, 2), **options)

    assert len(alone) > 3
    np.testing.assert_allclose(ours[0], expected, atol=1e-5)


def make(folder, **options):
    return find_task(TASK)(load_config(folder), task_options(TASK, options))


def test_without_a_pooling_the_four_are_named(bert):
    with pytest.raises(ModelError, match=r'pooling: "mean", "cls", "last_token" or "max" .*its card says'):
        make(bert)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pooling": "median"}, "model.options.pooling = 'median'"),
        ({"poolin": "mean"}, r"model\.options\.poolin is no option .* Did you mean model\.options\.pooling\?"),
        ({"pooling": "mean", "prompt_name": "query"}, "reads none of its prompts"),
        ({"pooling": "mean", "truncate_dim": 0}, "model.options.truncate_dim = 0"),
        ({"candidate_labels": ["a"]}, r"candidate_labels is no option of model\.task = \"feature-extraction\""),
    ],
)
def test_options_that_do_not_fit_are_refused(bert, options, said):
    with pytest.raises(InputError, match=said):
        make(bert, **options)


def test_scores_of_classes_are_not_to_be_had(bert):
    with pytest.raises(ModelError, match=r"model\.all_scores = true is of classifications"):
        find_task(TASK)(load_config(bert), task_options(TASK, {"pooling": "mean"}), all_scores=True)


def test_a_second_text_is_refused(bert):
    with pytest.raises(ModelError, match=r"dataset\.text_pair gives a row two texts, and .* reads one\. Remove it"):
        find_task(TASK)(load_config(bert), task_options(TASK, {"pooling": "mean"}), is_pair=True)


def test_a_model_with_a_decoder_that_is_no_t5_is_refused(bert):
    config = load_config(bert)
    config.is_encoder_decoder, config.model_type = True, "bart"

    with pytest.raises(ModelError, match="is a bart with a decoder"):
        find_task(TASK)(config, task_options(TASK, {"pooling": "mean"}))


def test_vectors_of_another_size_than_the_configuration_says_are_refused(bert):
    with pytest.raises(ModelError, match=r"vectors of 31 dimensions, and its config\.json says 32"):
        make(bert, pooling="mean").answers(np.ones((2, 31), dtype=np.float32), np.array([3, 3]))


def test_a_zero_vector_goes_to_quarantine_and_takes_no_other_row_with_it(bert):
    task = make(bert, pooling="mean")
    vectors = np.zeros((3, 32), dtype=np.float32)
    vectors[[0, 2], 5] = 1
    items = task.answers(vectors, np.array([3, 3, 3]))
    answers = pa.ListArray.from_arrays(
        pa.array([0, 1, 2, 2, 3], pa.int32()), items, mask=pa.array([False, False, True, False])
    )

    rows, reasons = task.rows(answers, pa.table({"token_ids": [[1], [1], None, [1]]}))

    assert rows["embedding"].is_valid().to_pylist() == [True, False, False, True]
    assert reasons.to_pylist() == [None, "the embedding is zero, which no other can be compared with", None, None]


def test_a_row_without_numbers_goes_to_quarantine_and_takes_no_other_row_with_it(bert, tmp_path):
    folder = Path(shutil.copytree(bert, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][7] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    inference = Inference(device="cpu", engine="torch", dtype="float32", token_budget=512)
    runner = ModelRunner.load(folder, task=TASK, inference=inference, task_options={"pooling": "mean"})

    found = runner.predict(pa.table({"token_ids": [[2, 5, 3], [2, 7, 9, 3], [2, 9, 3]]}))

    assert found.reason.to_pylist() == [None, "the model returned NaN", None]
    assert found.columns["embedding"].is_valid().to_pylist() == [True, False, True]


def test_drift_is_how_far_a_cosine_is_from_one(bert):
    task = make(bert, pooling="mean")
    ours = np.zeros((3, 32), dtype=np.float32)
    ours[:, 0] = 2
    theirs = ours.copy()
    theirs[1, 1], theirs[2] = 2, 0

    drift = task.drift(task.answers(ours, np.ones(3)), task.answers(theirs, np.ones(3)))

    np.testing.assert_allclose(drift, [0, 1 - np.sqrt(0.5), 1], atol=1e-6)
    assert task.same(task.answers(ours, np.ones(3)), task.answers(theirs, np.ones(3))).tolist() == [True, False, False]
