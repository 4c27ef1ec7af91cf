"""Scores of classes: of logits, as Arrow lists and as maps by label.

Shapes: B items or R rows, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Scores = NDArray[np.float32]


def labels_of(config: PretrainedConfig) -> list[str]:
    """One name for each output; several may share one, as in a model whose grades were joined.

    Raises:
        ModelError: the configuration does not name each.
    """
    labels = [str(config.id2label.get(i)) for i in range(config.num_labels)]
    named = all(isinstance(label, str | int | float) for label in config.id2label.values())
    if not named or sorted(config.id2label) != list(range(config.num_labels)):
        raise ModelError(
            f"The model's labels {config.id2label} do not name each of its {config.num_labels} outputs. Correct "
            "id2label in its config.json."
        )
    return labels


def vectors(
    values_BC: NDArray[np.float32], size: int, *, is_null: NDArray[np.bool_] | None = None
) -> pa.FixedSizeListArray:
    """One list of `size` values an item, or null."""
    flat = np.ascontiguousarray(values_BC, dtype=np.float32).ravel()
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), size, mask=None if is_null is None else pa.array(is_null))


def values_of(lists: pa.FixedSizeListArray) -> NDArray[np.float32]:
    """The values BC of lists of one size, none of which is null."""
    size = lists.type.list_size
    values: NDArray[np.float32] = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
    return values


def sigmoid(logits_BC: Scores) -> Scores:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-logits_BC)), dtype=np.float32)


def softmax(logits_BC: Scores) -> Scores:
    exponentials_BC = np.exp(logits_BC - logits_BC.max(axis=-1, keepdims=True))
    return np.asarray(exponentials_BC / exponentials_BC.sum(axis=-1, keepdims=True), dtype=np.float32)


def score_maps(scores_RC: Scores, labels: pa.StringArray) -> pa.MapArray:
    num_rows, num_labels = scores_RC.shape
    offsets = pa.array(np.arange(num_rows + 1, dtype=np.int32) * num_labels)
    names = labels.take(pa.array(np.tile(np.arange(num_labels), num_rows)))
    return pa.MapArray.from_arrays(offsets, names, pa.array(scores_RC.ravel()))
