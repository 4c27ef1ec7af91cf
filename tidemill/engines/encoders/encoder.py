"""A model of BERT's shape, with less to compute.

Where a head reads the first token alone, in the last layer only that token asks, and passes the feed-forward part;
the others lend it their keys and values. The scale of attention lies in the query's weights, and token type 0 in the
position embeddings.

Shapes: B rows of a batch, T tokens of the longest, N tokens of all rows, M of them that ask, H hidden size, K heads,
D size of a head. What a head gives has the rows on its first axis: BC of classes, BTC of classes of each token, BE of
embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from tidemill.engines.encoders.parts import Body, Layer, Parts

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


class Encoder(nn.Module):
    """A model made of `Parts`."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        body = parts.body
        self.num_heads = body.num_heads
        self.padding_positions = body.padding_positions
        self.words = nn.Parameter(body.words.weight, requires_grad=False)
        self.positions = nn.Parameter(_with_type_0(body), requires_grad=False)
        self.types = None if body.types is None else nn.Parameter(_beside_type_0(body.types), requires_grad=False)
        self.norm = body.norm
        self.projection: nn.Module = body.projection or nn.Identity()
        self.layers = nn.ModuleList(_Layer(layer, body.num_heads) for layer in body.layers)
        self.head = parts.head.module
        self.reads_first_token = parts.head.reads_first_token

    @property
    def most_tokens(self) -> int:
        """Of a row: positions before the first token's are not for text."""
        return len(self.positions) - (0 if self.padding_positions is None else self.padding_positions + 1)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """What the head gives. The mask is 1 for tokens and 0 for padding; None where nothing is padded.

        Without types all tokens are of type 0. At padding, what a head gives for each token means nothing.
        """
        ids_BT, mask_BT = input_ids, attention_mask
        num_rows, num_tokens = ids_BT.shape
        embedded_BTH = functional.embedding(ids_BT, self.words) + self._position_embeddings(ids_BT)
        x_NH = self._embedded(embedded_BTH, token_type_ids).view(num_rows * num_tokens, -1)
        bias = None if mask_BT is None else _attention_bias(mask_BT, x_NH.dtype)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return self._attend_padded(q, k, v, num_rows, bias)

        for layer in self.layers[:-1]:
            x_NH = layer(x_NH, x_NH, attend)
        last = self.layers[-1]
        if self.reads_first_token:
            first_BH = last(x_NH.view(num_rows, num_tokens, -1)[:, 0], x_NH, attend)
            return self._outputs(first_BH[:, None], None)
        return self._outputs(last(x_NH, x_NH, attend).view(num_rows, num_tokens, -1), mask_BT)

    def forward_packed(
        self,
        ids_N: Tensor,
        starts: Tensor,
        types_N: Tensor | None = None,
        *,
        longest: int,
        attend: VariableAttention,
    ) -> Tensor:
        """The same of rows that lie one behind the other, without padding until the head, which gets them padded.

        `starts` has B + 1 values, int32: where each row begins, and N.
        """
        embedded_NH = functional.embedding(ids_N, self.words) + functional.embedding(
            self._packed_positions(ids_N, starts), self.positions
        )
        x_NH = self._embedded(embedded_NH, types_N)

        def attend_all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return self._attend_packed(q, k, v, starts, starts, longest, longest, attend)

        def attend_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            ones = torch.arange(len(starts), dtype=torch.int32, device=starts.device)
            return self._attend_packed(q, k, v, ones, starts, 1, longest, attend)

        for layer in self.layers[:-1]:
            x_NH = layer(x_NH, x_NH, attend_all)
        last = self.layers[-1]
        if self.reads_first_token:
            return self._outputs(last(x_NH[starts[:-1]], x_NH, attend_first)[:, None], None)
        return self._outputs(*_padded(last(x_NH, x_NH, attend_all), starts, longest))

    def _embedded(self, embedded: Tensor, types: Tensor | None) -> Tensor:
        if types is not None:
            embedded = embedded + functional.embedding(types, self.types)
        x: Tensor = self.projection(self.norm(embedded))
        return x

    def _outputs(self, hidden_BTH: Tensor, mask_BT: Tensor | None) -> Tensor:
        """What the head gives, in the dtype of its weights; in float32 where it has none."""
        dtype = next((each.dtype for each in self.head.parameters()), torch.float32)
        # Where it is that already, a cast would be one more node of a graph that is converted.
        given = hidden_BTH if hidden_BTH.dtype == dtype else hidden_BTH.to(dtype)
        outputs: Tensor = self.head(given, mask_BT)
        return outputs

    def _position_embeddings(self, ids_BT: Tensor) -> Tensor:
        if self.padding_positions is None:
            return self.positions[: ids_BT.shape[1]]
        is_token = (ids_BT != self.padding_positions).to(torch.int64)
        return functional.embedding(torch.cumsum(is_token, dim=1) * is_token + self.padding_positions, self.positions)

    def _packed_positions(self, ids_N: Tensor, starts: Tensor) -> Tensor:
        counted_N = (
            torch.ones_like(ids_N) if self.padding_positions is None else (ids_N != self.padding_positions).long()
        )
        before_N = torch.cumsum(counted_N, dim=0)
        before_row = (before_N - counted_N)[starts[:-1].long()]
        in_row_N = before_N - torch.repeat_interleave(before_row, starts.diff().long(), output_size=len(ids_N))
        return in_row_N - 1 if self.padding_positions is None else in_row_N * counted_N + self.padding_positions

    def _attend_padded(self, q: Tensor, k: Tensor, v: Tensor, num_rows: int, bias: Tensor | None) -> Tensor:
        """`q` may have one token a row, or T as `k` and `v`; all have their rows one behind the other."""
        q, k, v = (
            x.unflatten(0, (num_rows, -1)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v)
        )
        context_BKTD = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return context_BKTD.transpose(1, 2).flatten(2).flatten(0, 1)

    def _attend_packed(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        query_starts: Tensor,
        key_starts: Tensor,
        most_queries: int,
        most_keys: int,
        attend: VariableAttention,
    ) -> Tensor:
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)) for x in (q, k, v))
        return attend(q, k, v, query_starts, key_starts, most_queries, most_keys, scale=1.0).flatten(1)


