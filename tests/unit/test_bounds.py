"""When `auto` takes 16 bits, whatever keeps it from telling how far they move scores; and what it remembers."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import transformers

from tidemill import places
from tidemill.config import Inference
from tidemill.encoding.items import prepared_rows
from tidemill.errors import ModelError
from tidemill.inference.choosing.bounds import BoundedOpening
from tidemill.models.tasks.feature_extraction import FeatureExtraction
from tidemill.models.tasks.text_classification import TextClassification

VOCABULARY = 90
DECLARED = Inference(device="cpu", engine="torch")
LENGTHS = range(2, 22)


@pytest.fixture(autouse=True)
def _in_bfloat16(monkeypatch):
    """As on hardware that computes in it."""
    monkeypatch.setattr("tidemill.inference.choosing.bounds.fast_dtypes", lambda device: ("bfloat16",))
    monkeypatch.setattr(gc, "collect", lambda: 0)


class Model:
    """Opened in a dtype, it answers a row by its first token, more by `off` in 16 bits; what is an exception is raised.

    `told` are answers to rows by their number of tokens.
    """

    def __init__(self, off=0.0, float32=None, told=()):
        self.off, self.float32, self.told = off, float32, dict(told)
        self.opened: list[str] = []
        self.asked: list[list[int]] = []

    def __call__(self, *, inference):
        dtype = "bfloat16" if inference.dtype == "auto" else inference.dtype
        self.opened.append(dtype)
        if dtype == "float32" and self.float32 is not None:
            raise self.float32
        return SimpleNamespace(dtype=dtype, submit=lambda inputs: self.answer(dtype, inputs["input_ids"]))

    def answer(self, dtype, ids_BT):
        [ids] = ids_BT.tolist()
        self.asked.append(ids)
        told = self.told.get((dtype, len(ids)), self.told.get(len(ids), ids[0] / 30))
        if isinstance(told, Exception):
            raise told
        logits_1C = np.array([[told + (self.off if dtype == "bfloat16" else 0), 0]], np.float32)
        return SimpleNamespace(result=lambda: logits_1C)


def opening_of(model, folder, rows=None, task=TextClassification, options=None, **head):
    rows = [[length % 7 + 1] * length for length in LENGTHS] if rows is None else rows
    config = transformers.BertConfig(vocab_size=VOCABULARY, max_position_embeddings=64, **{"num_labels": 2, **head})
    return BoundedOpening(
        model,
        folder=folder,
        config=config,
        task=task(config, options),
        declared=DECLARED,
        sample=lambda: prepared_rows(pa.array(rows, pa.list_(pa.int32()))),
    )


def does_not_fit():
    error = ModelError("The model does not fit the memory of cuda:0. Free the device.")
    error.__cause__ = MemoryError()
    return error


def test_a_model_that_has_room_in_16_bits_alone_is_computed_in_those(tmp_path, caplog):
    model = Model(off=9.0, float32=does_not_fit())
    opening = opening_of(model, tmp_path)

    assert [opening(inference=DECLARED).dtype for _ in range(2)] == ["bfloat16", "bfloat16"]

    assert model.opened == ["float32", "bfloat16", "bfloat16"]
    assert caplog.text.count("is not measured: The model does not fit the memory of cuda:0. Free the device.") == 1
    assert opening.facts() == {}


def test_a_device_that_breaks_meanwhile_is_no_reason_to_go_on(tmp_path):
    with pytest.raises(RuntimeError, match="device-side assert"):
        opening_of(Model(told={5: RuntimeError("CUDA error: device-side assert")}), tmp_path)(inference=DECLARED)


def test_a_regression_that_has_no_room_in_float32_is_told_of_16_bits(tmp_path):
    opening = opening_of(Model(float32=does_not_fit()), tmp_path, num_labels=1, problem_type="regression")

    with pytest.raises(ModelError, match=r"does not fit .* a regression has values .*set inference\.dtype = .bfloat16"):
        opening(inference=DECLARED)


@pytest.mark.parametrize("told", [np.nan, ValueError("such a row")])
@pytest.mark.parametrize(("off", "dtype"), [(0.0, "bfloat16"), (9.0, "float32")])
def test_rows_without_an_answer_in_float32_say_nothing_of_16_bits(tmp_path, told, off, dtype):
    model = Model(off, told={5: told, 6: told, 7: told})

    assert opening_of(model, tmp_path)(inference=DECLARED).dtype == dtype


def test_where_no_row_has_an_answer_in_float32_16_bits_are_taken(tmp_path, caplog):
    model = Model(9.0, told=dict.fromkeys(LENGTHS, np.nan))

    assert opening_of(model, tmp_path)(inference=DECLARED).dtype == "bfloat16"
    assert "is not measured: the model answers none of the sample texts" in caplog.text


@pytest.mark.parametrize(("num_lost", "dtype"), [(1, "bfloat16"), (2, "float32")])
def test_16_bits_that_give_several_rows_no_number_are_refused(tmp_path, num_lost, dtype):
    opening = opening_of(Model(told={("bfloat16", 5 + i): np.nan for i in range(num_lost)}), tmp_path)

    assert opening(inference=DECLARED).dtype == dtype
    said = "bfloat16 gives 2 of 20 sample texts no number, and float32 does"
    assert opening.facts() == ({} if dtype == "bfloat16" else {"float32_because": said})


@pytest.fixture
def _in_float16_too(monkeypatch):
    """As on a GPU."""
    monkeypatch.setattr("tidemill.inference.choosing.bounds.fast_dtypes", lambda device: ("bfloat16", "float16"))


@pytest.mark.usefixtures("_in_float16_too")
def test_what_bfloat16_moves_too_far_is_computed_in_float16_on_a_gpu(tmp_path):
    opening = opening_of(Model(off=9.0), tmp_path)

    assert [opening(inference=DECLARED).dtype for _ in range(2)] == ["float16", "float16"]
    assert list(opening.facts()) == ["float16_because"]
    assert opening.facts()["float16_because"].startswith("bfloat16 moves scores by ")


@pytest.mark.usefixtures("_in_float16_too")
@pytest.mark.parametrize("head", [{}, {"num_labels": 1, "problem_type": "regression"}])
def test_what_neither_16_bits_stand_is_computed_in_float32(tmp_path, head):
    overflow = {("float16", length): np.nan for length in LENGTHS}
    opening = opening_of(Model(off=9.0, told=overflow), tmp_path, **head)

    assert opening(inference=DECLARED).dtype == "float32"
    said = opening.facts()["float32_because"]
    reasons = ["bfloat16 moves scores by", "float16 gives 20 of 20 sample texts no number"]
    assert [reason in said for reason in reasons] == [not head, not head]
    assert said.count("a regression has values") == bool(head)


def test_no_row_is_asked_that_is_outside_of_the_models_tables(tmp_path):
    model, foreign = Model(), [[VOCABULARY, 1], [], [3] * 65]

    assert opening_of(model, tmp_path, [[1, 2], *foreign])(inference=DECLARED).dtype == "bfloat16"
    assert model.asked == [[1, 2], [1, 2]]
    assert opening_of(Model(9.0), tmp_path, foreign)(inference=DECLARED).dtype == "bfloat16"


def test_what_is_refused_is_remembered_until_the_model_is_another(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    first = opening_of(Model(9.0), folder)
    assert first(inference=DECLARED).dtype == "float32"

    again = Model(9.0)
    later = opening_of(again, folder)
    assert later.refused == first.refused
    assert later(inference=DECLARED).dtype == "float32"
    assert (again.opened, later.facts()) == (["float32"], first.facts())

    (folder / "config.json").write_text("{}")
    assert opening_of(Model(), folder).refused == {}


def test_what_is_refused_for_a_task_says_nothing_of_another_on_the_same_weights(tmp_path):
    def embedding(pooling):
        options = FeatureExtraction.Options(pooling=pooling)
        sizes = {"hidden_size": 2, "num_attention_heads": 1}
        return opening_of(Model(-9.0), tmp_path, task=FeatureExtraction, options=options, **sizes)

    opening_of(Model(-9.0), tmp_path)(inference=DECLARED)
    assert embedding("mean").refused == {}

    embedding("mean")(inference=DECLARED)
    assert set(embedding("mean").refused) == {"bfloat16"}
    assert embedding("cls").refused == {}


@pytest.mark.parametrize("damaged", ["", "[]", "{}", '{"why": 5}', "null"])
def test_a_damaged_memory_of_what_was_refused_is_measured_again(tmp_path, damaged):
    opening_of(Model(9.0), tmp_path / "model")(inference=DECLARED)
    [kept] = (places.home() / "calibrations").iterdir()
    kept.write_text(damaged)

    assert opening_of(Model(), tmp_path / "model").refused == {}
