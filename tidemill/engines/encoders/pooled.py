"""A base model of Transformers, and what makes one vector of the tokens of a row: a module that embeds texts.

Shapes: B rows of a batch, T tokens of the longest, H hidden size, E size of an embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class Pooled(nn.Module):
    """`pool` takes the last hidden states BTH, in float32 whatever the dtype, with a mask BT of ones for tokens and
    zeros for padding, and gives the embeddings BE.

    A pool that `reads_first_token` may be given that token alone, as B1H with a mask of ones: what the last layer
    makes of the others is then not computed. Whatever it reads, the answer of a row follows from its tokens, and not
    from the padding beside them.
    """

    base_model_prefix = "encoder"

    def __init__(self, encoder: nn.Module, pool: nn.Module, *, reads_first_token: bool = False) -> None:
        super().__init__()
        self.encoder, self.pool = encoder, pool
        self.reads_first_token = reads_first_token

    @property
    def config(self) -> PretrainedConfig:
        return self.encoder.config

    @property
    def base_model(self) -> nn.Module:
        return self.encoder

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Embeddings BE, in float32. The mask is None where nothing is padded."""
        types: dict[str, Any] = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden_BTH = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **types).last_hidden_state
        mask_BT = input_ids.new_ones(input_ids.shape) if attention_mask is None else attention_mask
        embedding_BE: Tensor = self.pool(hidden_BTH.float(), mask_BT)
        return embedding_BE
