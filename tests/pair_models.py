"""Tiny models that read pairs of texts, with random weights, and tokenizers that join two texts in every way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import processors

from tests.checkpoints import ARCHITECTURES, HEADS, NUM_POSITIONS, save_tokenizer

WITH_TYPES = ["input_ids", "token_type_ids", "attention_mask"]
POST_PROCESSORS = {
    "bert": None,
    "roberta": None,
    "xlnet": processors.TemplateProcessing(
        single="$A:0 [SEP]:0 [CLS]:2",
        pair="$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2",
        special_tokens=[("[SEP]", 3), ("[CLS]", 2)],
    ),
    "t5": processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]),
    "llama": processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 0)]),
    "gpt2": processors.ByteLevel(trim_offsets=False),
}
_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_WIDE = {"max_position_embeddings": NUM_POSITIONS, "initializer_range": 0.3}
PAIR_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", ARCHITECTURES["bert"]),
    "electra": ("bert", {**_SMALL, **_WIDE, "embedding_size": 32}),
    "deberta-v2": ("bert", {**_SMALL, **_WIDE, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "xlnet": (
        "xlnet",
        {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "initializer_range": 0.3, "mem_len": None},
    ),
    "distilbert": ("bert", ARCHITECTURES["distilbert"]),
    "roberta": ("roberta", ARCHITECTURES["roberta"]),
    "gpt2": ("gpt2", ARCHITECTURES["gpt2"]),
}
"""The tokenizer's kind, and the sizes. DistilBERT and DeBERTa are given types of tokens that they do not tell apart."""


def save_pair_tokenizer(folder: Path, kind: str, **options: Any) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer that puts two texts together as a model of that kind has it."""
    is_wordpiece = kind in ("bert", "xlnet")
    if is_wordpiece:
        options = {"model_input_names": WITH_TYPES, **options}
    tokenizer = save_tokenizer(folder, "wordpiece" if is_wordpiece else "bpe", **options)
    if (post_processor := POST_PROCESSORS[kind]) is not None:
        backend = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.post_processor = post_processor
        backend.save(str(folder / "tokenizer.json"))
    return tokenizer


def save_pair_model(folder: Path, architecture: str, head: str, **config: Any) -> Path:
    """A classifier of that architecture, with a head as `tests.checkpoints` has them."""
    kind, sizes = PAIR_MODELS[architecture]
    tokenizer = save_pair_tokenizer(folder, kind)
    made = transformers.AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **{**sizes, **HEADS[head], **config},
    )
    torch.manual_seed(0)
    transformers.AutoModelForSequenceClassification.from_config(made).save_pretrained(folder)
    return folder
