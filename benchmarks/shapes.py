"""Models of the shapes that people use, with random weights, built from their configurations: speed, not sense.

They have tiny-sentiment's tokenizer. Their head is centred on the sample
e-mails, so that about half of those fall on each side and labels can differ.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from benchmarks.corpora import MAX_LENGTH, TINY_SENTIMENT, emails

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "distilbert-base": ("distilbert", {}),
    "bert-base": ("bert", {}),
    "modernbert-base": ("modernbert", {}),
}
NUM_CENTRING_ROWS = 32
SPREAD_OF_WEIGHTS = 0.05
"""Twice what training starts from, so that a text's words reach its head."""


def model_folder(name: str, home: Path) -> Path:
    """The folder of a model by name, made in `home` if it is none of the bundled ones."""
    if name == TINY_SENTIMENT.name:
        return TINY_SENTIMENT
    folder = home / name
    if not (folder / "config.json").exists():
        unfinished = home / f"{name}.partial"
        shutil.rmtree(unfinished, ignore_errors=True)
        _make(name, unfinished)
        unfinished.rename(folder)
    return folder


def _make(name: str, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    kind, options = SHAPES[name]
    torch.manual_seed(0)
    labels = {0: "NEGATIVE", 1: "POSITIVE"}
    config = AutoConfig.for_model(
        kind,
        **options,
        initializer_range=SPREAD_OF_WEIGHTS,
        id2label=labels,
        label2id={label: i for i, label in labels.items()},
        pad_token_id=0,
    )
    model = AutoModelForSequenceClassification.from_config(config).eval()
    tokenizer = AutoTokenizer.from_pretrained(TINY_SENTIMENT, local_files_only=True)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    _centre(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _centre(model: Any, tokenizer: Any) -> None:
    """Shift and stretch the head's outputs to a mean of 0 and a deviation of 1 over a few e-mails."""
    import torch

    texts = emails(NUM_CENTRING_ROWS).to_pylist()
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH // 4, return_tensors="pt")
    with torch.inference_mode():
        logits_BC = model(**inputs).logits
    head = model.classifier
    with torch.no_grad():
        scale_C = 1 / logits_BC.std(dim=0).clamp_min(1e-6)
        head.weight.mul_(scale_C[:, None])
        head.bias.sub_(logits_BC.mean(dim=0)).mul_(scale_C)
