"""An encoder and what comes after it, as one module: ids and a mask in, one vector a row out.

Shapes: B rows of a batch, T tokens of the longest, H hidden size, E dimensions of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tidemill.checkpoints.embeddings import folder as saved
from tidemill.checkpoints.embeddings.pooling import Pooling
from tidemill.checkpoints.loading import load_config, load_weights, opening
from tidemill.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_ENCODERS = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "longt5": "LongT5EncoderModel",
}
"""Of models with a decoder, whose encoder stands alone."""
UNREAD = ("pooler.",)
"""Weights whose answer no pooling here reads, and that a checkpoint of a masked language model lacks."""


@dataclass(frozen=True)
class Recipe:
    """What is computed after the encoder: pooling, then `steps`, then the first `truncate_dim` dimensions, to length
    one if `normalize`. `num_left_out` tokens at a row's beginning are not pooled."""

    pooling: tuple[str, ...]
    steps: tuple[saved.Dense | saved.Normalize, ...] = ()
    truncate_dim: int | None = None
    normalize: bool = False
    num_left_out: int = 0

    @property
    def is_unit(self) -> bool:
        """Whether every embedding has length one."""
        return self.normalize or (bool(self.steps) and self.steps[-1] == saved.Normalize() and not self.truncate_dim)

    def size(self, hidden_size: int) -> int:
        """Dimensions of an embedding.

        Raises:
            ModelError: a Dense takes another number than it would get, or fewer are left than `truncate_dim`.
        """
        size = hidden_size * len(self.pooling)
        for step in self.steps:
            if isinstance(step, saved.Dense):
                if step.num_inputs != size:
                    raise ModelError(
                        f"{step.folder} takes {step.num_inputs} dimensions, and what comes before it gives {size}. "
                        "Download the model again."
                    )
                size = step.num_outputs
        if self.truncate_dim is not None and self.truncate_dim > size:
            raise ModelError(
                f"model.options.truncate_dim = {self.truncate_dim} is more than the {size} dimensions that the model "
                f"gives. Lower it to less than {size}, or leave it out."
            )
        return self.truncate_dim or size


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
        self.steps = nn.ModuleList(
            _Dense(step) if isinstance(step, saved.Dense) else _Normalize() for step in recipe.steps
        )
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

    def __init__(self, step: saved.Dense) -> None:
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


def encoder_class(config: PretrainedConfig) -> str:
    """The class of Transformers that gives the tokens' vectors.

    Raises:
        ModelError: none gives them without what a decoder has written.
    """
    if not getattr(config, "is_encoder_decoder", False):
        return "AutoModel"
    if config.model_type not in _ENCODERS:
        raise ModelError(
            f"The model is a {config.model_type} with a decoder, and embeddings are taken from the encoders of "
            f"{', '.join(_ENCODERS)} alone. Choose one of those, or an encoder without a decoder."
        )
    return _ENCODERS[config.model_type]


def hidden_size(config: PretrainedConfig) -> int:
    """Dimensions of a token's vector.

    Raises:
        ModelError: the configuration does not say.
    """
    size: Any = getattr(config.get_text_config(), "hidden_size", None)
    if not isinstance(size, int) or size <= 0:
        raise ModelError(
            f"The model's config.json ({config.model_type}) names no hidden_size, so it is no encoder of texts. "
            "Choose one that is."
        )
    return size
