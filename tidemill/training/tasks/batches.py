"""Rows of tokens as batches, and what a model answers of them.

Shapes: N rows, B rows of a batch, T tokens of its longest, C outputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

IGNORED = -100
"""The label of a token of which nothing is learned, as Transformers' losses know it."""
Inputs = dict[str, list[Any]]


def logits_of(model: Any, inputs: Inputs, pad_id: int, *, batch_size: int = 32) -> Any:
    """In order; batches are of rows alike in length."""
    lengths = [len(ids) for ids in inputs["input_ids"]]
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    collate = Padding(pad_id)
    found: dict[int, Any] = {}
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = collate([{name: values[row] for name, values in inputs.items()} for row in rows])
            logits = model(**{name: value.to(device) for name, value in batch.items()}).logits.float().cpu().numpy()
            found |= dict(zip(rows, logits, strict=True))
    model.train(was_training)
    return (
        [found[row] for row in range(len(order))]
        if logits.ndim == 3
        else np.stack([found[row] for row in range(len(order))])
    )


class Padding:
    """Rows of tokens as one batch: as wide as its longest."""

    def __init__(self, pad_id: int, *, label_pad: int | None = None) -> None:
        self._pad_id, self._label_pad = pad_id, label_pad

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        batch = {"attention_mask": _padded([[1] * len(row["input_ids"]) for row in rows], width, 0)}
        for name in rows[0]:
            values = [row[name] for row in rows]
            if name == "labels" and self._label_pad is None:
                batch[name] = torch.as_tensor(np.stack(values))
            else:
                pad = {"input_ids": self._pad_id, "labels": self._label_pad or 0}.get(name, 0)
                batch[name] = _padded(values, width, pad)
        return batch


def labelled(inputs: Inputs, labels: Iterable[Any]) -> list[dict[str, Any]]:
    """A row as the loop takes it: what the model is given, and what it is to learn of that."""
    rows = zip(*inputs.values(), labels, strict=True)
    return [dict(zip((*inputs, "labels"), row, strict=True)) for row in rows]


def stacked(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(np.stack([row[name] for row in rows])) for name in rows[0]}


def _padded(rows: list[Any], width: int, pad: int) -> torch.Tensor:
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], dtype=torch.long)
