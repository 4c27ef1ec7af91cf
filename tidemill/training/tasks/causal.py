"""Language models that go on with a text: by LoRA, on whole texts or on what is to be written behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from tidemill.checkpoints.files import matching, refuse_weights
from tidemill.checkpoints.loading import opening
from tidemill.training.examples.rows import Lesson, Rows
from tidemill.training.loop.trainer import CarefulTrainer
from tidemill.training.tasks.batches import IGNORED, Inputs, Padding, labelled, logits_of
from tidemill.training.tasks.models import merged, pad_id, with_adapters, write_checked

NUM_CHECKED = 4


class CausalLearner:
    arguments_class = transformers.TrainingArguments
    best_by = "loss"
    greater_is_better = False

    def __init__(self, lesson: Lesson) -> None:
        """
        Raises:
            ModelError: the base has no fast tokenizer, or cannot be loaded.
        """
        self._lesson = lesson
        self._tokenizer = lesson.base.open_tokenizer()
        (self._train, train), (self._held_out, held_out) = map(self._encoded, (lesson.train, lesson.held_out))
        self._train_labels, self._labels = train, held_out
        # The best is known by the loss that the loop itself evaluates; its metrics are logits of a whole vocabulary.
        self.arguments: dict[str, Any] = {"prediction_loss_only": True}
        self.model: Any = None
        self._learning: Any = None

    @property
    def num_rows(self) -> int:
        return len(self._train["input_ids"])

    @property
    def notes(self) -> Sequence[str]:
        if not self._lesson.train.labels:
            return ("The loss is of whole texts: set data.label to a column to learn what is written behind a text.",)
        return ()

    def _encoded(self, rows: Rows) -> tuple[Inputs, list[list[int]]]:
        """Ids, and labels of those that are learned: all of a text, or what follows it."""
        most, end = self._lesson.base.max_length, self._tokenizer.eos_token_id
        ids, labels = [], []
        for i, text in enumerate(rows.texts):
            prompt = self._prompt(text) if rows.labels else []
            written = self._tokenizer(str(rows.labels[i]), add_special_tokens=False) if rows.labels else None
            own = written["input_ids"] if written else self._tokenizer(text)["input_ids"]
            own = own[: most - 1] + ([end] if end is not None and (not own or own[-1] != end) else [])
            prompt = prompt[-(most - len(own)) :] if most > len(own) else []
            ids.append([*prompt, *own])
            labels.append([*[IGNORED] * len(prompt), *own])
        return {"input_ids": ids}, labels

    def _prompt(self, text: str) -> list[int]:
        """As a pipeline gives it to the model: by the chat template, where there is one."""
        if self._tokenizer.chat_template is None:
            return list(self._tokenizer(text)["input_ids"])
        messages = [{"role": "user", "content": text}]
        found = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        return list(found["input_ids"])

    def begin(self, seed: int) -> None:
        self.model = self._opened(seed)
        self._learning = with_adapters(self.model, self._lesson.file.method, "CAUSAL_LM")

    def _opened(self, seed: int) -> Any:
        folder = self._lesson.base.folder
        refuse_weights(matching(folder, ["*"]), str(folder))
        transformers.set_seed(seed)
        with opening(f"The model in {folder}"):
            return transformers.AutoModelForCausalLM.from_pretrained(
                folder.absolute(), dtype=torch.float32, use_safetensors=True, local_files_only=True
            )

    def trainer(self, arguments: Any) -> Any:
        return CarefulTrainer(
            model=self._learning,
            args=arguments,
            train_dataset=labelled(self._train, self._train_labels),
            eval_dataset=labelled(self._held_out, self._labels),
            data_collator=Padding(pad_id(self._lesson), label_pad=IGNORED),
        )

    def measure(self) -> dict[str, Any]:
        loss = self._loss(self._learning or self.model)
        return {"rows": len(self._held_out["input_ids"]), "loss": loss, "perplexity": math.exp(min(loss, 50))}

    def _loss(self, model: Any) -> float:
        """The mean of every token that is learned, over all held-out rows."""
        total, num = 0.0, 0
        for ids, labels in zip(self._held_out["input_ids"], self._labels, strict=True):
            # Row by row: a row's logits are as many as its tokens times the vocabulary.
            (logits,) = logits_of(model, {"input_ids": [ids]}, pad_id(self._lesson))
            right = torch.tensor(labels[1:])
            scores = torch.from_numpy(logits[: len(labels) - 1])
            total += float(torch.nn.functional.cross_entropy(scores, right, ignore_index=IGNORED, reduction="sum"))
            num += int((right != IGNORED).sum())
        return total / max(1, num)

    def baselines(self) -> dict[str, Any]:
        loss = self._loss(self._opened(0))
        return {"base": {"loss": loss, "perplexity": math.exp(min(loss, 50))}}

    def calibrate(self) -> float | None:
        """Of what is written no confidence is shown: there is nothing to calibrate."""
        self.model, self._learning = merged(self._learning), None
        return None

    def write(self, folder: Path) -> None:
        some = {"input_ids": self._held_out["input_ids"][:NUM_CHECKED]}
        logits = logits_of(self.model, some, pad_id(self._lesson))
        write_checked(self.model, self._lesson, folder, some, logits)
