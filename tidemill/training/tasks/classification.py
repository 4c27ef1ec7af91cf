"""Text classification: one label a row, several, or a number; by all weights, by LoRA, or by the last layer alone.

Shapes: N rows, C outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from tidemill.checkpoints.files import matching, refuse_weights
from tidemill.checkpoints.loading import opening
from tidemill.errors import InvariantBroken
from tidemill.models.tasks.scores import labels_of
from tidemill.training.examples.labels import PROBLEM_TYPES, Kind, Outputs, cleaned, kind_of, settle_outputs
from tidemill.training.loop.trainer import CarefulTrainer
from tidemill.training.measures import classification as measuring
from tidemill.training.measures.temperature import fitted_temperature
from tidemill.training.tasks.heads import Head, copy_tokenizer, divide, features_of, last_layer
from tidemill.training.tasks.learner import Lesson
from tidemill.training.tasks.lora import merged, with_adapters

NUM_CHECKED = 8
TOLERANCE = 1e-3


class Classification:
    arguments_class = transformers.TrainingArguments

    def __init__(self, lesson: Lesson) -> None:
        """
        Raises:
            ConfigError: the labels cannot be learned, or do not fit the base's.
            ModelError: the base has no tokenizer, or cannot be loaded.
        """
        file, base = lesson.file, lesson.base
        self._lesson, self._method = lesson, file.method
        kind: Kind = kind_of(lesson.label_type) if file.kind == "auto" else file.kind
        both = cleaned([*lesson.train.labels, *lesson.held_out.labels], kind, file.data.labels)
        self.outputs: Outputs = settle_outputs(
            both, kind, labels_of(base.config), _kind_of_base(base.config), new_head=file.base.head == "new"
        )
        labels = self.outputs.encoded(both)
        self._train_labels, self._labels = labels[: len(lesson.train)], labels[len(lesson.train) :]
        self.best_by = measuring.BEST_BY[kind]
        self.greater_is_better = kind != "regression"
        self.arguments: dict[str, Any] = {}
        self._loss = _loss_of(kind, self._train_labels, len(self.outputs.names), file.method.class_weights)
        self._train_inputs = base.token_ids(lesson.train.texts, lesson.train.pairs)
        self._inputs = base.token_ids(lesson.held_out.texts, lesson.held_out.pairs)
        self._features: tuple[Any, Any] | None = None
        self.model: Any = None
        self._learning: Any = None

    @property
    def num_rows(self) -> int:
        return len(self._lesson.train)

    @property
    def notes(self) -> Sequence[str]:
        return self.outputs.notes

    def begin(self, seed: int) -> None:
        self.model = load_model(self._lesson, "AutoModelForSequenceClassification", self.outputs, seed)
        if self._method.type == "lora":
            self._learning = with_adapters(self.model, self._method, "SEQ_CLS")
        elif self._method.type == "head":
            if self._features is None:
                self._lesson.tell("computing what the encoder makes of each text")
                self._features = self._both_features()
            self._learning = Head(last_layer(self.model)[1], self._features[0], self._loss)
        else:
            self._learning = self.model

    def _both_features(self) -> tuple[Any, Any]:
        train, held_out = self._lesson.train, self._lesson.held_out
        pairs = None if train.pairs is None else [*train.pairs, *(held_out.pairs or [])]
        found = features_of(self.model, self._lesson.base, [*train.texts, *held_out.texts], pairs, self._lesson.work)
        return found[: len(train)], found[len(train) :]

    def trainer(self, arguments: Any) -> Any:
        collate: Any = stacked
        if self._features is None:
            collate = Padding(_pad_id(self._lesson))
        return CarefulTrainer(
            model=self._learning,
            args=arguments,
            train_dataset=self._dataset(self._train_inputs, self._features and self._features[0], self._train_labels),
            eval_dataset=self._dataset(self._inputs, self._features and self._features[1], self._labels),
            data_collator=collate,
            compute_metrics=lambda found: measuring.quick_measures(
                _plain(found.predictions), found.label_ids, self.outputs
            ),
            compute_loss_func=None if self._features is not None else self._loss_of_outputs,
        )

    def _loss_of_outputs(self, outputs: Any, labels: Any, **_: Any) -> Any:
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
        return self._loss(logits, labels)

    def _dataset(self, inputs: dict[str, list[Any]], features: Any, labels: Any) -> list[dict[str, Any]]:
        columns = {"features": features} if features is not None else inputs
        rows = zip(*columns.values(), labels, strict=True)
        return [dict(zip((*columns, "labels"), row, strict=True)) for row in rows]

    def measure(self) -> dict[str, Any]:
        return self._measures_of(self._logits())

    def _measures_of(self, logits_NC: Any) -> dict[str, Any]:
        slices, seed = self._lesson.held_out.slices, self._lesson.file.seed
        return measuring.measures(logits_NC, self._labels, self.outputs, slices, seed=seed)

    def baselines(self) -> dict[str, Any]:
        found = {"majority": measuring.majority(self._train_labels, self._labels, self.outputs)}
        if self.outputs.of_base is not None:
            self.model = load_model(self._lesson, "AutoModelForSequenceClassification", self.outputs, 0)
            whole = self._measures_of(logits_of(self.model, self._inputs, _pad_id(self._lesson)))
            found["base"] = {name: whole[name] for name in ("accuracy", "f1", "mean_absolute_error") if name in whole}
        return found

    def calibrate(self) -> float | None:
        """Of a regression there is none, nor of too few rows to tell."""
        self._settle()
        if self.outputs.kind == "regression" or not self._method.calibrate:
            return None
        temperature = fitted_temperature(self._logits(), self._labels)
        divide(last_layer(self.model)[1], temperature)
        return temperature

    def _settle(self) -> None:
        """Have `model` be whole again."""
        if self._method.type == "lora" and self._learning is not None:
            self.model = merged(self._learning)
        elif self._method.type == "head" and self._learning is not None:
            self._learning.into(last_layer(self.model)[1])
        self._learning = None

    def _logits(self) -> Any:
        if self._features is None:
            return logits_of(self._learning or self.model, self._inputs, _pad_id(self._lesson))
        layer = last_layer(self.model)[1] if self._learning is None else self._learning
        with torch.inference_mode():
            found = layer(torch.from_numpy(self._features[1]))
        return (found if self._learning is None else found["logits"]).numpy()

    def write(self, folder: Path) -> None:
        write_checked(self.model, self._lesson, folder, self._inputs, self._logits()[:NUM_CHECKED])


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
        model.config.get_text_config().pad_token_id = _pad_id(lesson)
    return model


def logits_of(model: Any, inputs: dict[str, list[Any]], pad_id: int, *, batch_size: int = 32) -> Any:
    """In order; batches are of rows alike in length."""
    lengths = [len(ids) for ids in inputs["input_ids"]]
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    collate, found = Padding(pad_id), {}
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = collate([{name: values[row] for name, values in inputs.items()} for row in rows])
            logits = model(**{name: value.to(device) for name, value in batch.items()}).logits.float().cpu().numpy()
            found |= dict(zip(rows, logits, strict=True))
    model.train(was_training)
    return (
        [found[row] for row in range(len(order))]
        if logits.ndim == 3
        else np.stack([found[row] for row in range(len(order))])
    )


def write_checked(model: Any, lesson: Lesson, folder: Path, inputs: dict[str, list[Any]], logits: Any) -> None:
    """Write a model and its tokenizer, and see whether it answers the first rows as it does in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    model.eval().save_pretrained(folder)
    copy_tokenizer(lesson.base.tokenizer, folder)
    some = {name: values[: len(logits)] for name, values in inputs.items()}
    with opening(f"The model in {folder}"):
        afresh = type(model).from_pretrained(folder.absolute(), dtype=torch.float32, local_files_only=True)
    again = logits_of(afresh, some, _pad_id(lesson))
    apart = max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(again, logits, strict=True))
    if not apart <= TOLERANCE * max(1.0, max(float(np.abs(row).max()) for row in logits)):
        raise InvariantBroken(
            f"The model that was written does not answer as the one that was trained: logits differ by {apart:.4g}. "
            "No folder is left. Try another method.type, and report this with the base's name."
        )


