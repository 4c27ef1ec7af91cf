"""Tiny checkpoints in Transformers' format: random weights, real tokenizers trained on the sample reviews."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

DATA = Path(__file__).parents[1] / "data"
TINY_SENTIMENT = DATA / "models" / "tiny-sentiment"
NUM_POSITIONS = 64

HEADS: dict[str, dict[str, Any]] = {
    "two labels": {"id2label": {0: "NEGATIVE", 1: "POSITIVE"}},
    "five labels": {"id2label": dict(enumerate(["awful", "bad", "fair", "good", "great"]))},
    "multi-label": {
        "id2label": dict(enumerate(["toxic", "rude", "threat", "spam"])),
        "problem_type": "multi_label_classification",
    },
    "regression": {"id2label": {0: "rating"}, "problem_type": "regression"},
    "two regressions": {"id2label": {0: "valence", 1: "arousal"}, "problem_type": "regression"},
    "one output": {"id2label": {0: "spam"}},
}

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": NUM_POSITIONS, "initializer_range": 0.3}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": {**_SMALL, "intermediate_size": 64, "max_position_embeddings": NUM_POSITIONS},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": NUM_POSITIONS},
    "roberta": {**_SMALL, "intermediate_size": 64, "max_position_embeddings": NUM_POSITIONS + 2, "type_vocab_size": 1},
    "gpt2": _GPT2,
}


@functools.cache
def reviews(num: int) -> list[str]:
    table = pq.read_table(DATA / "reviews" / "reviews-00000-of-00008.parquet", columns=["text"])
    return table["text"].to_pylist()[:num]


def save_checkpoint(folder: Path, architecture: str, head: str) -> Path:
    tokenizer = save_tokenizer(folder, "wordpiece" if architecture in ("bert", "distilbert") else "bpe")
    config = transformers.AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **ARCHITECTURES[architecture],
        **HEADS[head],
    )
    torch.manual_seed(0)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


def save_tokenizer(folder: Path, kind: str, **options: Any) -> transformers.PreTrainedTokenizerFast:
    backend = _wordpiece() if kind == "wordpiece" else _byte_level_bpe()
    special = (
        {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        if kind == "wordpiece"
        else {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>"}
    )
    options = {"model_max_length": NUM_POSITIONS, **special, **options}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **options)
    tokenizer.save_pretrained(folder)
    return tokenizer


@functools.cache
def _wordpiece() -> Tokenizer:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=600, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    backend.train_from_iterator(reviews(500), trainer)
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return backend


@functools.cache
def _byte_level_bpe() -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(reviews(500), trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return backend
