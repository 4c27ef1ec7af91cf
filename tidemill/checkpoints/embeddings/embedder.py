"""An encoder and what comes after it, as one module: ids and a mask in, one vector a row out.

Shapes: B rows of a batch, T tokens of the longest, H hidden size, E dimensions of an embedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from tidemill.checkpoints.embeddings.folder import Dense
from tidemill.checkpoints.embeddings.pooling import Pooling
from tidemill.checkpoints.embeddings.recipe import Recipe, encoder_class
from tidemill.checkpoints.loading import load_config, load_weights, opening
from tidemill.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

UNREAD = ("pooler.",)
"""Weights whose answer no pooling here reads, and that a checkpoint of a masked language model lacks."""


class Embedder(nn.Module):
    """`encoder` is the model as Transformers loads it; `head` takes its last hidden state, in whatever dtype."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    @property
    def config(self) -> PretrainedConfig:
        return self.encoder.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embeddings BE in float32. The mask is 1 for tokens and 0 for padding; None where nothing is padded."""
        hidden_BTH = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        embedding_BE: Tensor = self.head(hidden_BTH, attention_mask)
        return embedding_BE


class Head(nn.Module):
    """What a `Recipe` says, in float32 whatever it is given."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.pooling = Pooling(recipe.pooling, num_left_out=recipe.num_left_out)
        self.steps = nn.ModuleList(_Dense(step) if isinstance(step, Dense) else _Normalize() for step in recipe.steps)
        self.truncate_dim, self.normalize = recipe.truncate_dim, recipe.normalize

    @property
    def reads_first_token(self) -> bool:
        """Whether it reads that token alone, and answers the same where it is given no other."""
        return self.pooling.modes == ("cls",) and not self.pooling.num_left_out

    def forward(self, hidden_BTH: Tensor, mask_BT: Tensor | None) -> Tensor:
        embedding_BE: Tensor = self.pooling(hidden_BTH.float(), mask_BT)
        for step in self.steps:
            embedding_BE = step(embedding_BE)
        if self.truncate_dim is not None:
            embedding_BE = embedding_BE[:, : self.truncate_dim]
        return functional.normalize(embedding_BE, dim=1) if self.normalize else embedding_BE


class _Normalize(nn.Module):
    def forward(self, embedding_BE: Tensor) -> Tensor:
        return functional.normalize(embedding_BE, dim=1)


class _Dense(nn.Module):
    """Without its weights until they are loaded."""

    def __init__(self, step: Dense) -> None:
        super().__init__()
        self.linear = nn.Linear(step.num_inputs, step.num_outputs, bias=step.has_bias)
        self.activation = getattr(nn, step.activation)()
        self.is_residual = step.is_residual
        if step.is_residual and step.num_inputs != step.num_outputs:
            self.residual: nn.Module = nn.Linear(step.num_inputs, step.num_outputs, bias=False)
        else:
            self.residual = nn.Identity()
        self._load(step.folder)

    def _load(self, folder: Path) -> None:
        from safetensors.torch import load_file

        with opening(f"The Dense in {folder}"):
            weights = load_file(folder / "model.safetensors")
            expected = self.state_dict()
            if {name: each.shape for name, each in weights.items()} != {
                name: each.shape for name, each in expected.items()
            }:
                raise ModelError(
                    f"The weights in {folder} are {_shapes(weights)}, and its config.json says {_shapes(expected)}. "
                    "Download the model again."
                )
            self.load_state_dict({name: each.float() for name, each in weights.items()})

    def forward(self, x_BE: Tensor) -> Tensor:
        y_BE: Tensor = self.activation(self.linear(x_BE))
        return y_BE + self.residual(x_BE) if self.is_residual else y_BE


def _shapes(weights: dict[str, Tensor]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, each.shape))}" for name, each in sorted(weights.items()))


def load_embedder(
    folder: str | Path, recipe: Recipe, *, dtype: torch.dtype, trust_remote_code: bool, pad_token_id: int | None = None
) -> Embedder:
    """The encoder in `dtype` and its head in float32, in eval mode on the CPU.

    Raises:
        ModelError: weights are missing, pickled, of another shape, or do not cover the model.
    """
    config = load_config(folder, trust_remote_code=trust_remote_code, pad_token_id=pad_token_id)
    encoder = load_weights(
        encoder_class(config),
        folder,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        pad_token_id=pad_token_id,
        unread=UNREAD,
    )
    embedder = Embedder(encoder, Head(recipe))
    embedder.eval()
    return embedder
