"""The base as a model to be trained, and the trained one as a folder that answers as it does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from tidemill.checkpoints.files import MODEL_FILES, matching, refuse_weights
from tidemill.checkpoints.loading import opening
from tidemill.errors import InvariantBroken
from tidemill.training.examples.labels import PROBLEM_TYPES, Outputs
from tidemill.training.examples.rows import Lesson
from tidemill.training.given.file import MethodSection
from tidemill.training.tasks.batches import Inputs, logits_of
from tidemill.training.tasks.heads import last_layer

TOLERANCE = 1e-3
"""Between logits of one model, in the unit of the largest."""


def load_model(lesson: Lesson, auto_class: str, outputs: Outputs, seed: int) -> Any:
    """The base in float32, whatever it is stored in, with outputs by name; those that are new have random weights."""
    folder, spec = lesson.base.folder, lesson.base.spec
    refuse_weights(matching(folder, ["*"]), str(folder))
    names = dict(enumerate(outputs.names))
    transformers.set_seed(seed)
    with opening(f"The model in {folder}"):
        model = getattr(transformers, auto_class).from_pretrained(
            folder.absolute(),
            num_labels=len(names),
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=spec.trust_remote_code,
            local_files_only=True,
        )
    model.config.id2label, model.config.label2id = names, {name: i for i, name in names.items()}
    model.config.problem_type = PROBLEM_TYPES[outputs.kind] if auto_class.endswith("SequenceClassification") else None
    model.config.use_cache = False
    if outputs.of_base is None:
        layer = last_layer(model)[1]
        nn.init.normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    if model.config.get_text_config().pad_token_id is None:
        model.config.get_text_config().pad_token_id = pad_id(lesson)
    return model


def write_checked(model: Any, lesson: Lesson, folder: Path, inputs: Inputs, logits: Any) -> None:
    """Write a model and its tokenizer, and see whether it answers the first rows as it does in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    model.eval().save_pretrained(folder)
    copy_tokenizer(lesson.base.tokenizer, folder)
    some = {name: values[: len(logits)] for name, values in inputs.items()}
    with opening(f"The model in {folder}"):
        afresh = type(model).from_pretrained(folder.absolute(), dtype=torch.float32, local_files_only=True)
    again = logits_of(afresh, some, pad_id(lesson))
    apart = max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(again, logits, strict=True))
    if not apart <= TOLERANCE * max(1.0, max(float(np.abs(row).max()) for row in logits)):
        raise InvariantBroken(
            f"The model that was written does not answer as the one that was trained: logits differ by {apart:.4g}. "
            "No folder is left. Try another method.type, and report this with the base's name."
        )


def copy_tokenizer(source: Path, folder: Path) -> None:
    """All that a tokenizer is read of, as it is."""
    for name in matching(source, [pattern for pattern in MODEL_FILES if pattern != "*.safetensors"]):
        if name not in ("config.json", "generation_config.json", "model.safetensors.index.json"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)


def pad_id(lesson: Lesson) -> int:
    return lesson.base.config.get_text_config().pad_token_id or 0


def with_adapters(model: Any, method: MethodSection, task_type: str) -> Any:
    """With small matrices beside the model's own, which learn while those stay (LoRA); a head learns as a whole."""
    from peft import LoraConfig, TaskType, get_peft_model

    whole = [
        name
        for name, child in model.named_children()
        if name != model.base_model_prefix and any(True for _ in child.parameters())
    ]
    has_head = task_type not in ("CAUSAL_LM", "FEATURE_EXTRACTION")
    facts: dict[str, Any] = {"modules_to_save": whole} if has_head else {}
    config = LoraConfig(
        r=method.lora_rank,
        lora_alpha=method.lora_alpha,
        lora_dropout=method.lora_dropout,
        target_modules="all-linear",
        task_type=TaskType[task_type],
        **facts,
    )
    return get_peft_model(model, config)


def merged(learning: Any) -> Any:
    """The model with what it learned in its own weights, trained head included."""
    return learning.merge_and_unload()
