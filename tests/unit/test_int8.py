from __future__ import annotations

import dataclasses
import importlib.util
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import openvino as ov
import pyarrow as pa
import pytest
import torch
import transformers
from openvino import opset13 as operations
from torch import nn

from tests.arrays import given
from tests.checkpoints import reviews, save_checkpoint
from tests.damage import damages
from tidemill import places
from tidemill.config import Inference
from tidemill.encoding.batching import ANY_LENGTHS
from tidemill.encoding.items import Items, prepared_rows
from tidemill.encoding.tokenizer import TextTokenizer
from tidemill.engines import openvino_engine
from tidemill.engines.contest import gain
from tidemill.engines.int8 import smoothing, weights
from tidemill.engines.int8.layers import linear_layers
from tidemill.engines.probing.conversion import CannotConvert
from tidemill.errors import ConfigError, LimitExceeded, ModelError
from tidemill.inference import drift
from tidemill.inference.runner import ModelRunner
from tidemill.models.tasks.text_classification import TextClassification


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("bert"), "bert", "five labels")


@pytest.fixture(scope="module")
def token_ids(folder):
    return TextTokenizer.load(folder).encode(pa.array(reviews(60), pa.string())).token_ids


@pytest.fixture
def load(folder, token_ids, tmp_path, monkeypatch):
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))

    def load(folder=folder, **inference):
        inference = {"device": "cpu", "dtype": "int8", "max_drift": 1.0, "token_budget": 256, **inference}
        return ModelRunner.load(
            folder,
            task="text-classification",
            inference=Inference(**inference),
            all_scores=True,
            calibration=lambda: prepared_rows(token_ids),
        )

    return load


def scores(predictions):
    return np.array([[score for _, score in row] for row in predictions.columns["scores"].to_pylist()])


