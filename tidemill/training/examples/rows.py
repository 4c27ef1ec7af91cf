"""The rows of a training on their two sides, with all else that a learner begins with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill.training.given.base import BaseModel
from tidemill.training.given.file import TrainingFile


@dataclass(frozen=True)
class Rows:
    """The rows of one side: texts, what is to be learned of each, and what the measures are told apart by."""

    texts: list[Any]
    pairs: list[str] | None
    negatives: list[str] | None
    labels: list[Any]
    slices: Mapping[str, list[Any]]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Lesson:
    """What is learned, of what, and from where on."""

    file: TrainingFile
    base: BaseModel
    train: Rows
    held_out: Rows
    label_type: Any
    """The Arrow type of the column of labels."""
    work: Path
    """A folder of the training's own, removed when it is done."""
    tell: Callable[[str], None]
