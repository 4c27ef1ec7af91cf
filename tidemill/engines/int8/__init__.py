"""int8: the linear layers of a model with weights in 8 bits, and activations quantized by groups while it runs.

`smoothing` divides a layer's inputs by factors that its weights are multiplied by, so that
neither has a few values far beyond the others. `weights` puts the weights in 8 bits, in the
shape of graph by which OpenVINO knows them. A group's range is found in the group alone, so
a row's answer does not depend on the rows beside it.
"""

from __future__ import annotations

from torch import nn

LEAST_OUTPUTS = 16
"""Narrower layers gain nothing."""


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """By name, those that are quantized: in the layers that a model repeats, which is where its time goes.

    Embeddings are looked up and not multiplied, and a head multiplies one token of each row.
    """
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear
        and module.out_features >= LEAST_OUTPUTS
        and any(name.startswith(f"{each}.") for each in lists)
    }
