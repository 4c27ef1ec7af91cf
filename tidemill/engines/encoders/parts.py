"""What a model of BERT's shape is made of, family by family and head by head.

Shapes: B rows of a batch, T tokens of the longest, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from tidemill.checkpoints.embeddings.embedder import Embedder


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
class Body:
    """All but the head.

    `padding_positions` is the pad token's id where positions are counted from it and skip it, as RoBERTa's are; else
    None.
    """

    words: nn.Embedding
    positions: nn.Embedding
    types: nn.Embedding | None
    norm: nn.LayerNorm
    projection: nn.Linear | None
    layers: list[Layer]
    num_heads: int
    padding_positions: int | None = None


@dataclass(frozen=True)
class Head:
    """Takes what the last layer gives, BTH, and the mask BT, or None where nothing is padded. One that reads the first
    token alone is given that, B1H.

    Its weights may have another dtype than the body's.
    """

    module: nn.Module
    reads_first_token: bool


@dataclass(frozen=True)
class Parts:
    body: Body
    head: Head


def parts_of(model: Any) -> Parts | None:
    """None for a type of model that is not known, and for one that is not made as its type is."""
    body_of, head_of = _BODIES.get(model.config.model_type), _head_of(model)
    if body_of is None or head_of is None:
        return None
    with suppress(AttributeError):
        return Parts(body_of(_base_of(model)), head_of(model))
    return None


def _base_of(model: Any) -> Any:
    """Transformers names the base model of each of its models, which of a bare one is itself."""
    return (model.encoder if isinstance(model, Embedder) else model).base_model


def _head_of(model: Any) -> Callable[[Any], Head] | None:
    if isinstance(model, Embedder):
        return lambda model: Head(model.head, model.head.reads_first_token)
    kind = type(model).__name__
    if kind.endswith("ForTokenClassification"):
        return lambda model: Head(_Unmasked(model.classifier), reads_first_token=False)
    return _CLASSIFIERS.get(model.config.model_type) if kind.endswith("ForSequenceClassification") else None


class _Unmasked(nn.Module):
    """A head that has no use for the mask, module by module."""

    def __init__(self, *head: nn.Module) -> None:
        super().__init__()
        self.head = nn.Sequential(*head)

    def forward(self, hidden_BTH: Tensor, mask_BT: Tensor | None) -> Tensor:
        outputs: Tensor = self.head(hidden_BTH)
        return outputs


class _FirstToken(nn.Module):
    def forward(self, hidden_BTH: Tensor) -> Tensor:
        return hidden_BTH[:, 0]


def _of_first_token(*head: nn.Module) -> Head:
    return Head(_Unmasked(*head), reads_first_token=True)


_CLASSIFIERS: dict[str, Callable[[Any], Head]] = {
    "bert": lambda model: _of_first_token(model.bert.pooler, model.classifier),
    "roberta": lambda model: _of_first_token(model.classifier),
    "xlm-roberta": lambda model: _of_first_token(model.classifier),
    "camembert": lambda model: _of_first_token(model.classifier),
    "electra": lambda model: _of_first_token(model.classifier),
    "distilbert": lambda model: _of_first_token(_FirstToken(), model.pre_classifier, nn.ReLU(), model.classifier),
}


def _bert(base: Any) -> Body:
    embeddings = base.embeddings
    return Body(
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
        num_heads=base.config.num_attention_heads,
    )


def _roberta(base: Any) -> Body:
    return replace(_bert(base), padding_positions=base.config.pad_token_id)


def _distilbert(base: Any) -> Body:
    return Body(
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
        num_heads=base.config.n_heads,
    )


_BODIES: dict[str, Callable[[Any], Body]] = {
    "bert": _bert,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
    "camembert": _roberta,
    "electra": _bert,
    "distilbert": _distilbert,
}