class VariableAttention(Protocol):
    """As `torch.nn.attention.varlen.varlen_attn`: q, k, v NKD, where rows start in q and in k, the longest of each."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        scale: float,
    ) -> Tensor: ...


class _Layer(nn.Module):
    """One encoder layer. Queries come from `asking_MH`: all tokens, or in the last layer each row's first token alone;
    keys and values come from all N tokens."""

    def __init__(self, layer: Layer, num_heads: int) -> None:
        super().__init__()
        self.query = _scaled(layer.query, (layer.query.out_features // num_heads) ** -0.5)
        self.key, self.value = layer.key, layer.value
        self.out, self.out_norm = layer.out, layer.out_norm
        self.up, self.down, self.down_norm = layer.up, layer.down, layer.down_norm
        self.activation = layer.activation

    def forward(self, asking_MH: Tensor, x_NH: Tensor, attend: Attention) -> Tensor:
        context_MH = attend(self.query(asking_MH), self.key(x_NH), self.value(x_NH))
        x_MH = self.out_norm(self.out(context_MH) + asking_MH)
        x: Tensor = self.down_norm(self.down(self.activation(self.up(x_MH))) + x_MH)
        return x


def _attention_bias(mask_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """B11T, nothing for tokens and minus infinity for padding."""
    return torch.zeros(mask_BT.shape, dtype=dtype, device=mask_BT.device).masked_fill(mask_BT == 0, -torch.inf)[
        :, None, None
    ]


def _padded(x_NH: Tensor, starts: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Rows side by side, BTH, and which of it they are, BT; a GPU need not be waited for."""
    lengths_B = starts.diff().long()
    num_rows, num_tokens = len(lengths_B), len(x_NH)
    row_N = torch.repeat_interleave(torch.arange(num_rows, device=x_NH.device), lengths_B, output_size=num_tokens)
    column_N = torch.arange(num_tokens, device=x_NH.device) - starts[:-1].long()[row_N]
    padded_BTH = x_NH.new_zeros(num_rows, longest, x_NH.shape[1])
    padded_BTH[row_N, column_N] = x_NH
    return padded_BTH, (torch.arange(longest, device=x_NH.device) < lengths_B[:, None]).long()


def _with_type_0(body: Body) -> Tensor:
    positions = body.positions.weight
    return positions if body.types is None else positions + body.types.weight[0]


def _beside_type_0(types: nn.Embedding) -> Tensor:
    """What is added to a token of each type, where all tokens have what type 0 adds already."""
    return types.weight - types.weight[0]


def _scaled(linear: nn.Linear, factor: float) -> nn.Linear:
    scaled = nn.Linear(linear.in_features, linear.out_features, device="meta")
    scaled.weight = nn.Parameter(factor * linear.weight, requires_grad=False)
    scaled.bias = nn.Parameter(factor * linear.bias, requires_grad=False)
    return scaled
