"""A model that a server has: it is known by the name that it is served under, and has no folder here."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_SERVED = "served:"


def served_as(name: str) -> str:
    """The identity of the model that is served under a name."""
    return f"{_SERVED}{name}"


def is_served(identity: str) -> bool:
    """Whether an identity is a served model's; so is the `name_or_path` of its configuration."""
    return identity.startswith(_SERVED)


def served_config(name: str) -> PretrainedConfig:
    """The configuration of a model of which nothing but its name is known."""
    return _kind()(name_or_path=served_as(name))


@functools.cache
def _kind() -> type[PretrainedConfig]:
    from transformers import PretrainedConfig

    class ServedModel(PretrainedConfig):  # type: ignore[misc]
        model_type = "served"

    return ServedModel
