"""Where int8 leaves a label open, float32 decides it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import transformers

from tidemill.config import Inference
from tidemill.encoding.batching import ANY_LENGTHS
from tidemill.encoding.items import prepared_rows
from tidemill.inference.runner import ModelRunner
from tidemill.models.tasks.scores import vectors
from tidemill.models.tasks.text_classification import TextClassification

CLOSE, SURE = [1, 5], [2, 6]
LOST, LONG = [3, 7], [4, 8, 8, 8]
"""One for which the float32 model has no number, and a longer one."""
LOGITS = {
    "int8": {1: (0.00, 0.01), 2: (0.0, 3.0), 3: (0.01, 0.0), 4: (0.0, 0.02)},
    "float32": {1: (0.01, 0.00), 2: (9.0, 0.0), 3: (np.nan, 0.0), 4: (0.3, 0.0)},
}


class Told:
    """Answers a row by its first token, as it is told, and remembers what it was asked."""

    company, depth, rounds_widths, pads = ANY_LENGTHS, 2, False, True

    def __init__(self, dtype, reference=None):
        self.dtype, self.reference, self.asked = dtype, reference, []

    def submit(self, inputs, **_):
        first_B = inputs["input_ids"][:, 0].tolist()
        self.asked += first_B
        outputs = np.array([LOGITS[self.dtype][first] for first in first_B], dtype=np.float32)
        return SimpleNamespace(result=lambda: outputs)

    def facts(self):
        return {"engine": "told", "device": "cpu", "dtype": self.dtype}


def task_of(**config):
    return TextClassification(transformers.BertConfig(**config))


def runner_of(reference, monkeypatch):
    # What int8 costs is measured by rows of its own, and has tests of its own.
    monkeypatch.setattr("tidemill.inference.runner.measure_drift", lambda *_, **__: None)
    engine: Any = Told("int8", reference)
    config = transformers.BertConfig(num_labels=2)
    return ModelRunner(engine, config, task=task_of(num_labels=2), inference=Inference(token_budget=8))


def predict(runner, rows):
    return runner.predict(prepared_rows(pa.array(rows, pa.list_(pa.int32()))))


def test_a_label_that_is_close_is_the_one_that_float32_says(monkeypatch):
    reference = Told("float32")

    predictions = predict(runner_of(reference, monkeypatch), [CLOSE, SURE, LONG, CLOSE])

    assert sorted(reference.asked) == [1, 4]
    assert predictions.columns["label"].to_pylist() == ["LABEL_0", "LABEL_1", "LABEL_0", "LABEL_0"]
    sure_of_int8 = 1 / (1 + np.exp(-3))
    assert predictions.columns["score"][1].as_py() == pytest.approx(sure_of_int8, abs=1e-5)
    assert predictions.columns["score"][2].as_py() == pytest.approx(1 / (1 + np.exp(-0.3)), abs=1e-5)


def test_what_is_computed_twice_counts_once_and_is_told(monkeypatch):
    predictions = predict(runner_of(Told("float32"), monkeypatch), [CLOSE, SURE, LONG, CLOSE])

    stats = predictions.stats
    assert (stats.num_distinct, stats.num_tokens, stats.num_in_float32) == (3, 8, 2)
    assert predictions.reason.null_count == 4


def test_where_float32_has_no_number_either_int8_has_the_last_word(monkeypatch):
    predictions = predict(runner_of(Told("float32"), monkeypatch), [LOST])

    assert predictions.columns["label"].to_pylist() == ["LABEL_0"]
    assert predictions.stats.num_in_float32 == 0


def test_what_is_not_in_int8_is_computed_once(monkeypatch):
    runner = runner_of(None, monkeypatch)

    predictions = predict(runner, [CLOSE, LONG])

    assert sorted(runner.engine.asked) == [1, 4]
    assert predictions.columns["label"].to_pylist() == ["LABEL_1", "LABEL_1"]


@pytest.mark.parametrize(
    ("config", "scores", "expected"),
    [
        ({"num_labels": 2}, [[0.49, 0.51], [0.52, 0.48], [0.47, 0.53]], [True, True, False]),
        ({"num_labels": 3}, [[0.4, 0.22, 0.38], [0.4, 0.35, 0.25], [0.1, 0.45, 0.45]], [True, False, True]),
        ({"num_labels": 2, "problem_type": "multi_label_classification"}, [[0.9, 0.88], [0.9, 0.8]], [True, False]),
        ({"num_labels": 2, "problem_type": "regression"}, [[3.0, 3.0]], [False]),
        ({"num_labels": 1}, [[0.5]], [False]),
    ],
)
def test_a_label_is_close_where_the_two_best_scores_may_change_places(config, scores, expected):
    answers = vectors(np.array(scores, dtype=np.float32), config["num_labels"])

    assert task_of(**config).close_calls(answers, 0.021).tolist() == expected
