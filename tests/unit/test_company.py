"""Is a row's answer the same alone, padded, beside others and after them? Where it is not, what is done about it."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from transformers.modeling_outputs import SequenceClassifierOutput

from tests.arrays import given
from tests.checkpoints import NUM_POSITIONS
from tests.unit.test_encoders import model_of
from tidemill.config import Inference
from tidemill.encoding.batching import ANY_LENGTHS, EQUAL_LENGTHS, ONE_ROW
from tidemill.encoding.items import prepared_rows
from tidemill.engines import encoders
from tidemill.engines.probing import company, rows
from tidemill.engines.probing.rows import named_widths, probe_of
from tidemill.engines.probing.state import State
from tidemill.engines.probing.truth import examine, on_arrays
from tidemill.errors import ModelError
from tidemill.inference.runner import ModelRunner

VOCABULARY = 90
SMALL = {
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": NUM_POSITIONS,
    "initializer_range": 0.3,
    "num_labels": 3,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 6.0, 8.0, 9.0],
    "original_max_position_embeddings": 40,
    "partial_rotary_factor": 1.0,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "big_bird": {"block_size": 4, "num_random_blocks": 1},
    "phi3": {"num_key_value_heads": 2, "original_max_position_embeddings": 40, "rope_parameters": LONGROPE},
    "mistral": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 30},
    "qwen2": {"num_key_value_heads": 2, "sliding_window": 30, "use_sliding_window": True, "max_window_layers": 0},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 30, "query_pre_attn_scalar": 8},
}


def tiny(model_type):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **{**SMALL, **OPTIONS.get(model_type, {})})
    return transformers.AutoModelForSequenceClassification.from_config(config).eval()


def row(length, seed=1):
    return np.random.default_rng(seed).integers(3, VOCABULARY, length).tolist()


def runner_of(folder, **inference):
    options = {"engine": "torch", "device": "cpu", "dtype": "float32", "token_budget": 512, **inference}
    return ModelRunner.load(folder, task="text-classification", inference=Inference(**options), all_scores=True)


def scores(runner, *token_ids):
    predictions = runner.predict(prepared_rows(pa.array(token_ids, pa.list_(pa.int32()))))
    assert predictions.reason.null_count == len(token_ids), predictions.reason
    return np.array([list(dict(each).values()) for each in predictions.columns["scores"].to_pylist()])


def alone(model_type, token_ids):
    """By a model that has computed nothing else."""
    with torch.inference_mode():
        return tiny(model_type)(input_ids=torch.tensor([token_ids])).logits.softmax(-1).numpy()[0]


@pytest.mark.parametrize("model_type", ["fnet", "convbert", "nystromformer", "yoso"])
def test_where_padding_changes_answers_rows_of_one_length_share_a_batch(model_type):
    found = examine(tiny(model_type), longest=NUM_POSITIONS)

    assert (found.company, found.changes_itself) == (EQUAL_LENGTHS, False)


@pytest.mark.parametrize("model_type", ["big_bird", "phi3"])
def test_a_model_that_computing_changes_is_found_out_and_left_as_it_was(model_type):
    model = tiny(model_type)
    token_ids = torch.tensor([row(60)])

    found = examine(model, longest=NUM_POSITIONS)

    assert (found.company, found.changes_itself) == (EQUAL_LENGTHS, True)
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=token_ids).logits, tiny(model_type)(input_ids=token_ids).logits)


@pytest.mark.parametrize("model_type", ["mistral", "qwen2", "gemma3_text"])
def test_a_sliding_window_needs_no_rows_of_equal_length_and_is_looked_beyond(model_type):
    found = examine(tiny(model_type), longest=NUM_POSITIONS)

    assert (found.company, found.changes_itself) == (ANY_LENGTHS, False)
    assert any(len(each) > 30 + len(found.probe.rows[1]) for each in found.probe.rows)


@pytest.mark.parametrize("model_type", ["fnet", "big_bird", "phi3"])
def test_a_text_has_one_answer_whatever_is_computed_with_it_and_before_it(tmp_path, model_type):
    tiny(model_type).save_pretrained(tmp_path)
    runner = runner_of(tmp_path)
    long, short = row(60), row(9)

    for token_ids in ([long, short], [short], [long], [short, long, row(9, seed=2)]):
        for answered, asked in zip(scores(runner, *token_ids), token_ids, strict=True):
            np.testing.assert_allclose(answered, alone(model_type, asked), atol=1e-5)
    assert runner.resolved["rows"].startswith("of equal length in a batch: ")


def test_a_model_that_computing_changes_is_not_converted(tmp_path):
    tiny("big_bird").save_pretrained(tmp_path)

    assert runner_of(tmp_path, engine="auto").resolved["fallback"].endswith("would stay as it was at first")
    with pytest.raises(ModelError, match=r'computes changes the model.*inference\.engine = "torch"'):
        runner_of(tmp_path, engine="openvino")


@pytest.mark.slow
def test_converted_a_model_computes_rows_of_equal_length_too(tmp_path):
    tiny("fnet").save_pretrained(tmp_path)
    runner = runner_of(tmp_path, engine="openvino")
    long, short = row(60), row(37)

    answered = scores(runner, long, short)

    assert (
        runner.predict(prepared_rows(pa.array([long, short], pa.list_(pa.int32())))).stats.num_padded_tokens == 60 + 37
    )
    np.testing.assert_allclose(answered, [alone("fnet", long), alone("fnet", short)], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["mistral", pytest.param("gemma3_text", marks=pytest.mark.soak)])
def test_converted_too_a_short_text_is_answered_beside_one_longer_than_the_window(tmp_path, model_type):
    tiny(model_type).save_pretrained(tmp_path)
    token_ids = [row(60), row(9)]

    answered = scores(runner_of(tmp_path, engine="openvino"), *token_ids)

    np.testing.assert_allclose(answered, [alone(model_type, each) for each in token_ids], atol=1e-4)


class Odd(torch.nn.Module):  # type: ignore[misc]  # torch is Any here
    """A classifier of any fault: `answer` makes logits of the mean of a row's ids."""

    def __init__(self, answer):
        super().__init__()
        self.config = transformers.BertConfig(**SMALL)
        self.answer, self.num_calls, self._num_calls = answer, 0, 0
        self.register_buffer("offset", torch.zeros(1))

    def forward(self, input_ids, attention_mask=None):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        means = (input_ids * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        return SequenceClassifierOutput(logits=self.answer(self, torch.cat([means, -means], dim=1)))


def on_rows_beside(model, logits):
    """Nyströmformer's first inverse is scaled by the largest sum in a batch, for one."""
    return logits / logits.abs().max()


def by_chance(model, logits):
    return logits + torch.rand(1)


def on_calls(model, logits):
    model.num_calls += 1
    return logits + model.num_calls


def on_calls_that_it_hides(model, logits):
    model._num_calls += 1
    return logits + model._num_calls


def on_what_was_written(model, logits):
    model.offset += 1
    return logits + model.offset


def test_where_any_other_row_changes_answers_rows_are_computed_one_by_one():
    assert examine(Odd(on_rows_beside), longest=NUM_POSITIONS).company == ONE_ROW


def test_a_model_that_answers_by_chance_is_refused():
    with pytest.raises(ModelError, match="otherwise from one time to the next"):
        examine(Odd(by_chance), longest=NUM_POSITIONS)


@pytest.mark.parametrize("answer", [on_calls, on_calls_that_it_hides, on_what_was_written])
def test_whatever_a_model_keeps_is_made_what_it_was(answer):
    model = Odd(answer)
    state = State(model)
    assert not state.has_changed()

    assert examine(model, longest=NUM_POSITIONS).changes_itself

    assert not state.has_changed()
    assert (model.num_calls, model._num_calls, float(model.offset)) == (0, 0, 0.0)


@pytest.mark.parametrize(
    ("kept", "change"),
    [
        ({"a"}, lambda kept: kept.add("b")),
        (["a"], lambda kept: kept.append("b")),
        ({"a": 1}, lambda kept: kept.clear()),
    ],
    ids=["set", "list", "dict"],
)
def test_a_collection_that_a_model_has_is_a_change_where_it_changes_and_else_none(kept, change):
    """Configurations of rotary models have a set: such a model was computed in rows of equal length, and by torch."""
    model = Odd(lambda model, logits: logits)
    model.kept = kept
    state = State(model)

    assert not state.has_changed()
    change(model.kept)
    assert state.has_changed()
    state.restore()
    assert not state.has_changed()


@pytest.mark.parametrize("constant", [0.0, 1_500.0])
@pytest.mark.parametrize(("is_decoder", "is_rewritten"), [(False, True), (True, False)])
def test_a_constant_in_the_logits_hides_no_wrong_part(constant, is_decoder, is_rewritten):
    model = model_of("bert", is_decoder=is_decoder)
    with torch.no_grad():
        model.classifier.bias += constant

    assert (encoders.rewrite(model) is not None) == is_rewritten


def test_answers_may_differ_by_a_share_of_what_they_differ_by_from_row_to_row():
    model = model_of("bert")
    before = examine(model, longest=NUM_POSITIONS - 24).bound(1e-3)
    with torch.no_grad():
        model.classifier.bias += 100

    after = examine(model, longest=NUM_POSITIONS - 24).bound(1e-3)

    assert before < after < before + 1e-3


@pytest.mark.parametrize(("num_parameters", "is_one"), [(14e6, True), (7e9, False)])
def test_a_large_model_is_asked_by_all_threads_and_a_small_one_by_one(num_parameters, is_one):
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:

        def forward(tensors):
            seen.append(torch.get_num_threads())
            return tensors["input_ids"]

        on_arrays(forward, num_parameters=int(num_parameters))(given(np.ones((1, 9), np.int64)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

    assert seen == [1 if is_one else 2]


def test_rows_begin_and_end_as_the_configuration_says_and_have_no_special_tokens_between():
    probe = probe_of(tiny("bert"), longest=NUM_POSITIONS)

    assert [len(each) for each in probe.rows] == [2, 9, 9, 24, NUM_POSITIONS]
    for each in probe.rows:
        assert (each[0], each[-1]) == (1, 2)
        assert set(each[1:-1]).isdisjoint({0, 1, 2})


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ({"sliding_window": 512}, [512]),
        ({"attention_window": [64, 128, 64]}, [64, 128]),
        ({"rope_parameters": {"original_max_position_embeddings": 400, "factor": 4}}, [400]),
        ({"local_attention": 128, "use_sliding_window": True}, [128]),
        ({"sliding_window": 4_096, "block_size": None}, []),
    ],
)
def test_widths_are_read_from_the_configuration(options, widths):
    assert named_widths(transformers.PretrainedConfig(**options), longest=1_024) == widths


def test_a_window_too_wide_to_be_tried_is_not_converted_unless_no_row_gets_there(tmp_path, monkeypatch):
    tiny("mistral").save_pretrained(tmp_path)
    monkeypatch.setattr(rows, "AFFORDABLE", 10)

    with pytest.raises(ModelError, match=r"a width of 30 tokens.*tokenizer\.max_length = 30 or less"):
        runner_of(tmp_path, engine="openvino")
    assert probe_of(tiny("mistral"), longest=30).unasked == []


def test_the_docstring_examples_hold():
    assert doctest.testmod(company).failed == doctest.testmod(rows).failed == 0
