"""A classifier's head stays in float32 where the model is computed in 16 bits.

What comes after the base model is a few small layers, which cost nothing, and
whose sums are the scores: 16 bits keep three digits of a logit, too few of one
near 1,500. In float32 a head adds no error to that of its input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def head_names(model: nn.Module) -> list[str]:
    """Names of the children that come after the base model, as far as they have weights; none where nobody says.

    Transformers names its base model; a module of another make has a child `head`.
    """
    children = dict(model.named_children())
    base = getattr(model, "base_model_prefix", None)
    if base is None:
        return ["head"] if "head" in children else []
    if base not in children:
        return []
    return [name for name, child in children.items() if name != base and any(True for _ in child.parameters())]


def narrow(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast to `dtype` all but the head of a float32 model, which gives its head float32 by itself."""
    heads = heads_of(model)
    for name in heads:
        setattr(model, name, nn.Identity())
    model.to(dtype=dtype)
    for name, head in heads.items():
        setattr(model, name, head)


def heads_of(model: nn.Module) -> dict[str, nn.Module]:
    return {name: getattr(model, name) for name in head_names(model)}


def replace_heads(model: nn.Module, heads: Mapping[str, nn.Module]) -> None:
    """Give a model in 16 bits heads in float32, which take what it computes as float32."""
    for name, head in heads.items():
        for layer in head.modules():
            if any(True for _ in layer.parameters(recurse=False)):
                layer.register_forward_pre_hook(_in_float32, with_kwargs=True)
        setattr(model, name, head)


def _in_float32(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
    return tuple(map(_widened, given)), {name: _widened(value) for name, value in named.items()}


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
