"""Token classification: a tag for each token, of tags of words or of spans of a text.

Shapes: T tokens of a row, C outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from tidemill.models.tasks.scores import labels_of
from tidemill.training.examples.labels import settle_outputs
from tidemill.training.examples.rows import Lesson, Rows
from tidemill.training.examples.tags import OUTSIDE, marked, tags_of_tokens
from tidemill.training.loop.trainer import CarefulTrainer
from tidemill.training.measures import entities as measuring
from tidemill.training.measures.temperature import fitted_temperature
from tidemill.training.tasks.batches import IGNORED, Inputs, Padding, labelled, logits_of
from tidemill.training.tasks.heads import divide, last_layer
from tidemill.training.tasks.models import load_model, merged, pad_id, with_adapters, write_checked

NUM_CHECKED = 8


class TokenLearner:
    arguments_class = transformers.TrainingArguments
    best_by = "f1"
    greater_is_better = True

    def __init__(self, lesson: Lesson) -> None:
        """
        Raises:
            ConfigError: tags and texts do not go together, or the tags do not fit the base's.
            ModelError: the base has no fast tokenizer, or cannot be loaded.
        """
        self._lesson, self._method = lesson, lesson.file.method
        self._tokenizer = lesson.base.open_tokenizer()
        (self._train_inputs, train), (self._inputs, held_out) = map(self._encoded, (lesson.train, lesson.held_out))
        said = [tag for tags in (*train, *held_out) for tag in tags if tag is not None]
        new_head = lesson.file.base.head == "new"
        # A continuing tag is an output also where all its entities have one token.
        tags = sorted({*said, *(f"I-{tag[2:]}" for tag in said if tag.startswith("B-")), OUTSIDE} - {None})
        self.outputs = settle_outputs(
            tags, "single_label", labels_of(lesson.base.config), "single_label", new_head=new_head
        )
        self._train_labels, self._labels = (self._numbers(tags) for tags in (train, held_out))
        self.arguments: dict[str, Any] = {}
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

    def _encoded(self, rows: Rows) -> tuple[Inputs, list[list[str | None]]]:
        ids, tags = [], []
        for text, labels in zip(rows.texts, rows.labels, strict=True):
            row = marked(text, labels)
            found = self._tokenizer(
                row.text, truncation=True, max_length=self._lesson.base.max_length, return_offsets_mapping=True
            )
            ids.append(found["input_ids"])
            tags.append(tags_of_tokens(row, found["offset_mapping"]))
        return {"input_ids": ids}, tags

    def _numbers(self, tags: list[list[str | None]]) -> list[list[int]]:
        numbers = {name: i for i, name in enumerate(self.outputs.names)}
        return [[IGNORED if tag is None else numbers[tag] for tag in row] for row in tags]

    def begin(self, seed: int) -> None:
        self.model = load_model(self._lesson, "AutoModelForTokenClassification", self.outputs, seed)
        self._learning = self.model
        if self._method.type == "lora":
            self._learning = with_adapters(self.model, self._method, "TOKEN_CLS")
        elif self._method.type == "head":
            head = {id(parameter) for parameter in last_layer(self.model)[1].parameters()}
            for parameter in self.model.parameters():
                parameter.requires_grad = id(parameter) in head

    def trainer(self, arguments: Any) -> Any:
        self._answers = None
        return CarefulTrainer(
            model=self._learning,
            args=arguments,
            train_dataset=labelled(self._train_inputs, self._train_labels),
            eval_dataset=labelled(self._inputs, self._labels),
            data_collator=Padding(pad_id(self._lesson), label_pad=IGNORED),
            compute_metrics=lambda found: measuring.quick_measures(
                *self._tags(np.asarray(found.predictions).argmax(axis=-1), found.label_ids)
            ),
        )

    def _tags(self, said: Sequence[Any], right: Sequence[Any]) -> tuple[list[list[str]], list[list[str]]]:
        """Both as names, of the tokens that have a tag."""
        names = self.outputs.names
        kept = [[i for i, label in enumerate(row) if label != IGNORED] for row in right]
        return (
            [[names[row[i]] for i in some] for row, some in zip(said, kept, strict=True)],
            [[names[row[i]] for i in some] for row, some in zip(right, kept, strict=True)],
        )

    def measure(self) -> dict[str, Any]:
        said = [logits_TC.argmax(axis=-1) for logits_TC in self._logits()]
        return measuring.measures(*self._tags(said, self._labels), seed=self._lesson.file.seed)

    def baselines(self) -> dict[str, Any]:
        outside = self.outputs.names.index(OUTSIDE)
        nothing = [[outside] * len(row) for row in self._labels]
        found = {"nothing": measuring.measures(*self._tags(nothing, self._labels), seed=0)}
        if self.outputs.of_base is not None:
            self.model = load_model(self._lesson, "AutoModelForTokenClassification", self.outputs, 0)
            found["base"] = self.measure()
            self._answers = None
        return {whose: {name: part[name] for name in ("f1", "token_accuracy")} for whose, part in found.items()}

    def calibrate(self) -> float | None:
        if self._method.type == "lora":
            self.model, self._answers = merged(self._learning), None
        self._learning = None
        if not self._method.calibrate:
            return None
        logits, labels = self._logits(), self._labels
        every = np.concatenate([row[: len(tags)] for row, tags in zip(logits, labels, strict=True)])
        right = np.concatenate([np.asarray(tags) for tags in labels])
        temperature = fitted_temperature(every[right != IGNORED], right[right != IGNORED])
        divide(last_layer(self.model)[1], temperature)
        self._answers = [logits_TC / temperature for logits_TC in logits]
        return temperature

    def _logits(self) -> Any:
        if self._answers is None:
            self._answers = logits_of(self._learning or self.model, self._inputs, pad_id(self._lesson))
        return self._answers

    def write(self, folder: Path) -> None:
        write_checked(self.model, self._lesson, folder, self._inputs, self._logits()[:NUM_CHECKED])
