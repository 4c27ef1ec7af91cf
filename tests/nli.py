"""Tiny checkpoints of natural language inference: random weights, real tokenizers."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from tests.checkpoints import ARCHITECTURES, save_tokenizer

AS_THE_PIPELINE_HAS_THEM = ("contradiction", "neutral", "entailment")
SIZES = {
    **ARCHITECTURES,
    "deberta-v2": {**ARCHITECTURES["bert"], "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
}
KINDS = {"bert": "types", "distilbert": "wordpiece", "deberta-v2": "types", "roberta": "bpe", "gpt2": "bpe"}
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
        id2label=dict(enumerate(classes)),
        label2id={name: i for i, name in enumerate(classes)},
        **SIZES[architecture],
    )
    torch.manual_seed(0)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder
