"""BERT and its relatives, computed with less work: the same weights, the same answers.

A classifier's head reads the first token alone. So in the last layer only that
token asks, and passes the feed-forward part; the others lend it their keys and
values. The scale of attention lies in the query's weights, and token type 0 in
the position embeddings. Which models have this shape is told by their type, and
shown by a probe: `rewrite` keeps a model as it is unless both agree.

Shapes: B rows of a batch, T tokens of the longest, N tokens of all rows, M of
them that ask, H hidden size, K heads, D size of a head, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from tidemill.checkpoints.loading import max_positions
from tidemill.encoding.batching import ANY_LENGTHS
from tidemill.engines.probing.rows import num_parameters
from tidemill.engines.probing.truth import Truth, examine, on_arrays

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """One layer's modules, by what they do."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear
    out_norm: nn.LayerNorm
    up: nn.Linear
    activation: Callable[[Tensor], Tensor]
    down: nn.Linear
    down_norm: nn.LayerNorm


@dataclass(frozen=True)
class Parts:
    """What a model of this shape is made of.

    `head` takes the first tokens BH, in the dtype of its weights, which may be another
    than the rest's. `padding_positions` is the pad token's id where positions are counted from it
    and skip it, as RoBERTa's are; else None.
    """

    words: nn.Embedding
    positions: nn.Embedding
    types: nn.Embedding | None
    norm: nn.LayerNorm
    projection: nn.Linear | None
    layers: list[Layer]
    num_heads: int
    head: nn.Module
    padding_positions: int | None = None