class TwoLayers(nn.Module):  # type: ignore[misc]  # torch is Any here
    """Linear layers in a list, as a model's that repeats them, and a head."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(32, 64), nn.Linear(64, 32, bias=False)])
        self.head = nn.Linear(32, 16)

    def forward(self, input_ids, attention_mask=None):
        x = nn.functional.one_hot(input_ids, 32).float() * torch.linspace(0.1, 90, 32)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TwoLayers().eval()


def test_a_models_repeated_linear_layers_are_in_int8_and_its_head_is_not(model):
    assert list(linear_layers(model)) == ["layers.0", "layers.1"]


def test_a_head_that_is_made_of_several_layers_is_not_in_int8_either(model):
    model.head = nn.Sequential(nn.ModuleList([nn.Linear(32, 32)]))

    assert list(linear_layers(model)) == ["layers.0", "layers.1"]


def test_weights_come_out_of_8_bits_within_half_a_step_and_zero_as_zero():
    weight_OI = np.random.default_rng(0).standard_normal((5, 40)).astype(np.float32)
    weight_OI[0] = np.abs(weight_OI[0])
    weight_OI[1:3, :7] = 0
    weight_OI[3] = 0

    numbers_OI, zero_O1, scale_O1 = weights.quantized(weight_OI)

    again_OI = (numbers_OI.astype(np.float32) - zero_O1) * scale_O1
    assert (np.abs(again_OI - weight_OI) <= 0.501 * scale_O1).all()
    assert (again_OI[weight_OI == 0] == 0).all()


def test_a_graph_with_weights_in_int8_multiplies_by_those():
    weight_OI = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    given = operations.parameter([-1, 16], np.float32)
    product = operations.matmul(given, operations.constant(weight_OI, name="w"), transpose_a=False, transpose_b=True)
    model = ov.Model([operations.result(product)], [given])

    in_int8, _ = weights.with_int8_weights(model, {"w"})

    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    answer = ov.compile_model(in_int8, "CPU", exact)([np.eye(16, dtype=np.float32)])[0]
    numbers_OI, zero_O1, scale_O1 = weights.quantized(weight_OI)
    np.testing.assert_allclose(answer.T, (numbers_OI.astype(np.float32) - zero_O1) * scale_O1, atol=1e-5)
    assert [node.get_data().dtype for node in model.get_ops() if node.get_type_name() == "Constant"] == [np.float32]


def test_a_graph_that_has_no_weight_by_the_names_of_the_layers_is_not_called_int8():
    given = operations.parameter([-1, 16], np.float32)
    weight = operations.constant(np.ones((8, 16), np.float32), name="renamed")
    product = operations.matmul(given, weight, transpose_a=False, transpose_b=True)
    model = ov.Model([operations.result(product)], [given])

    with pytest.raises(CannotConvert, match="none would be computed in int8"):
        weights.with_int8_weights(model, {"w"})


@pytest.mark.parametrize(("widths", "group"), [([768, 3072], 128), ([384, 1536], 128), ([64, 192], 64), ([48, 96], 16)])
def test_a_group_of_activations_divides_the_inputs_of_every_layer(widths, group):
    assert weights.group_of(widths) == group


@pytest.mark.parametrize("pays", [True, False])
def test_attention_is_in_bfloat16_where_the_processor_multiplies_faster_in_it(pays, monkeypatch):
    monkeypatch.setattr(openvino_engine, "product_rates", lambda: SimpleNamespace(pays=lambda _: pays))
    knows_bfloat16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    assert openvino_engine._dtype_of_attention() == ("bfloat16" if pays and knows_bfloat16 else "float32")


def test_of_layers_that_no_group_divides_openvino_is_left_to_decide():
    assert weights.group_of([312, 1200]) == min(weights.GROUPS)


def test_a_smoothed_model_answers_as_before_from_inputs_that_are_nearer_to_each_other(model):
    ids_BT = torch.arange(32)[None]
    seen = []

    smooth, names = smoothing.smoothed(model, [given(row[None]) for row in ids_BT.numpy()], kept_as="a model")

    smooth.layers[0].linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].abs().amax(dim=(0, 1))))
    with torch.no_grad():
        torch.testing.assert_close(smooth(ids_BT), model(ids_BT), rtol=1e-4, atol=1e-4)
    assert names == ["layers.0.linear.weight", "layers.1.linear.weight"]
    assert float(seen[0].max() / seen[0].median()) < 1.9, "the inputs' own is 2"
    assert smooth.head.weight is model.head.weight
    assert type(model.layers[0]) is nn.Linear


@pytest.mark.slow
def test_what_is_large_is_found_once_a_machine(load, token_ids, monkeypatch):
    first = load().predict(prepared_rows(token_ids))
    monkeypatch.setattr(smoothing, "_largest_inputs", lambda *_: pytest.fail("looked for again"))

    again = load().predict(prepared_rows(token_ids))

    np.testing.assert_array_equal(scores(again), scores(first))


def test_what_is_kept_and_damaged_is_found_again_or_changes_no_answer(model, tmp_path, monkeypatch):
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))
    ids_BT = torch.arange(32)[None]
    smoothing.smoothed(model, [given(row[None]) for row in ids_BT.numpy()], kept_as="a model")
    [kept] = (places.home() / "calibrations").iterdir()
    whole = kept.read_bytes()
    others = {"not a table": b"[1, 2]", "too short": b'{"layers.0": [1.0]}', "negative": whole.replace(b"[", b"[-")}
    for kind, damaged in {**damages(whole, random.Random(0)), **others}.items():
        kept.write_bytes(damaged)

        smooth, names = smoothing.smoothed(model, [given(row[None]) for row in ids_BT.numpy()], kept_as="a model")

        assert names, kind
        with torch.no_grad():
            torch.testing.assert_close(smooth(ids_BT), model(ids_BT), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_drift_is_recorded_and_no_less_than_what_is_seen(load, token_ids):
    runner, exact = load(), load(dtype="float32")

    seen = np.abs(
        scores(runner.predict(prepared_rows(token_ids))) - scores(exact.predict(prepared_rows(token_ids)))
    ).max(axis=1)

    measured = runner.resolved["int8"]
    assert measured["num_rows"] == len(set(map(tuple, token_ids.to_pylist())))
    assert 0 < measured["drift_p99"] <= seen.max() + 1e-4
    assert runner.resolved["activations"] == ("int8" if weights.quantizes_activations() else "float32")


def test_a_text_has_the_same_answer_alone_and_beside_others(load, token_ids):
    runner = load()
    together = scores(runner.predict(prepared_rows(token_ids)))

    alone = [scores(runner.predict(prepared_rows(token_ids[i : i + 1])))[0] for i in range(6)]

    np.testing.assert_allclose(alone, together[:6], atol=1e-4)


def test_drift_is_measured_until_a_whole_sample_was(load, token_ids, monkeypatch):
    runner = load(deduplicate=False)
    monkeypatch.setattr(drift, "SAMPLE_ROWS", 10)

    measured = [
        (runner.predict(prepared_rows(rows)), runner.resolved["int8"]["num_rows"])[1] for rows in [token_ids[:4]] * 5
    ]

    assert measured == [4, 8, 12, 12, 12]


def test_what_was_computed_to_measure_drift_is_not_computed_again(load, token_ids, monkeypatch):
    runner = load(deduplicate=False)
    monkeypatch.setattr(drift, "SAMPLE_ROWS", 20)
    seen, submit = [], runner.engine.submit

    def counted(inputs, **options):
        seen.append(len(inputs["input_ids"]))
        return submit(inputs, **options)

    monkeypatch.setattr(runner.engine, "submit", counted)

    predictions = runner.predict(prepared_rows(token_ids))

    assert sum(seen) == predictions.stats.num_distinct == len(token_ids)
    assert predictions.reason.null_count == len(token_ids)
    assert predictions.stats.num_tokens == len(token_ids.flatten())


class Told:
    """An engine that answers a row by its first token, with NaN where that is 9."""

    company, depth = ANY_LENGTHS, 2

    def __init__(self, off, reference=None):
        self.off, self.reference = off, reference

    def submit(self, inputs, **_):
        ids_BT = inputs["input_ids"]
        first_B1 = ids_BT[:, :1].astype(np.float32)
        first_B1[first_B1 == 9] = np.nan
        return SimpleNamespace(result=lambda: np.concatenate([first_B1 + self.off, -first_B1], axis=1))


@pytest.mark.parametrize(("rows", "num_rows"), [([[4], [9], [5], [6]], 3), ([[9], [9]], None)])
def test_a_row_without_finite_scores_tells_nothing_of_the_drift(rows, num_rows):
    items = Items.of(prepared_rows(pa.array(rows, pa.list_(pa.int32()))), deduplicate=False)
    engine: Any = Told(0.25, reference=Told(0))
    # A regression's scores are the outputs themselves.
    task = TextClassification(transformers.BertConfig(num_labels=2, problem_type="regression"))

    measured = drift.measure_drift(
        engine,
        items,
        np.arange(len(rows)),
        task=task,
        collate=lambda batch: items.collate(batch, pad_id=0),
        bound=0.5,
        token_budget=100,
    )

    assert not isinstance(measured, drift.TextDrift)
    assert (measured and (measured.num_rows, measured.drift_p99)) == (num_rows and (num_rows, 0.25))


@pytest.mark.slow
def test_int8_that_drifts_beyond_the_bound_fails_the_run_before_any_row_is_kept(load, token_ids):
    runner = load(max_drift=1e-9)

    with pytest.raises(LimitExceeded, match=r"drift by .* more than inference\.max_drift = 1e-09"):
        runner.predict(prepared_rows(token_ids))


def test_int8_says_what_it_needs(load, monkeypatch):
    with pytest.raises(ConfigError, match="computed by OpenVINO on CPUs"):
        load(engine="torch")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == "openvino" else find_spec(name, *args)
    )
    with pytest.raises(ConfigError, match=r'pip install "tidemill\[openvino\]"'):
        load()


def test_a_model_without_linear_layers_is_refused_int8(load, tmp_path):
    gpt2 = save_checkpoint(tmp_path / "gpt2", "gpt2", "two labels")

    with pytest.raises(ModelError, match=r'no linear layers that int8 could compute.*inference\.dtype = "auto"'):
        load(gpt2)


class Clock:
    """Each computation takes as long as it is told."""

    def __init__(self, **seconds):
        self.now, self.seconds, self.computed = 0.0, seconds, []

    def __call__(self):
        return self.now

    def layers(self):
        def compute(dtype):
            self.computed.append(dtype)
            self.now += self.seconds[dtype]

        return {dtype: lambda dtype=dtype: compute(dtype) for dtype in self.seconds}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (
            {"float32": 0.3, "int8": 0.1},
            "int8 pays here: linear layers are 3.0 times as fast as in float32, a model about 1.9 times "
            '(inference.dtype = "int8")',
        ),
        ({"float32": 0.3, "int8": 0.1, "bfloat16": 0.05}, "does not pay here: linear layers are 0.5 times as fast as"),
        ({"float32": 0.3, "int8": 0.3}, "int8 does not pay here: linear layers are 1.0 times as fast as in float32"),
    ],
)
def test_int8_pays_where_its_layers_beat_those_of_the_fastest_float(monkeypatch, seconds, said):
    clock = Clock(**seconds)
    monkeypatch.setattr(gain, "_layers", clock.layers)

    measured = gain.measure_gain(seconds=2.0, clock=clock)

    assert said in str(measured)
    assert {clock.computed.count(dtype) for dtype in seconds} == {clock.computed.count("int8")}


def test_what_was_measured_of_int8_is_kept_and_measured_again_where_it_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))
    found = iter([gain.Gain(2.5, "float32"), gain.Gain(2.0, "float32")])
    monkeypatch.setattr(gain, "measure_gain", lambda: next(found))
    assert gain.kept_gain() is None

    assert gain.gain() == gain.gain() == gain.kept_gain() == gain.Gain(2.5, "float32")

    [kept] = (places.home() / "calibrations").iterdir()
    for times in ("-1", '"fast"', "NaN", str(10**400)):
        kept.write_text(f'{{"times": {times}, "than": "float32"}}')
        assert gain.kept_gain() is None
    for damaged in ("{}", "[]", "{"):
        kept.write_text(damaged)
        assert gain.kept_gain() is None
    assert gain.gain() == gain.Gain(2.0, "float32")


def test_the_layers_that_are_timed_are_the_same_in_each_type():
    computed: dict[str, Any] = {dtype: compute() for dtype, compute in gain._layers().items()}
    answers = {dtype: outputs[0] for dtype, outputs in computed.items()}

    scale = np.abs(answers["float32"]).max()
    for dtype, answer in answers.items():
        assert np.abs(answer - answers["float32"]).max() < 0.05 * scale, dtype


def test_a_run_whose_int8_is_slower_than_float32_says_so():
    slower, faster = (drift.Drift(100, 1.0, 0.01, times) for times in (0.9, 1.8))

    assert faster.notes() == []
    [note] = slower.notes()
    assert note.startswith("int8 is slower than float32 on this processor: 0.90 times as fast, by 100 rows")
    joined = slower.joined(drift.Drift(300, 0.9, 0.02, 1.3))
    assert dataclasses.astuple(joined) == pytest.approx((400, 0.925, 0.02, 1.2))


@pytest.mark.parametrize(("same", "bound", "is_beyond"), [(0.9, 0.1, False), (0.9, 0.05, True), (1.0, 0.05, False)])
def test_of_a_model_that_writes_the_share_of_other_texts_is_bounded(same, bound, is_beyond):
    why = drift.TextDrift(40, same, 1.5).beyond(bound)

    assert (why is not None) == is_beyond
    assert not is_beyond or "10.0% of 40 rows: more than inference.max_drift = 0.05" in str(why)


def test_shares_of_same_texts_are_joined_by_their_rows():
    joined = drift.TextDrift(30, 1.0, 2.0).joined(drift.TextDrift(10, 0.6, 1.0))

    assert joined.num_rows == 40
    assert (joined.same_text, joined.times_float32) == pytest.approx((0.9, 1.75))
