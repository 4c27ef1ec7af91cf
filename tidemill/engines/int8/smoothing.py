"""What a layer's inputs are divided by before they are quantized, and its weights multiplied by: SmoothQuant.

A few inputs of a layer are many times as large as the others, in every text. In a
range that holds them, the others keep few of their digits. Divided by the square
root of how large they are beside the weights that they meet, both keep about as
many. From Xiao et al., SmoothQuant (ICML 2023), with its alpha at one half.

Shapes: B rows, T tokens of each, I inputs of a layer, O outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tidemill.encoding.items import Arrays
from tidemill.engines.int8.layers import linear_layers
from tidemill.storage.kept import keep, read_kept

NUM_TEXTS = 24
"""Of the bundled ones: which inputs are large is the same in every text."""
LEAST = 1e-4
"""Inputs and weights that are smaller ask for nothing."""
SPAN = 100.0
"""A factor is at most so many times the middle one, or so small a part of it."""


class Smoothed(nn.Module):
    """In place of a linear layer, with the same answer in float32."""

    def __init__(self, linear: nn.Linear, factor_I: Tensor) -> None:
        super().__init__()
        self.inverse = nn.Parameter(1 / factor_I, requires_grad=False)
        self.linear = nn.Linear(linear.in_features, linear.out_features, bias=False, device="meta")
        self.linear.weight = nn.Parameter(linear.weight.detach() * factor_I, requires_grad=False)
        self.linear.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x * self.inverse)
        return y


def smoothed(model: nn.Module, batches: Iterable[Arrays], *, kept_as: str) -> tuple[nn.Module, list[str]]:
    """A copy with smoothed linear layers that shares all other weights, and the names of the weights of these layers.

    What is large is found in `batches` without padding, once a machine: then it is kept under the name `kept_as`.
    """
    layers = linear_layers(model)
    largest = _kept(kept_as, layers)
    if largest is None:
        largest = _largest_inputs(model, layers, batches)
        keep(kept_as, {name: each.tolist() for name, each in largest.items()})
    shared: dict[int, Any] = {id(each): each for each in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, shared)
    for name, largest_I in largest.items():
        parent, _, child = name.rpartition(".")
        factor_I = factors(layers[name].weight.detach(), largest_I)
        setattr(copied.get_submodule(parent), child, Smoothed(layers[name], factor_I))
    return copied, [f"{name}.linear.weight" for name in largest]


def factors(weight_OI: Tensor, largest_I: Tensor) -> Tensor:
    """Of each input; the middle one is 1."""
    ratio_I = largest_I.clamp(min=LEAST) / weight_OI.abs().amax(dim=0).clamp(min=LEAST)
    factor_I = ratio_I.sqrt()
    return (factor_I / factor_I.median()).clamp(1 / SPAN, SPAN)


def _kept(name: str, layers: Mapping[str, nn.Linear]) -> dict[str, Tensor] | None:
    """What was found before; None where nothing was, or what is kept does not belong to these layers.

    A number that somebody changed costs digits and no more: whatever inputs are divided by, weights are multiplied by.
    """
    try:
        largest = {layer: torch.tensor(each, dtype=torch.float32) for layer, each in read_kept(name).items()}
    except (AttributeError, TypeError, ValueError, RuntimeError, OverflowError):
        return None
    fits = all(
        layer in layers and each.shape == (layers[layer].in_features,) and bool((each.isfinite() & (each >= 0)).all())
        for layer, each in largest.items()
    )
    return largest if fits and largest else None


def _largest_inputs(model: nn.Module, layers: Mapping[str, nn.Linear], batches: Iterable[Arrays]) -> dict[str, Tensor]:
    """By layer, of each input its largest value; layers that were not asked are not there."""
    largest: dict[str, Tensor] = {}

    def see(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen_I = inputs[0].detach().flatten(0, -2).abs().amax(dim=0)
        largest[name] = torch.maximum(largest.get(name, seen_I), seen_I)

    with _watched(layers, see), torch.inference_mode():
        for batch in batches:
            model(**{name: torch.from_numpy(values) for name, values in batch.items()})
    return {name: each.clone() for name, each in largest.items()}


@contextmanager
def _watched(layers: Mapping[str, nn.Linear], see: Callable[..., None]) -> Iterator[None]:
    handles = [layer.register_forward_pre_hook(partial(see, name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
