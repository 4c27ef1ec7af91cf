"""Which layers of a model are computed in int8."""

from __future__ import annotations

from torch import nn

from tidemill.engines.precision.heads import head_names

LEAST_OUTPUTS = 16
"""Narrower layers gain nothing."""


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """By name, those that are quantized: in the layers that a model repeats, which is where its time goes.

    Embeddings are looked up and not multiplied. A head costs nothing beside them, and its sums are the answers.
    """
    head = tuple(f"{name}." for name in head_names(model))
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear
        and module.out_features >= LEAST_OUTPUTS
        and any(name.startswith(f"{each}.") for each in lists)
        and not name.startswith(head)
    }
