"""Heads are computed in float32 in every dtype, and `auto` takes 16 bits only where they move no score too far."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.arrays import given
from tests.checkpoints import TINY_SENTIMENT, reviews, save_checkpoint
from tests.opened import module_of, task_of
from tidemill.checkpoints.loading import load_config
from tidemill.config import Inference
from tidemill.encoding.items import prepared_rows
from tidemill.encoding.tokenizer import TextTokenizer
from tidemill.engines import open_engine
from tidemill.engines.precision.graphs import without_head
from tidemill.engines.precision.heads import head_names
from tidemill.errors import ModelError
from tidemill.inference.choosing.bounds import BoundedOpening
from tidemill.inference.runner import ModelRunner


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A regression whose values lie around 1,500, as points, prices and years do."""
    folder = save_checkpoint(tmp_path_factory.mktemp("bert"), "bert", "regression")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"] += 1501.3
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def token_ids(folder):
    return TextTokenizer.load(folder).encode(pa.array(reviews(20), pa.string())).token_ids


@pytest.fixture(scope="module")
def exact(folder, token_ids):
    return load(folder, engine="torch", dtype="float32").predict(prepared_rows(token_ids)).columns["score"].to_numpy()


def load(folder, **inference):
    return ModelRunner.load(folder, task="text-classification", inference=Inference(device="cpu", **inference))


def without_rewriting(monkeypatch):
    monkeypatch.setattr("tidemill.engines.encoders.rewrite", lambda *given: None)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("rewritten", [True, False])
def test_a_head_adds_no_rounding_to_that_of_16_bits(folder, token_ids, exact, monkeypatch, rewritten, dtype):
    if not rewritten:
        without_rewriting(monkeypatch)

    runner = load(folder, engine="torch", dtype=dtype)
    values = runner.predict(prepared_rows(token_ids)).columns["score"].to_numpy()

    assert (runner.resolved["dtype"], runner.resolved["rewritten"]) == (dtype, rewritten)
    # Rounded itself to bfloat16, a value there is off by up to 4.
    np.testing.assert_allclose(values, exact, atol=0.1)


def test_weights_of_a_head_are_the_checkpoints_own_in_16_bits_too(folder, monkeypatch):
    without_rewriting(monkeypatch)

    model = load(folder, engine="torch", dtype="bfloat16").engine.model

    saved = load_file(folder / "model.safetensors")
    assert torch.equal(model.classifier.bias, saved["classifier.bias"])
    assert torch.equal(model.classifier.weight, saved["classifier.weight"])
    assert {parameter.dtype for parameter in model.bert.parameters()} == {torch.bfloat16}


@pytest.mark.slow
def test_openvino_computes_a_head_beside_the_rest_in_float32(folder, token_ids, exact):
    runner = load(folder, engine="openvino", dtype="bfloat16")

    nodes = runner.engine._head.get_runtime_model().get_ops()
    assert {node.get_rt_info()["runtimePrecision"].astype(str) for node in nodes} - {"dynamic"} == {"f32"}
    values = runner.predict(prepared_rows(token_ids)).columns["score"].to_numpy()
    np.testing.assert_allclose(values, exact, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gpt2", "roberta"])
def test_a_graph_without_its_head_and_the_head_answer_together_as_the_whole(tmp_path, architecture):
    import openvino as ov

    from tidemill.engines.openvino_engine import _convert

    folder = save_checkpoint(tmp_path, architecture, "five labels")
    model = module_of(folder)
    ids, mask = np.random.default_rng(0).integers(5, 300, (3, 9)), np.ones((3, 9), dtype=np.int64)
    ids[1, 4:], mask[1, 4:] = 1, 0
    whole = _convert(model, given(ids, mask))

    parts = without_head(whole, head_names(model))
    assert parts is not None
    body, head = parts
    # OpenVINO computes in bfloat16 where the processor has it, unless it is told.
    exactly = partial(ov.Core().compile_model, device_name="CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
    read = exactly(body)([ids, mask])
    answered = exactly(head)([read[i] for i in range(len(body.outputs))])[0]
    np.testing.assert_allclose(answered, exactly(whole)([ids, mask])[0], atol=1e-6)


def test_a_model_whose_head_nobody_names_is_one_graph():
    from tidemill.engines.openvino_engine import _convert

    ids = np.ones((2, 8), dtype=np.int64)
    assert head_names(torch.nn.Linear(3, 3)) == []
    assert without_head(_convert(_Sum(), given(ids, ids)), []) is None


@pytest.fixture
def in_bfloat16(monkeypatch):
    """As on hardware that computes in it."""
    monkeypatch.setattr("tidemill.engines.devices.fast_dtypes", lambda device: ("bfloat16",))
    monkeypatch.setattr("tidemill.inference.choosing.bounds.fast_dtypes", lambda device: ("bfloat16",))


def test_auto_computes_a_regression_in_float32_and_the_record_says_why(folder, in_bfloat16):
    resolved = load(folder, engine="torch").resolved

    assert resolved["dtype"] == "float32"
    assert resolved["float32_because"].startswith("a regression has values of any size")


def test_who_asks_for_bfloat16_gets_a_regression_in_it(folder, in_bfloat16):
    resolved = load(folder, engine="torch", dtype="bfloat16").resolved

    assert resolved["dtype"] == "bfloat16"
    assert "float32_because" not in resolved


@pytest.mark.slow
def test_auto_takes_16_bits_that_move_no_score_far(in_bfloat16):
    resolved = load(TINY_SENTIMENT, engine="torch").resolved

    assert resolved["dtype"] == "bfloat16"
    assert "float32_because" not in resolved


@pytest.fixture
def steep(tmp_path):
    """A classifier that tells its classes apart by the last digits of what its encoder gives."""
    folder = save_checkpoint(tmp_path, "bert", "multi-label")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] *= 50
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_auto_computes_in_float32_a_model_whose_scores_16_bits_move_far(steep, in_bfloat16):
    resolved = load(steep, engine="torch").resolved

    assert resolved["dtype"] == "float32"
    assert re.match(r"bfloat16 moves scores by 0\.\d+ from float32's .*, more than 0\.02", resolved["float32_because"])


def test_a_dtype_that_is_tried_on_behalf_of_auto_is_refused_where_it_moves_scores_far(steep, in_bfloat16):
    config, declared = load_config(steep), Inference(device="cpu", engine="torch")
    task = task_of(steep)
    opening = BoundedOpening(
        partial(open_engine, steep, load=partial(task.load, steep, trust_remote_code=False)),
        folder=steep,
        config=config,
        task=task,
        declared=declared,
    )

    with pytest.raises(ModelError, match="'bfloat16' is not for this model: bfloat16 moves scores by"):
        opening(inference=declared.model_copy(update={"dtype": "bfloat16"}))

    assert opening(inference=declared.model_copy(update={"dtype": "float32"})).facts()["dtype"] == "float32"


class _Sum(torch.nn.Module):  # type: ignore[misc]  # torch is Any here
    def forward(self, input_ids, attention_mask=None):
        return transformers.modeling_outputs.SequenceClassifierOutput(logits=input_ids.sum(1, keepdim=True).float())
