"""The temperature by which a classifier's confidence fits how often it is right, and how well it does.

Shapes: N rows, C outputs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidemill.models.tasks.scores import sigmoid, softmax

Logits = NDArray[np.float32]
NUM_BINS = 10
COLDEST, HOTTEST = 0.05, 20.0


def fitted_temperature(logits_NC: Logits, labels: NDArray[np.generic]) -> float:
    """What to divide logits by so that held-out rows are likeliest: Guo et al. 2017, On Calibration of Modern Neural
    Networks. By golden-section search over its logarithm, in which the loss has one minimum.

    `labels` are numbers N of one label a row, or NC of zeros and ones.
    """
    low, high = np.log(COLDEST), np.log(HOTTEST)
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if _loss(logits_NC / np.exp(left), labels) < _loss(logits_NC / np.exp(right), labels):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def calibration_error(logits_NC: Logits, labels: NDArray[np.generic]) -> float:
    """The expected calibration error: how far confidence is from the share that is right, by ten bins of confidence."""
    confidence, is_right = _confidence(logits_NC, labels)
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    found = [np.abs(confidence[bins == i].mean() - is_right[bins == i].mean()) * (bins == i).mean() for i in set(bins)]
    return float(sum(found))


def _confidence(logits_NC: Logits, labels: NDArray[np.generic]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if labels.ndim == 2:
        scores_NC = sigmoid(logits_NC)
        said_NC = scores_NC >= 0.5
        return np.where(said_NC, scores_NC, 1 - scores_NC).ravel(), (said_NC == (labels == 1)).ravel().astype(float)
    scores_NC = softmax(logits_NC)
    return scores_NC.max(axis=1).astype(float), (scores_NC.argmax(axis=1) == labels).astype(float)


def _loss(logits_NC: Logits, labels: NDArray[np.generic]) -> float:
    """The mean negative log-likelihood, in float64."""
    logits = logits_NC.astype(np.float64)
    if labels.ndim == 2:
        return float((np.logaddexp(0, logits) - logits * labels.astype(np.float64)).mean())
    peak = logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(logits - peak).sum(axis=1)) + peak[:, 0]
    return float((total - logits[np.arange(len(logits)), labels.astype(np.int64)]).mean())
