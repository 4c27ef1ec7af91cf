from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import openvino as ov
import pyarrow as pa
import pytest
import torch
import transformers
from numpy.typing import NDArray
from openvino import opset13 as operations

from tests.checkpoints import TINY_SENTIMENT, reviews, save_checkpoint
from tests.opened import module_of, task_of
from tidemill.checkpoints.loading import load_config
from tidemill.config import Inference
from tidemill.encoding.items import prepared_rows
from tidemill.encoding.tokenizer import TextTokenizer
from tidemill.engines import openvino_engine
from tidemill.engines.openvino_attention import with_attention_spelled_out
from tidemill.engines.probing.memory import began_with_memory
from tidemill.engines.torch_engine import TorchEngine
from tidemill.errors import ConfigError, ModelError
from tidemill.inference.runner import ModelRunner


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("bert"), "bert", "five labels")


@pytest.fixture(scope="module")
def token_ids(folder):
    return TextTokenizer.load(folder).encode(pa.array(reviews(60), pa.string())).token_ids


@pytest.fixture(scope="module")
def by_torch(folder, token_ids):
    return load(folder, engine="torch").predict(prepared_rows(token_ids))


def load(folder, calibration=None, **inference):
    inference = {"device": "cpu", "dtype": "float32", "token_budget": 256, **inference}
    return ModelRunner.load(
        folder,
        task="text-classification",
        inference=Inference(**inference),
        all_scores=True,
        calibration=calibration,
    )


def without(monkeypatch, *packages):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name in packages else find_spec(name, *args)
    )


def assert_same(ours, theirs, atol):
    assert ours.columns["label"] == theirs.columns["label"]
    np.testing.assert_allclose(ours.columns["score"].to_numpy(), theirs.columns["score"].to_numpy(), atol=atol)


def test_auto_is_openvino_on_a_cpu_and_answers_as_torch_does(folder, token_ids, by_torch):
    runner = load(folder)

    assert runner.resolved["engine"] == "openvino"
    assert_same(runner.predict(prepared_rows(token_ids)), by_torch, atol=1e-5)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_in_bfloat16_scores_stay_near_those_of_float32(folder, token_ids, by_torch, engine):
    predictions = load(folder, engine=engine, dtype="bfloat16").predict(prepared_rows(token_ids))

    drift = np.abs(predictions.columns["score"].to_numpy() - by_torch.columns["score"].to_numpy())
    assert drift.mean() < 0.01
    assert drift.max() < 0.05


@pytest.mark.slow
def test_a_shape_that_comes_up_often_gets_a_graph_of_its_own_with_the_same_answers(
    folder, token_ids, by_torch, monkeypatch
):
    monkeypatch.setattr(openvino_engine, "OFTEN", 2)
    monkeypatch.setattr(openvino_engine, "MOST_GRAPHS", 4)
    runner = load(folder, engine="openvino")

    for _ in range(3):
        assert_same(runner.predict(prepared_rows(token_ids)), by_torch, atol=1e-5)

    assert len(runner.engine._graphs) == 4


def attention(mask_type, scale, *, causal=False):
    """A model of OpenVINO's that is attention alone, of 2 heads of 4 values."""
    shapes = [[-1, 2, -1, 4]] * 3
    inputs = [operations.parameter(shape, np.float32) for shape in shapes]
    masks = [] if mask_type is None else [operations.parameter([-1, 1, -1, -1], mask_type)]
    scales = [] if scale is None else [operations.constant(np.float32(scale))]
    context = operations.scaled_dot_product_attention(*inputs, *masks, *scales, causal=causal)
    return ov.Model([operations.result(context)], [*inputs, *masks])


def kinds_of_operation(model):
    return [node.get_type_name() for node in model.get_ops()]


@pytest.mark.parametrize(("mask_type", "scale"), [(None, None), (np.float32, None), (bool, 1), (np.float32, 0.3)])
def test_attention_spelled_out_is_the_same_attention(mask_type, scale):
    draw = np.random.default_rng(0)
    tensors: list[NDArray[Any]] = [draw.standard_normal((3, 2, 7, 4)).astype(np.float32) for _ in range(3)]
    if mask_type is not None:
        is_token = np.broadcast_to(np.arange(7) < 5, (3, 1, 7, 7))
        tensors.append(is_token if mask_type is bool else np.where(is_token, 0, -1e9).astype(np.float32))
    model = attention(mask_type, scale)

    spelled_out = with_attention_spelled_out(model)

    assert "ScaledDotProductAttention" in kinds_of_operation(model)
    assert "ScaledDotProductAttention" not in kinds_of_operation(spelled_out)
    ours, theirs = (ov.compile_model(each, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}) for each in (spelled_out, model))
    np.testing.assert_allclose(ours(tensors)[0], theirs(tensors)[0], atol=1e-5)


