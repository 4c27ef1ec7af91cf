"""Tiny checkpoints of natural language inference: random weights, real tokenizers."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from tests.checkpoints import ARCHITECTURES, NUM_POSITIONS, save_tokenizer

AS_THE_PIPELINE_HAS_THEM = ("contradiction", "neutral", "entailment")
_OF_A_PART = {"layers": 2, "attention_heads": 4, "ffn_dim": 64}
SIZES = {
    **ARCHITECTURES,
    "deberta-v2": {**ARCHITECTURES["bert"], "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "bart": {
        "d_model": 32,
        **{f"{part}_{size}": n for part in ("encoder", "decoder") for size, n in _OF_A_PART.items()},
        "max_position_embeddings": NUM_POSITIONS,
        "init_std": 0.3,
    },
}
KINDS = {"bert": "types", "distilbert": "wordpiece", "deberta-v2": "types", "roberta": "bpe", "bart": "bpe"}
"""How each architecture's texts are tokenized: `types` is by word pieces whose types the model is given."""


def save_nli(folder: Path, architecture: str, classes: tuple[str, ...] = AS_THE_PIPELINE_HAS_THEM) -> Path:
    """`classes` are the names of the model's outputs."""
    kind = KINDS[architecture]
    types = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]} if kind == "types" else {}
    tokenizer = save_tokenizer(folder, "bpe" if kind == "bpe" else "wordpiece", **types)
    config = transformers.AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
        id2label=dict(enumerate(classes)),
        label2id={name: i for i, name in enumerate(classes)},
        **SIZES[architecture],
    )
    torch.manual_seed(0)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder
