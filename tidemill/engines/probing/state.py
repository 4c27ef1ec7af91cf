"""What a module keeps from one forward pass to the next, and how it is as it was.

Some models change themselves while they compute: BigBird leaves its sparse attention
for good at a short text, rotary frequencies are replaced at a long one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SMALL = 2**20
"""Elements up to which a buffer is copied: what a pass writes in place is small, tables are not written."""

_CONTAINERS = (dict, list, set)


class State:
    """A module's attributes, those of its submodules and of their configurations, as they were when this was made."""

    def __init__(self, model: nn.Module) -> None:
        self._holders = [(holder, _copied_all(vars(holder))) for holder in _holders(model)]
        buffers = [buffer for buffer in model.buffers() if buffer.numel() <= SMALL and buffer.device.type != "meta"]
        self._buffers = [(buffer, buffer.clone()) for buffer in buffers]

    def has_changed(self) -> bool:
        return any(not _is_same(vars(holder), kept) for holder, kept in self._holders) or any(
            not torch.equal(buffer, kept) for buffer, kept in self._buffers
        )

    def restore(self) -> None:
        """Whoever is computing meanwhile may see half of it."""
        with torch.no_grad():
            for holder, kept in self._holders:
                vars(holder).clear()
                vars(holder).update(_copied_all(kept))
            for buffer, kept in self._buffers:
                buffer.copy_(kept)


def _holders(model: nn.Module) -> list[Any]:
    """All submodules, and the configurations that they read."""
    modules = list(model.modules())
    configs = {id(config): config for module in modules if hasattr(config := vars(module).get("config"), "__dict__")}
    return [*modules, *configs.values()]


def _copied_all(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value.copy() if isinstance(value, _CONTAINERS) else value for name, value in attributes.items()}


def _is_same(attributes: dict[str, Any], kept: dict[str, Any]) -> bool:
    """Whether what is public, and what modules, parameters and buffers there are, is what was kept.

    Other private attributes are where hooks are registered, which answers do not depend on.
    """
    names = {name for name in attributes.keys() | kept.keys() if not name.startswith("_")} | {"_modules", "_buffers"}
    missing = object()
    return all(_is_alike(attributes.get(name, missing), kept.get(name, missing)) for name in names)


def _is_alike(value: Any, kept: Any) -> bool:
    if isinstance(value, dict) and isinstance(kept, dict):
        return value.keys() == kept.keys() and all(_is_alike(value[name], kept[name]) for name in kept)
    if isinstance(value, Tensor | nn.Module) or isinstance(kept, Tensor | nn.Module):
        return value is kept
    if isinstance(value, set) and isinstance(kept, set):
        return value == kept
    if isinstance(value, list | tuple) and type(value) is type(kept):
        return len(value) == len(kept) and all(map(_is_alike, value, kept))
    return value is kept or (isinstance(value, str | int | float) and type(value) is type(kept) and value == kept)