def test_attention_in_bfloat16_is_nearly_the_same_attention():
    draw = np.random.default_rng(0)
    tensors: list[NDArray[Any]] = [draw.standard_normal((3, 2, 7, 4)).astype(np.float32) for _ in range(3)]
    # As Transformers masks; rounded to bfloat16 it is minus infinity.
    least = np.finfo(np.float32).min
    mask = np.where(np.broadcast_to(np.arange(7) < 5, (3, 1, 7, 7)), 0, least).astype(np.float32)
    mask[0] = least
    model = attention(np.float32, None)

    ours, theirs = (
        ov.compile_model(each, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([*tensors, mask])[0]
        for each in (with_attention_spelled_out(model, "bf16"), with_attention_spelled_out(model))
    )

    assert ours.dtype == np.float32
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours[1:], theirs[1:], atol=0.03)


def test_a_token_that_sees_none_makes_no_nan():
    tensors: list[NDArray[Any]] = [np.ones((1, 2, 7, 4), dtype=np.float32) for _ in range(3)]
    is_seen = np.ones((1, 1, 7, 7), dtype=bool)
    is_seen[:, :, 3] = False

    context = ov.compile_model(with_attention_spelled_out(attention(bool, None)), "CPU")([*tensors, is_seen])[0]

    assert np.isfinite(context).all()


def test_attention_that_looks_back_only_is_left_as_it_is():
    assert "ScaledDotProductAttention" in kinds_of_operation(
        with_attention_spelled_out(attention(None, None, causal=True))
    )


@pytest.mark.slow
def test_openvinos_widths_are_rounded_and_the_padding_is_counted():
    ids = pa.array([[7] * 101, [9] * 70], pa.list_(pa.int32()))

    by_openvino, by_torch = (
        load(TINY_SENTIMENT, engine=engine).predict(prepared_rows(ids)) for engine in ("openvino", "torch")
    )

    assert (by_openvino.stats.num_tokens, by_openvino.stats.num_padded_tokens) == (171, 2 * 102)
    assert by_torch.stats.num_padded_tokens == 2 * 101
    assert_same(by_openvino, by_torch, atol=1e-5)


def test_where_openvino_is_not_installed_auto_is_torch_and_says_nothing(folder, monkeypatch):
    without(monkeypatch, "openvino")

    resolved = load(folder).resolved

    assert resolved["engine"] == "torch"
    assert "fallback" not in resolved
    with pytest.raises(ConfigError, match=r'pip install "tidemill\[openvino\]"'):
        load(folder, engine="openvino")


def fails_to_convert(monkeypatch):
    def convert_model(*_, **__):
        raise RuntimeError("No conversion rule for aten::mystery\nand much more")

    monkeypatch.setattr(ov, "convert_model", convert_model)


def test_a_model_that_does_not_convert_is_computed_by_torch_and_the_record_says_why(
    folder, token_ids, by_torch, monkeypatch
):
    fails_to_convert(monkeypatch)
    runner = load(folder)

    assert runner.resolved["engine"] == "torch"
    assert runner.resolved["fallback"] == (
        "OpenVINO cannot take the model, so torch computes it: No conversion rule for aten::mystery"
    )
    assert_same(runner.predict(prepared_rows(token_ids)), by_torch, atol=1e-6)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_where_memory_ends_while_it_is_converted_torch_takes_over(folder, token_ids, by_torch, monkeypatch, error):
    def convert_model(*_, **__):
        raise error

    monkeypatch.setattr(ov, "convert_model", convert_model)
    runner = load(folder)

    assert "so torch computes it: memory ran out while it was converted (" in runner.resolved["fallback"]
    assert_same(runner.predict(prepared_rows(token_ids)), by_torch, atol=1e-6)
    with pytest.raises(ModelError, match=r"memory ran out .*\. Set inference\.engine = \"torch\"") as raised:
        load(folder, engine="openvino")
    assert began_with_memory(raised.value)


