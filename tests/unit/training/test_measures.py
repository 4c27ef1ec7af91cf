"""Measures on held-out rows, held against scikit-learn where it has them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from tidemill.models.comparing.significance import difference, macro_f1, mcnemar
from tidemill.training.examples.labels import Outputs
from tidemill.training.measures.classification import majority, measures, quick_measures
from tidemill.training.measures.entities import entities
from tidemill.training.measures.intervals import bootstrap, wilson
from tidemill.training.measures.temperature import calibration_error, fitted_temperature

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 3, 200)
LOGITS = (RANDOM.normal(size=(200, 3)) + 2 * np.eye(3)[LABELS]).astype(np.float32)
THREE = Outputs("single_label", ("a", "b", "c"))


def test_accuracy_f1_and_each_labels_own_are_scikit_learns():
    found, said = measures(LOGITS, LABELS, THREE, {}, seed=0), LOGITS.argmax(axis=1)

    assert found["accuracy"]["value"] == pytest.approx(metrics.accuracy_score(LABELS, said))
    assert found["f1"]["value"] == pytest.approx(metrics.f1_score(LABELS, said, average="macro"))
    precision, recall, f1, rows = metrics.precision_recall_fscore_support(LABELS, said)
    for i, label in enumerate(found["labels"]):
        expected = (precision[i], recall[i], f1[i], rows[i])
        assert [label[name] for name in ("precision", "recall", "f1", "rows")] == pytest.approx(expected)
    counts = {(pair["label"], pair["said"]): pair["rows"] for pair in found["confusion"]}
    matrix = metrics.confusion_matrix(LABELS, said)
    assert counts == {("abc"[i], "abc"[j]): matrix[i, j] for i in range(3) for j in range(3) if matrix[i, j]}


def test_f1_of_several_labels_is_scikit_learns():
    labels = RANDOM.integers(0, 2, (100, 4)).astype(np.float32)
    logits = (RANDOM.normal(size=(100, 4)) + labels).astype(np.float32)

    found = quick_measures(logits, labels, Outputs("multi_label", tuple("abcd")))

    assert found["f1"] == pytest.approx(metrics.f1_score(labels, logits > 0, average="macro"))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, logits > 0))


def test_an_interval_holds_the_measure_and_narrows_with_rows():
    few, many = measures(LOGITS[:40], LABELS[:40], THREE, {}, seed=0), measures(LOGITS, LABELS, THREE, {}, seed=0)

    for name in ("accuracy", "f1"):
        assert few[name]["low"] < few[name]["value"] < few[name]["high"]
        assert many[name]["high"] - many[name]["low"] < few[name]["high"] - few[name]["low"]


def test_wilsons_interval_has_a_width_where_all_is_right():
    low, high = wilson(20, 20)

    assert low < 0.9
    assert high == pytest.approx(1)
    assert wilson(0, 0) == (0, 1)


def test_a_bootstrap_is_the_same_under_the_same_seed():
    values = RANDOM.normal(size=50)

    first, again = (bootstrap(lambda rows: float(values[rows].mean()), 50, seed=3) for _ in range(2))

    assert first == again


def test_a_temperature_undoes_what_logits_were_multiplied_by():
    # Labels drawn by the probabilities themselves: they are calibrated as they are.
    logits = RANDOM.normal(size=(4000, 3)).astype(np.float32) * 2
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([RANDOM.choice(3, p=share / share.sum()) for share in shares.astype(float)])

    assert fitted_temperature(logits * 5, labels) == pytest.approx(5, rel=0.1)
    assert calibration_error(logits * 5, labels) > 4 * calibration_error(logits, labels)


def test_a_slice_has_measures_of_its_own():
    found = measures(LOGITS, LABELS, THREE, {"half": [i < 50 for i in range(200)]}, seed=0)

    right = LOGITS.argmax(axis=1) == LABELS
    accuracies = {part["value"]: part["accuracy"] for part in found["slices"]}
    assert accuracies == {"True": right[:50].mean(), "False": right[50:].mean()}


def test_the_majority_of_the_rows_that_are_learned_from_is_the_baseline():
    found = majority(np.array([1, 1, 0]), np.array([1, 0, 0, 0]), Outputs("single_label", ("a", "b")))

    assert (found["label"], found["accuracy"]) == ("b", 0.25)


def test_an_entity_ends_where_another_begins():
    assert entities(["B-PER", "I-PER", "B-PER", "O", "I-LOC"]) == [(0, 2, "PER"), (2, 3, "PER"), (4, 5, "LOC")]


def test_an_even_split_of_disagreements_is_chance_and_an_uneven_one_is_not():
    assert mcnemar(10, 10) == 1
    assert mcnemar(0, 10) == pytest.approx(2 / 2**10)
    assert mcnemar(2000, 2300) < 1e-4


def test_the_difference_of_two_versions_lies_in_its_interval():
    found = difference(13, 41, 600)

    assert found["value"] == pytest.approx(28 / 600)
    assert 0 < found["low"] < found["value"] < found["high"]
    assert difference(0, 0, 10)["low"] < 0 < difference(0, 0, 10)["high"]


def test_macro_f1_of_counts_is_scikit_learns():
    said, right = LOGITS.argmax(axis=1), LABELS
    counts = [(a, b, int(((said == a) & (right == b)).sum())) for a in range(3) for b in range(3)]

    assert macro_f1(counts) == pytest.approx(metrics.f1_score(right, said, average="macro"))
