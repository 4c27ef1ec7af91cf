"""Tiny token classifiers with random weights, and the tokenizers that such models come with."""

from __future__ import annotations

import functools
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tests.checkpoints import NUM_POSITIONS, reviews, save_tokenizer

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
PLAIN = ("O", "PER", "LOC", "first-name")
BIOES = ("O", *(f"{prefix}-{kind}" for kind in ("PER", "LOC") for prefix in "BIES"))
BILOU = ("O", *(f"{prefix}-{kind}" for kind in ("PER", "LOC") for prefix in "BILU"))
SCHEMES = {"BIO": BIO, "plain": PLAIN, "BIOES": BIOES, "BILOU": BILOU}

WRITTEN_WITH = ("O", "NUMBER", "SIGN")

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3}
_BERT = {**_SMALL, "intermediate_size": 64, "max_position_embeddings": NUM_POSITIONS}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("wordpiece", _BERT),
    "roberta": ("bpe", {**_BERT, "max_position_embeddings": NUM_POSITIONS + 2, "type_vocab_size": 1}),
    "xlm-roberta": ("unigram", {**_BERT, "max_position_embeddings": NUM_POSITIONS + 2, "type_vocab_size": 1}),
    "distilbert": (
        "wordpiece",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": NUM_POSITIONS},
    ),
    "deberta-v2": ("unigram", {**_BERT, "relative_attention": True, "position_biased_input": False}),
}
"""The tokenizer of each, and its size."""


def save_token_classifier(folder: Path, architecture: str, labels: Sequence[str] = BIO, **options: Any) -> Path:
    kind, sizes = ARCHITECTURES[architecture]
    tokenizer = save_any_tokenizer(folder, kind)
    config = transformers.AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        id2label=dict(enumerate(labels)),
        **{**sizes, **options},
    )
    torch.manual_seed(0)
    transformers.AutoModelForTokenClassification.from_config(config).save_pretrained(folder)
    return folder


def save_sure_classifier(folder: Path) -> Path:
    """One that knows numbers and signs by a dimension of their own, and is as sure of them as real models are.

    Labels of random weights are near each other, and 16 bits tell many of them otherwise.
    """
    save_token_classifier(folder, "bert", WRITTEN_WITH, hidden_size=64, initializer_range=0.05)
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32)
    words, head = model.base_model.embeddings.word_embeddings.weight.data, model.classifier
    for token, i in transformers.AutoTokenizer.from_pretrained(folder).get_vocab().items():
        if label := _written_with(token):
            words[i, label] += 1
    head.weight.data = 3 * torch.eye(*head.weight.shape)
    head.weight.data[0], head.bias.data[0] = 0, 10
    model.save_pretrained(folder)
    return folder


def _written_with(token: str) -> int:
    return 1 if token.isnumeric() else 2 if token in string.punctuation else 0


def save_any_tokenizer(folder: Path, kind: str, **options: Any) -> transformers.PreTrainedTokenizerFast:
    if kind != "unigram":
        return save_tokenizer(folder, kind, **options)
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=_unigram(), **{"model_max_length": NUM_POSITIONS, **special, **options}
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


@functools.cache
def _unigram() -> Tokenizer:
    """As XLM-R's: spaces become part of the words that they are before."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=600, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(reviews(500), trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return backend