class Encoder(nn.Module):
    """A classifier made of `Parts`."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.num_heads = parts.num_heads
        self.padding_positions = parts.padding_positions
        self.words = nn.Parameter(parts.words.weight, requires_grad=False)
        self.positions = nn.Parameter(_with_type_0(parts), requires_grad=False)
        self.norm = parts.norm
        self.projection: nn.Module = parts.projection or nn.Identity()
        self.layers = nn.ModuleList(_Layer(layer, parts.num_heads) for layer in parts.layers)
        self.head = parts.head

    @property
    def most_tokens(self) -> int:
        """Of a row: positions before the first token's are not for text."""
        return len(self.positions) - (0 if self.padding_positions is None else self.padding_positions + 1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits BC. The mask is 1 for tokens and 0 for padding; None where nothing is padded."""
        ids_BT, mask_BT = input_ids, attention_mask
        num_rows, num_tokens = ids_BT.shape
        embedded_BTH = functional.embedding(ids_BT, self.words) + self._position_embeddings(ids_BT)
        x_NH = self.projection(self.norm(embedded_BTH)).view(num_rows * num_tokens, -1)
        bias = None if mask_BT is None else _attention_bias(mask_BT, x_NH.dtype)
        for layer in self.layers[:-1]:
            x_NH = layer(x_NH, x_NH, lambda q, k, v: self._attend_padded(q, k, v, num_rows, bias))
        first_BH = x_NH.view(num_rows, num_tokens, -1)[:, 0]
        x_BH = self.layers[-1](first_BH, x_NH, lambda q, k, v: self._attend_padded(q, k, v, num_rows, bias))
        logits_BC: Tensor = self.head(self._for_head(x_BH))
        return logits_BC

    def forward_packed(self, ids_N: Tensor, starts: Tensor, *, longest: int, attend: VariableAttention) -> Tensor:
        """Logits BC of rows that lie one behind the other, without padding.

        `starts` has B + 1 values, int32: where each row begins, and N.
        """
        embedded_NH = functional.embedding(ids_N, self.words) + functional.embedding(
            self._packed_positions(ids_N, starts), self.positions
        )
        x_NH = self.projection(self.norm(embedded_NH))
        for layer in self.layers[:-1]:
            x_NH = layer(
                x_NH, x_NH, lambda q, k, v: self._attend_packed(q, k, v, starts, starts, longest, longest, attend)
            )
        first_BH = x_NH[starts[:-1]]
        ones = torch.arange(len(starts), dtype=torch.int32, device=starts.device)
        x_BH = self.layers[-1](
            first_BH, x_NH, lambda q, k, v: self._attend_packed(q, k, v, ones, starts, 1, longest, attend)
        )
        logits_BC: Tensor = self.head(self._for_head(x_BH))
        return logits_BC

    def _for_head(self, x_BH: Tensor) -> Tensor:
        dtype = next(self.head.parameters()).dtype
        # Where it is that already, a cast would be one more node of a graph that is converted.
        return x_BH if x_BH.dtype == dtype else x_BH.to(dtype)

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


class _OfSequence(nn.Module):
    """A head that takes BTH and reads the first token, given that token alone."""

    def __init__(self, *head: nn.Module) -> None:
        super().__init__()
        self.head = nn.Sequential(*head)

    def forward(self, first_BH: Tensor) -> Tensor:
        logits_BC: Tensor = self.head(first_BH[:, None])
        return logits_BC


def _attention_bias(mask_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """B11T, nothing for tokens and minus infinity for padding."""
    return torch.zeros(mask_BT.shape, dtype=dtype, device=mask_BT.device).masked_fill(mask_BT == 0, -torch.inf)[
        :, None, None
    ]


def _with_type_0(parts: Parts) -> Tensor:
    positions = parts.positions.weight
    return positions if parts.types is None else positions + parts.types.weight[0]


def _scaled(linear: nn.Linear, factor: float) -> nn.Linear:
    scaled = nn.Linear(linear.in_features, linear.out_features, device="meta")
    scaled.weight = nn.Parameter(factor * linear.weight, requires_grad=False)
    scaled.bias = nn.Parameter(factor * linear.bias, requires_grad=False)
    return scaled


def _bert(model: Any) -> Parts:
    return _bert_like(model, model.bert, _OfSequence(model.bert.pooler, model.classifier))


def _roberta(model: Any) -> Parts:
    return _bert_like(model, model.roberta, _OfSequence(model.classifier), skips_padding=True)


def _electra(model: Any) -> Parts:
    return _bert_like(model, model.electra, _OfSequence(model.classifier))


def _bert_like(model: Any, base: Any, head: nn.Module, *, skips_padding: bool = False) -> Parts:
    embeddings = base.embeddings
    return Parts(
        words=embeddings.word_embeddings,
        positions=embeddings.position_embeddings,
        types=embeddings.token_type_embeddings,
        norm=embeddings.LayerNorm,
        projection=getattr(base, "embeddings_project", None),
        layers=[
            Layer(
                query=layer.attention.self.query,
                key=layer.attention.self.key,
                value=layer.attention.self.value,
                out=layer.attention.output.dense,
                out_norm=layer.attention.output.LayerNorm,
                up=layer.intermediate.dense,
                activation=layer.intermediate.intermediate_act_fn,
                down=layer.output.dense,
                down_norm=layer.output.LayerNorm,
            )
            for layer in base.encoder.layer
        ],
        num_heads=model.config.num_attention_heads,
        head=head,
        padding_positions=model.config.pad_token_id if skips_padding else None,
    )


def _distilbert(model: Any) -> Parts:
    base = model.distilbert
    return Parts(
        words=base.embeddings.word_embeddings,
        positions=base.embeddings.position_embeddings,
        types=None,
        norm=base.embeddings.LayerNorm,
        projection=None,
        layers=[
            Layer(
                query=layer.attention.q_lin,
                key=layer.attention.k_lin,
                value=layer.attention.v_lin,
                out=layer.attention.out_lin,
                out_norm=layer.sa_layer_norm,
                up=layer.ffn.lin1,
                activation=layer.ffn.activation,
                down=layer.ffn.lin2,
                down_norm=layer.output_layer_norm,
            )
            for layer in base.transformer.layer
        ],
        num_heads=model.config.n_heads,
        head=nn.Sequential(model.pre_classifier, nn.ReLU(), model.classifier),
    )


_PARTS: dict[str, Callable[[Any], Parts]] = {
    "bert": _bert,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
    "camembert": _roberta,
    "electra": _electra,
    "distilbert": _distilbert,
}


def rewrite(model: PreTrainedModel, truth: Truth | None = None) -> Encoder | None:
    """The same classifier as an `Encoder`, if its type is known and it answers a probe alike in float32; else None.

    The model has float32 weights on the CPU. The encoder shares them, but for the query's. `truth` is what the model
    answers, where that is known already.
    """
    parts_of = _PARTS.get(model.config.model_type)
    if parts_of is None or not type(model).__name__.endswith("ForSequenceClassification"):
        return None
    # No width is special to these models.
    truth = (truth or examine(model, longest=max_positions(model.config))).of_short_rows()
    try:
        with torch.no_grad():
            encoder = Encoder(parts_of(model)).eval()
        answer = on_arrays(lambda tensors: encoder(**tensors), num_parameters=num_parameters(model))
        agrees = bool(truth.answers) and truth.holds_for(answer, ANY_LENGTHS)
    except (AttributeError, TypeError, ValueError, RuntimeError):  # a relative of these families, of another make
        return None
    return encoder if agrees else None
