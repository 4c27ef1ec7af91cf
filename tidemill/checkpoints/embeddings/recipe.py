"""What is computed of the vectors of a text's tokens, as far as it is known without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tidemill.checkpoints.embeddings.folder import Dense, Normalize
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


@dataclass(frozen=True)
class Recipe:
    """What is computed after the encoder: pooling, then `steps`, then the first `truncate_dim` dimensions, to length
    one if `normalize`. `num_left_out` tokens at a row's beginning are not pooled."""

    pooling: tuple[str, ...]
    steps: tuple[Dense | Normalize, ...] = ()
    truncate_dim: int | None = None
    normalize: bool = False
    num_left_out: int = 0

    @property
    def is_unit(self) -> bool:
        """Whether every embedding has length one."""
        return self.normalize or (bool(self.steps) and self.steps[-1] == Normalize() and not self.truncate_dim)

    def size(self, hidden_size: int) -> int:
        """Dimensions of an embedding.

        Raises:
            ModelError: a Dense takes another number than it would get, or fewer are left than `truncate_dim`.
        """
        size = hidden_size * len(self.pooling)
        for step in self.steps:
            if isinstance(step, Dense):
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
