"""The last layer of a model, its method of training, and what its inputs are: what the encoder makes of a text.

Shapes: N rows, H features, C outputs.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tidemill.errors import ModelError

Features = NDArray[np.float32]


def last_layer(model: nn.Module) -> tuple[str, nn.Linear]:
    """
    Raises:
        ModelError: none is known by its size.
    """
    inner, size = f"{getattr(model, 'base_model_prefix', '')}.", model.config.num_labels
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == size and not name.startswith(inner)
    ]
    if not found:
        raise ModelError(f'{type(model).__name__} has no linear last layer. Set method.type to "full" or "lora".')
    return found[-1]


def divide(layer: nn.Linear, temperature: float) -> None:
    """Have a layer's outputs be so many times smaller: no reader of a folder divides by what its config says."""
    with torch.no_grad():
        layer.weight /= temperature
        if layer.bias is not None:
            layer.bias /= temperature


class Head(nn.Module):
    """A last layer by itself, over features that are settled: each in the unit of its own spread."""

    def __init__(self, layer: nn.Linear, features_NH: Features, loss: Any) -> None:
        super().__init__()
        self.linear = copy.deepcopy(layer)
        self._loss = loss
        spread = torch.from_numpy(features_NH.std(axis=0)).clamp_min(1e-6)
        middle = torch.from_numpy(features_NH.mean(axis=0)) if layer.bias is not None else torch.zeros_like(spread)
        self.register_buffer("spread", spread)
        self.register_buffer("middle", middle)
        with torch.no_grad():
            if self.linear.bias is not None:
                self.linear.bias += self.linear.weight @ middle
            self.linear.weight *= spread

    def forward(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.linear((features - self.middle) / self.spread)
        return {"logits": logits} if labels is None else {"loss": self._loss(logits, labels), "logits": logits}

    def into(self, layer: nn.Linear) -> None:
        """Give a model's layer the weights, as they are for features that nobody scaled."""
        with torch.no_grad():
            layer.weight.copy_(self.linear.weight / self.spread)
            if layer.bias is not None:
                layer.bias.copy_(self.linear.bias - layer.weight @ self.middle)
