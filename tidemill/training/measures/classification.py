"""Measures of a classifier's logits on held-out rows.

Shapes: N rows, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.training.examples.labels import Outputs
from tidemill.training.measures.intervals import bootstrap, measured, wilson
from tidemill.training.measures.temperature import calibration_error

Array = NDArray[Any]
BEST_BY = {"single_label": "f1", "multi_label": "f1", "regression": "mean_absolute_error"}


def quick_measures(logits_NC: Array, labels: Array, outputs: Outputs) -> dict[str, float]:
    """What is told after each epoch, and the best one is chosen by."""
    if outputs.kind == "regression":
        return {"mean_absolute_error": float(np.abs(logits_NC.reshape(-1) - labels.reshape(-1)).mean())}
    said = said_of(logits_NC, outputs)
    accuracy = _is_right(said, labels).mean()
    return {"accuracy": float(accuracy), "f1": _macro_f1(said, labels, len(outputs.names))}


def said_of(logits_NC: Array, outputs: Outputs) -> Array:
    """The label's number of each row, or NC of what is said of each label."""
    return logits_NC > 0 if outputs.kind == "multi_label" else logits_NC.argmax(axis=1)


def measures(
    logits_NC: Array, labels: Array, outputs: Outputs, slices: Mapping[str, Sequence[Any]], *, seed: int
) -> dict[str, Any]:
    """All that is told of a model: measures with their intervals, by label and by slice, confusion and calibration."""
    if outputs.kind == "regression":
        return _of_numbers(logits_NC.reshape(-1), labels.reshape(-1), slices, seed=seed)
    said, num_labels = said_of(logits_NC, outputs), len(outputs.names)
    right = _is_right(said, labels)
    f1 = _macro_f1(said, labels, num_labels)
    interval = bootstrap(lambda rows: _macro_f1(said[rows], labels[rows], num_labels), len(right), seed=seed)
    found: dict[str, Any] = {
        "rows": len(right),
        "accuracy": measured(float(right.mean()), wilson(int(right.sum()), len(right))),
        "f1": measured(f1, interval),
        "labels": _by_label(said, labels, outputs.names),
        "calibration_error": calibration_error(logits_NC, labels),
        "slices": [
            {"column": column, "value": value, "rows": len(rows), "accuracy": float(right[rows].mean())}
            | {"f1": _macro_f1(said[rows], labels[rows], num_labels)}
            for column, value, rows in rows_of_slices(slices)
        ],
    }
    if outputs.kind == "single_label":
        found["confusion"] = _confusion(said, labels, outputs.names)
    return found


def majority(train: Array, labels: Array, outputs: Outputs) -> dict[str, Any]:
    """What the most frequent answer among the rows that are learned from would come to."""
    if outputs.kind == "regression":
        return {"mean_absolute_error": float(np.abs(np.median(train) - labels).mean())}
    if outputs.kind == "multi_label":
        said = np.broadcast_to(train.mean(axis=0) > 0.5, labels.shape)
    else:
        said = np.full(len(labels), np.bincount(train, minlength=len(outputs.names)).argmax())
    return {
        "accuracy": float(_is_right(said, labels).mean()),
        "f1": _macro_f1(said, labels, len(outputs.names)),
        **({"label": outputs.names[int(said[0])]} if outputs.kind == "single_label" else {}),
    }


def rows_of_slices(slices: Mapping[str, Sequence[Any]]) -> list[tuple[str, str, list[int]]]:
    """(column, value, row numbers), the largest slice of each column first."""
    found: dict[tuple[str, str], list[int]] = {}
    for column, values in slices.items():
        for row, value in enumerate(values):
            found.setdefault((column, str(value)), []).append(row)
    return [(*name, rows) for name, rows in sorted(found.items(), key=lambda item: (item[0][0], -len(item[1])))]


def _is_right(said: Array, labels: Array) -> Array:
    """Of several labels a row, all of them."""
    return np.asarray((said == labels).all(axis=1) if labels.ndim == 2 else said == labels)


def _counts(said: Array, labels: Array, num_labels: int) -> tuple[Array, Array, Array]:
    """By label: how often it was said rightly, was said, and is so."""
    if labels.ndim == 2:
        is_so = labels == 1
        return (said & is_so).sum(axis=0), said.sum(axis=0), is_so.sum(axis=0)
    right = np.bincount(labels[said == labels], minlength=num_labels)
    return right, np.bincount(said, minlength=num_labels), np.bincount(labels, minlength=num_labels)


def _f1_scores(right: Array, said: Array, there: Array) -> Array:
    return np.asarray(2 * right / np.maximum(said + there, 1))


def _macro_f1(said: Array, labels: Array, num_labels: int) -> float:
    """The mean of the labels' F1, over those that are said or there."""
    right, num_said, num_there = _counts(said, labels, num_labels)
    seen = (num_said + num_there) > 0
    return float(_f1_scores(right, num_said, num_there)[seen].mean()) if seen.any() else 0.0


def _by_label(said: Array, labels: Array, names: Sequence[str]) -> list[dict[str, Any]]:
    right, num_said, num_there = _counts(said, labels, len(names))
    f1_scores = _f1_scores(right, num_said, num_there)
    return [
        {
            "label": name,
            "rows": int(num_there[i]),
            "precision": float(right[i] / num_said[i]) if num_said[i] else None,
            "recall": float(right[i] / num_there[i]) if num_there[i] else None,
            "f1": float(f1_scores[i]),
        }
        for i, name in enumerate(names)
    ]


def _confusion(said: Array, labels: Array, names: Sequence[str]) -> list[dict[str, Any]]:
    counts: Array = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(counts, (labels, said), 1)
    return [
        {"label": names[i], "said": names[j], "rows": int(counts[i, j])}
        for i in range(len(names))
        for j in range(len(names))
        if counts[i, j]
    ]


def _of_numbers(values: Array, truth: Array, slices: Mapping[str, Sequence[Any]], *, seed: int) -> dict[str, Any]:
    errors = np.abs(values - truth)
    interval = bootstrap(lambda rows: float(errors[rows].mean()), len(errors), seed=seed)
    both_vary = len(truth) > 1 and values.std() > 0 and truth.std() > 0
    return {
        "rows": len(truth),
        "mean_absolute_error": measured(float(errors.mean()), interval),
        "root_mean_squared_error": float(np.sqrt((errors**2).mean())),
        "correlation": float(np.corrcoef(values, truth)[0, 1]) if both_vary else None,
        "slices": [
            {"column": column, "value": value, "rows": len(rows), "mean_absolute_error": float(errors[rows].mean())}
            for column, value, rows in rows_of_slices(slices)
        ],
    }
