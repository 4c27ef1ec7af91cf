"""A row without finite logits is tried alone, then in torch in float32, and only then has no answer."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.checkpoints import reviews, save_checkpoint
from tests.opened import module_of, task_of
from tidemill.checkpoints.loading import load_config
from tidemill.config import Inference
from tidemill.encoding.items import prepared_rows
from tidemill.encoding.tokenizer import TextTokenizer
from tidemill.engines.torch_engine import TorchEngine
from tidemill.errors import ModelError
from tidemill.inference.exact import ExactEngine
from tidemill.inference.runner import ModelRunner

CULPRIT = 77


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("bert"), "bert", "five labels")


@pytest.fixture(scope="module")
def token_ids(folder):
    lists = TextTokenizer.load(folder).encode(pa.array(reviews(20), pa.string())).token_ids.to_pylist()
    others = [[5 if token == CULPRIT else token for token in ids] for ids in lists]
    return pa.array([[2, CULPRIT, 300, 3] if i == 4 else ids for i, ids in enumerate(others)], pa.list_(pa.int32()))


@pytest.fixture(scope="module")
def right(folder, token_ids):
    return runner(folder, engine(folder)).predict(prepared_rows(token_ids)).columns


class Overflows(torch.nn.Module):  # type: ignore[misc]  # torch is Any here
    """A model that gives a text with the culprit no number, wherever `where` says so of a batch."""

    def __init__(self, model, where):
        super().__init__()
        self.model, self.where, self.shapes = model, where, []

    def forward(self, input_ids, attention_mask):
        self.shapes.append(tuple(input_ids.shape))
        output = self.model(input_ids=input_ids, attention_mask=attention_mask)
        if self.where(input_ids, attention_mask):
            output.logits[(input_ids == CULPRIT).any(dim=1), 1] = torch.nan
        return output


def engine(folder, where=lambda ids, mask: False):
    model = module_of(folder)
    return TorchEngine(Overflows(model, where), torch.device("cpu"), num_streams=1)


class Poor(TorchEngine):
    """As if it computed in 16 bits."""

    def facts(self):
        return {**super().facts(), "dtype": "bfloat16"}


def poor_engine(folder, where):
    model = module_of(folder)
    return Poor(Overflows(model, where), torch.device("cpu"), num_streams=1)


def runner(folder, engine, exact=None):
    return ModelRunner(
        engine, load_config(folder), task=task_of(folder), inference=Inference(token_budget=256), exact=exact
    )


def assert_right(predictions, right):
    assert predictions.reason.null_count == len(right)
    assert predictions.columns["label"] == right["label"]
    np.testing.assert_allclose(predictions.columns["score"].to_numpy(), right["score"].to_numpy(), atol=1e-5)


def test_a_row_that_is_nan_beside_others_is_computed_alone_and_without_padding(folder, token_ids, right):
    padded = poor_engine(folder, lambda ids, mask: mask is not None)

    predictions = runner(folder, padded).predict(prepared_rows(token_ids))

    assert_right(predictions, right)
    assert (1, 4) in padded.model.shapes
    assert predictions.stats.num_in_float32 == 0


def test_a_row_that_is_nan_even_alone_is_computed_in_float32_by_an_engine_opened_once(folder, token_ids, right):
    opened = []

    def open_float32():
        opened.append(engine(folder))
        return opened[-1]

    exact = ExactEngine(open_float32)
    poor = runner(folder, poor_engine(folder, lambda ids, mask: True), exact)

    predictions = [poor.predict(prepared_rows(token_ids)), poor.predict(prepared_rows(token_ids))]

    for one in predictions:
        assert_right(one, right)
        assert one.stats.num_in_float32 == 1
    assert [each.model.shapes for each in opened] == [[(1, 4), (1, 4)]]


def test_a_row_that_is_nan_in_float32_too_has_no_answer_and_takes_no_other_with_it(folder, token_ids, right):
    always_nan = [poor_engine(folder, lambda ids, mask: True) for _ in range(2)]

    predictions = runner(folder, always_nan[0], ExactEngine(lambda: always_nan[1])).predict(prepared_rows(token_ids))

    assert predictions.reason.to_pylist() == ["the model returned NaN" if i == 4 else None for i in range(20)]
    assert predictions.columns["label"].is_null().to_pylist() == [i == 4 for i in range(20)]


def test_where_no_second_model_fits_the_row_has_no_answer_and_the_others_have_theirs(folder, token_ids, caplog):
    tries = []

    def does_not_fit():
        tries.append(1)
        raise ModelError("The model does not fit the memory of cuda:0.")

    poor = runner(folder, poor_engine(folder, lambda ids, mask: True), ExactEngine(does_not_fit))

    reasons = [poor.predict(prepared_rows(token_ids)).reason[4].as_py() for _ in range(3)]

    assert reasons == ["the model returned NaN"] * 3
    assert len(tries) == 1, "opened once, not for each such row"
    assert caplog.text.count("does not fit the memory") == 1


def test_once_torch_computes_in_float32_itself_no_second_model_is_opened(folder, token_ids):
    nan = engine(folder, lambda ids, mask: True)
    exact = ExactEngine(lambda: pytest.fail("opened"))

    assert runner(folder, nan, exact).predict(prepared_rows(token_ids)).reason[4].as_py() == "the model returned NaN"


def test_an_engine_of_lower_precision_has_a_float32_one_behind_it_and_torch_in_float32_needs_none(folder, token_ids):
    def load(**options):
        inference = Inference(device="cpu", engine="torch", token_budget=256, **options)
        return ModelRunner.load(folder, task="text-classification", inference=inference)

    in_bfloat16 = load(dtype="bfloat16")
    submit = in_bfloat16.engine.submit
    nan = np.full((1, 5), np.nan, dtype=np.float32)

    class Nan:
        def result(self):
            return nan

    in_bfloat16.engine.submit = lambda inputs, **_: Nan() if inputs["input_ids"].shape == (1, 4) else submit(inputs)
    predictions = in_bfloat16.predict(prepared_rows(token_ids.slice(4, 1)))
    exactly = load(dtype="float32").predict(prepared_rows(token_ids.slice(4, 1)))

    assert predictions.stats.num_in_float32 == 1
    assert predictions.columns == exactly.columns
