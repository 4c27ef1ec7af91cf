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

from tidemill.models.tasks.scores import labels_of
from tidemill.training.examples.labels import PROBLEM_TYPES, Kind, Outputs, cleaned, settle_outputs, settled_kind
from tidemill.training.examples.rows import Lesson
from tidemill.training.loop.trainer import CarefulTrainer
from tidemill.training.measures import classification as measuring
from tidemill.training.measures.temperature import fitted_temperature
from tidemill.training.tasks.batches import Padding, labelled, logits_of, stacked
from tidemill.training.tasks.features import features_of
from tidemill.training.tasks.heads import Head, divide, last_layer
from tidemill.training.tasks.models import load_model, merged, pad_id, with_adapters, write_checked

NUM_CHECKED = 8
"""Rows by which a written model is held against the one in memory."""


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
        kind = settled_kind(lesson.label_type, file.kind)
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
        self._answers: Any = None
        """Logits of the held-out rows by the model as it is, once they were asked for."""

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
        texts = [*train.texts, *held_out.texts]
        found = features_of(self.model, self._lesson.base, texts, pairs, self._lesson.work, self._lesson.tell)
        return found[: len(train)], found[len(train) :]

    def trainer(self, arguments: Any) -> Any:
        self._answers = None
        collate: Any = Padding(pad_id(self._lesson))
        train, held_out = self._train_inputs, self._inputs
        if self._features is not None:
            collate = stacked
            train, held_out = ({"features": features} for features in self._features)
        return CarefulTrainer(
            model=self._learning,
            args=arguments,
            train_dataset=labelled(train, self._train_labels),
            eval_dataset=labelled(held_out, self._labels),
            data_collator=collate,
            compute_metrics=lambda found: measuring.quick_measures(
                _plain(found.predictions), found.label_ids, self.outputs
            ),
            compute_loss_func=None if self._features is not None else self._loss_of_outputs,
        )

    def _loss_of_outputs(self, outputs: Any, labels: Any, **_: Any) -> Any:
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
        return self._loss(logits, labels)

    def measure(self) -> dict[str, Any]:
        return self._measures_of(self._logits())

    def _measures_of(self, logits_NC: Any) -> dict[str, Any]:
        slices, seed = self._lesson.held_out.slices, self._lesson.file.seed
        return measuring.measures(logits_NC, self._labels, self.outputs, slices, seed=seed)

    def baselines(self) -> dict[str, Any]:
        found = {"majority": measuring.majority(self._train_labels, self._labels, self.outputs)}
        if self.outputs.of_base is not None:
            self.model = load_model(self._lesson, "AutoModelForSequenceClassification", self.outputs, 0)
            whole = self._measures_of(logits_of(self.model, self._inputs, pad_id(self._lesson)))
            found["base"] = {name: whole[name] for name in ("accuracy", "f1", "mean_absolute_error") if name in whole}
        return found

    def calibrate(self) -> float | None:
        """Of a regression there is none, nor of too few rows to tell."""
        self._settle()
        if self.outputs.kind == "regression" or not self._method.calibrate:
            return None
        temperature = fitted_temperature(self._logits(), self._labels)
        divide(last_layer(self.model)[1], temperature)
        self._answers = self._logits() / temperature
        return temperature

    def _settle(self) -> None:
        """Have `model` be whole again."""
        if self._method.type == "lora" and self._learning is not None:
            self.model, self._answers = merged(self._learning), None
        elif self._method.type == "head" and self._learning is not None:
            self._learning.into(last_layer(self.model)[1])
        self._learning = None

    def _logits(self) -> Any:
        if self._answers is None:
            self._answers = self._computed_logits()
        return self._answers

    def _computed_logits(self) -> Any:
        if self._features is None:
            return logits_of(self._learning or self.model, self._inputs, pad_id(self._lesson))
        layer = last_layer(self.model)[1] if self._learning is None else self._learning
        with torch.inference_mode():
            found = layer(torch.from_numpy(self._features[1]))
        return (found if self._learning is None else found["logits"]).numpy()

    def write(self, folder: Path) -> None:
        write_checked(self.model, self._lesson, folder, self._inputs, self._logits()[:NUM_CHECKED])


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