def raises(*_, **__):
    raise RuntimeError("Exception from src/inference/request.cpp:246:\nCheck failed\n-- No kernel for Mystery\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "name"), [(openvino_engine.OpenVinoEngine, "_compile"), (openvino_engine._Started, "result")]
)
def test_whatever_goes_wrong_when_it_is_compiled_or_first_computes_torch_takes_over(
    folder, token_ids, by_torch, monkeypatch, part, name
):
    monkeypatch.setattr(part, name, raises)

    runner = load(folder)

    assert runner.resolved["fallback"].endswith("so torch computes it: No kernel for Mystery")
    assert_same(runner.predict(prepared_rows(token_ids)), by_torch, atol=1e-6)
    with pytest.raises(ModelError, match=r"No kernel for Mystery\. Set inference"):
        load(folder, engine="openvino")


@pytest.mark.slow
def test_a_shape_whose_own_graph_does_not_compile_costs_no_row(folder, token_ids, by_torch, monkeypatch):
    monkeypatch.setattr(openvino_engine, "OFTEN", 2)
    runner = load(folder, engine="openvino")
    compiled = dict(runner.engine._graphs)  # What was held against torch is kept.
    monkeypatch.setattr(runner.engine, "_compile", raises)

    for _ in range(2):
        assert_same(runner.predict(prepared_rows(token_ids)), by_torch, atol=1e-5)

    assert runner.engine._graphs.keys() == compiled.keys()


@pytest.mark.parametrize(("asked", "way_out"), [({"engine": "openvino"}, "torch"), ({"dtype": "int8"}, "auto")])
def test_who_asked_for_openvino_is_refused_what_it_cannot_convert(folder, token_ids, monkeypatch, asked, way_out):
    fails_to_convert(monkeypatch)

    with pytest.raises(ModelError, match=f'mystery.*"{way_out}"'):
        load(folder, calibration=lambda: prepared_rows(token_ids), **asked)


@pytest.mark.slow
def test_a_conversion_that_answers_otherwise_is_not_used(folder, monkeypatch):
    convert_model = ov.convert_model

    def wrongly(model, **options):
        classifier = model.model.head.head[1]
        right = classifier.bias
        classifier.bias = torch.nn.Parameter(right + 0.5)
        converted = convert_model(model, **options)
        classifier.bias = right
        return converted

    monkeypatch.setattr(ov, "convert_model", wrongly)

    assert load(folder).resolved["fallback"].endswith("converted, it does not answer as it does in torch")


@pytest.mark.slow
def test_a_model_with_local_attention_is_never_answered_with_nan(tmp_path):
    special = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    sizes = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = transformers.ModernBertConfig(
        **sizes, **special, intermediate_size=48, max_position_embeddings=512, local_attention=32
    )
    transformers.ModernBertForSequenceClassification(config).save_pretrained(tmp_path)
    ids = pa.array([[7] * 300, [9] * 20], pa.list_(pa.int32()))

    predictions = load(tmp_path, token_budget=1_000).predict(prepared_rows(ids))

    assert predictions.reason.null_count == 2
    assert_same(predictions, load(tmp_path, engine="torch", token_budget=1_000).predict(prepared_rows(ids)), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rotary_frequencies_stay_in_float32(tmp_path, dtype):
    special = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    sizes = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    transformers.ModernBertForSequenceClassification(
        transformers.ModernBertConfig(**sizes, **special, intermediate_size=48)
    ).save_pretrained(tmp_path)

    runner = load(tmp_path, engine="torch", dtype=dtype)

    frequencies = [buffer for name, buffer in runner.engine.model.named_buffers() if "inv_freq" in name]
    assert runner.resolved["dtype"] == dtype
    assert {buffer.dtype for buffer in frequencies} == {torch.float32}


def test_batches_computed_side_by_side_are_answered_in_order_and_fail_alone(folder, token_ids, by_torch):
    class FailsOnce(torch.nn.Module):  # type: ignore[misc]  # torch is Any here
        def __init__(self, model):
            super().__init__()
            self.model, self.failed = model, False

        def forward(self, input_ids, attention_mask):
            if not self.failed:
                self.failed = True
                raise ValueError("the first batch fails once")
            return self.model(input_ids=input_ids, attention_mask=attention_mask)

    task = task_of(folder, all_scores=True)
    engine = TorchEngine(FailsOnce(module_of(folder)), torch.device("cpu"), num_streams=3)
    runner = ModelRunner(engine, load_config(folder), task=task, inference=Inference(token_budget=256))

    predictions = runner.predict(prepared_rows(token_ids))

    assert engine.depth == 6
    assert predictions.reason.null_count == len(token_ids)
    assert_same(predictions, by_torch, atol=1e-5)
