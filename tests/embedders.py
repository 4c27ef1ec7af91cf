"""Tiny encoders with random weights, bare or as sentence-transformers saves them in one of its releases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from tests.checkpoints import NUM_POSITIONS, save_tokenizer

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_WIDE = {"max_position_embeddings": NUM_POSITIONS, "initializer_range": 0.3}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {**_SMALL, **_WIDE},
    "roberta": {**_SMALL, **_WIDE, "max_position_embeddings": NUM_POSITIONS + 2, "type_vocab_size": 1},
    "mpnet": {**_SMALL, **_WIDE, "max_position_embeddings": NUM_POSITIONS + 2},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "initializer_factor": 3.0},
    "qwen3": {**_SMALL, **_WIDE, "num_key_value_heads": 2, "head_dim": 8},
}
"""MPNet is as BERT with positions by distance too, T5 has a decoder that embeddings leave out, Qwen3 is one."""
LEFT = {"qwen3"}
"""Architectures whose tokenizers pad at the left."""

OLD = "sentence_transformers.models."
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
"""The classes of modules as releases since 5.4 write them."""


def save_encoder(folder: Path, architecture: str, *, head: str = "AutoModel", **options: Any) -> Path:
    """A checkpoint without anything of sentence-transformers'; `options` are the tokenizer's."""
    side = {"padding_side": "left"} if architecture in LEFT else {}
    tokenizer = save_tokenizer(folder, "wordpiece" if architecture == "bert" else "bpe", **side, **options)
    config = transformers.AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **ENCODERS[architecture],
    )
    torch.manual_seed(0)
    getattr(transformers, head).from_config(config).save_pretrained(folder)
    return folder


def save_embedder(
    folder: Path,
    architecture: str = "bert",
    *,
    pooling: dict[str, Any] | None = None,
    then: tuple[str, ...] = ("Normalize",),
    transformer: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    is_new: bool = False,
) -> Path:
    """As `SentenceTransformer.save_pretrained` leaves it; `then` are the modules after the pooling."""
    save_encoder(folder, architecture)
    kinds = ["Transformer", "Pooling", *then]
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds) if i)]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": NEW[kind] if is_new else OLD + kind}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    write_json(folder / "modules.json", modules)
    write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False} | (transformer or {})
    )
    if settings is not None:
        write_json(folder / "config_sentence_transformers.json", settings)
    of_release = NEW_MEAN if is_new else OLD_MEAN
    write_json(folder / "1_Pooling" / "config.json", of_release if pooling is None else pooling)
    for kind, path in zip(kinds, paths, strict=True):
        if kind == "Dense":
            save_dense(folder / path)
    return folder


OLD_MEAN = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
NEW_MEAN = {"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": True}


def save_dense(folder: Path, *, num_inputs: int = 32, num_outputs: int = 16, **facts: Any) -> Path:
    sizes = {"in_features": num_inputs, "out_features": num_outputs, "bias": True}
    activation = {"activation_function": "torch.nn.modules.activation.Tanh"}
    write_json(folder / "config.json", {**sizes, **activation, **facts})
    torch.manual_seed(1)
    layer = torch.nn.Linear(num_inputs, num_outputs)
    weights = {f"linear.{name}": each.detach() for name, each in layer.named_parameters()}
    if facts.get("use_residual"):
        weights["residual.weight"] = torch.nn.Linear(num_inputs, num_outputs, bias=False).weight.detach()
    save_file(weights, folder / "model.safetensors")
    return folder


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