class Padding:
    """Rows of tokens as one batch: as wide as its longest."""

    def __init__(self, pad_id: int, *, label_pad: int | None = None) -> None:
        self._pad_id, self._label_pad = pad_id, label_pad

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        batch = {"attention_mask": _padded([[1] * len(row["input_ids"]) for row in rows], width, 0)}
        for name in rows[0]:
            values = [row[name] for row in rows]
            if name == "labels" and self._label_pad is None:
                batch[name] = torch.as_tensor(np.stack(values))
            else:
                pad = {"input_ids": self._pad_id, "labels": self._label_pad or 0}.get(name, 0)
                batch[name] = _padded(values, width, pad)
        return batch


def stacked(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(np.stack([row[name] for row in rows])) for name in rows[0]}


def _padded(rows: list[Any], width: int, pad: int) -> torch.Tensor:
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], dtype=torch.long)


def _pad_id(lesson: Lesson) -> int:
    return lesson.base.config.get_text_config().pad_token_id or 0


def _kind_of_base(config: Any) -> Kind:
    kinds = {name: kind for kind, name in PROBLEM_TYPES.items()}
    return kinds.get(config.problem_type, "single_label")


def _plain(predictions: Any) -> Any:
    return predictions[0] if isinstance(predictions, tuple) else predictions


def _loss_of(kind: Kind, labels: Any, num_labels: int, class_weights: str) -> Any:
    """What is made small: by default each row weighs alike, or each label does."""
    if kind == "regression":
        return lambda logits, truth: nn.functional.mse_loss(logits.reshape(-1), truth.reshape(-1))
    is_balanced = class_weights == "balanced"
    if kind == "multi_label":
        there = labels.sum(axis=0)
        weights = torch.tensor((len(labels) - there) / np.maximum(there, 1), dtype=torch.float32)
        return lambda logits, truth: nn.functional.binary_cross_entropy_with_logits(
            logits, truth, pos_weight=weights.to(logits.device) if is_balanced else None
        )
    counts = np.bincount(labels, minlength=num_labels)
    weights = torch.tensor(len(labels) / (num_labels * np.maximum(counts, 1)), dtype=torch.float32)
    return lambda logits, truth: nn.functional.cross_entropy(
        logits, truth, weight=weights.to(logits.device) if is_balanced else None
    )
