"""What the loop, the measures and the writing of a folder ask of a model that learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tidemill.training.given.file import MethodSection

HEAD_EPOCHS, EPOCHS = 60.0, 3.0
HEAD_BATCH, BATCH = 64, 16
RATES = {"head": 0.01, "lora": 2e-4, "full": 5e-5}


@dataclass(frozen=True)
class Settings:
    """A trial's, with nothing left to be decided."""

    epochs: float
    learning_rate: float
    batch_size: int
    weight_decay: float
    warmup: float
    patience: int | None
    evaluate_steps: int | None
    seed: int

    @classmethod
    def of(cls, method: MethodSection, seed: int, trial: Mapping[str, Any]) -> Settings:
        is_head = method.type == "head"
        declared = {
            "epochs": method.epochs or (HEAD_EPOCHS if is_head else EPOCHS),
            "learning_rate": method.learning_rate or RATES[method.type],
            "batch_size": method.batch_size or (HEAD_BATCH if is_head else BATCH),
            "weight_decay": method.weight_decay,
            "warmup": method.warmup,
            "patience": method.patience,
            "evaluate_steps": method.evaluate_steps,
            "seed": seed,
        }
        return cls(**{**declared, **trial})


class Learner(Protocol):
    """A model task by one method. `begin` makes the model anew, so that each trial begins alike."""

    best_by: str
    greater_is_better: bool
    arguments_class: Any
    arguments: dict[str, Any]
    """Of the loop, beside those that all share."""

    @property
    def num_rows(self) -> int: ...

    @property
    def notes(self) -> Sequence[str]:
        """What a person should know before it begins."""

    def begin(self, seed: int) -> None: ...

    def trainer(self, arguments: Any) -> Any:
        """Transformers' Trainer or one of its kind, which is careful."""

    def measure(self) -> dict[str, Any]:
        """Of the model as it is, on the held-out rows."""

    def baselines(self) -> dict[str, Any]:
        """What the base as it is, and answers without a model, come to on the held-out rows."""

    def calibrate(self) -> float | None:
        """Divide the temperature that fits the held-out rows into the last layer's weights, and return it."""

    def write(self, folder: Path) -> None:
        """The model in Transformers' format, in float32, with its tokenizer.

        Raises:
            InvariantBroken: loaded afresh, it does not answer as the one in memory.
        """
