"""Text classification: the best label and its score, as `TextClassificationPipeline` computes them by default."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.errors import ModelError
from tidemill.models.checkpoint import load_weights

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

pipeline_tag = "text-classification"

Scores = NDArray[np.float32]


def check(config: PretrainedConfig) -> None:
    # Where a config names no architecture, loading the weights tells: none may be missing.
    architectures = config.architectures or []
    if architectures and not any(name.endswith("ForSequenceClassification") for name in architectures):
        raise ModelError(
            f'The model is a {", ".join(architectures)}, and model.task = "{pipeline_tag}" needs a '
            "...ForSequenceClassification. Set model.path to a model that was fine-tuned for classification."
        )
    _labels(config)


def load(
    folder: str | Path, *, dtype: torch.dtype, trust_remote_code: bool, pad_token_id: int | None = None
) -> torch.nn.Module:
    model: torch.nn.Module = load_weights(
        "AutoModelForSequenceClassification",
        folder,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        pad_token_id=pad_token_id,
    )
    return model


def result_schema(config: PretrainedConfig, *, all_scores: bool) -> pa.Schema:
    fields = [("label", pa.string()), ("score", pa.float32())]
    if all_scores:
        _refuse_shared_labels(config)
        fields.append(("scores", pa.map_(pa.string(), pa.float32())))
    return pa.schema(fields)


def is_regression(config: PretrainedConfig) -> bool:
    return bool(config.problem_type == "regression")


def scores(logits_BC: NDArray[np.float32], config: PretrainedConfig) -> Scores:
    if is_regression(config):
        return logits_BC
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return _sigmoid(logits_BC)
    return _softmax(logits_BC)


def decode(scores_BC: Scores, config: PretrainedConfig, *, all_scores: bool) -> pa.Table:
    labels = pa.array(_labels(config), pa.string())
    columns = [labels.take(pa.array(scores_BC.argmax(axis=1))), pa.array(scores_BC.max(axis=1))]
    if all_scores:
        columns.append(_score_maps(scores_BC, labels))
    return pa.Table.from_arrays(columns, schema=result_schema(config, all_scores=all_scores))


def _labels(config: PretrainedConfig) -> list[str]:
    """One name for each output; several may share one, as in a model whose grades were joined."""
    labels = [str(config.id2label.get(i)) for i in range(config.num_labels)]
    named = all(isinstance(label, str | int | float) for label in config.id2label.values())
    if not named or sorted(config.id2label) != list(range(config.num_labels)):
        raise ModelError(
            f"The model's labels {config.id2label} do not name each of its {config.num_labels} outputs. Correct "
            "id2label in its config.json."
        )
    return labels


def _refuse_shared_labels(config: PretrainedConfig) -> None:
    labels = _labels(config)
    if shared := sorted({label for label in labels if labels.count(label) > 1}):
        outputs = ", ".join(str(i) for i, label in enumerate(labels) if label == shared[0])
        raise ModelError(
            f"Outputs {outputs} of the model have one label, {shared[0]!r}, and model.all_scores = true stores one "
            "score for a label. Set it to false, or give each output a name of its own by id2label in config.json."
        )


def _sigmoid(logits_BC: Scores) -> Scores:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-logits_BC)), dtype=np.float32)


def _softmax(logits_BC: Scores) -> Scores:
    exponentials_BC = np.exp(logits_BC - logits_BC.max(axis=1, keepdims=True))
    return np.asarray(exponentials_BC / exponentials_BC.sum(axis=1, keepdims=True), dtype=np.float32)


def _score_maps(scores_BC: Scores, labels: pa.StringArray) -> pa.MapArray:
    num_rows, num_labels = scores_BC.shape
    offsets = pa.array(np.arange(num_rows + 1, dtype=np.int32) * num_labels)
    names = labels.take(pa.array(np.tile(np.arange(num_labels), num_rows)))
    return pa.MapArray.from_arrays(offsets, names, pa.array(scores_BC.ravel()))
