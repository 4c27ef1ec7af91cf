"""What is remembered of a training: its row in the lake, and which texts it learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from tidemill.checkpoints.files import files_read
from tidemill.checkpoints.learned import keep_learned
from tidemill.encoding.text_hashes import row_hashes
from tidemill.sources.hashes import hash_folder
from tidemill.training.file import TrainingFile
from tidemill.training.tasks.learner import Lesson


def keep_texts(folder: Path, lesson: Lesson) -> None:
    """Keep which texts the model in a folder learned from; `compare --truth` leaves their rows out."""
    if not all(isinstance(text, str) for text in lesson.train.texts):
        return
    columns = {"text": pa.array(lesson.train.texts, pa.string())}
    if lesson.train.pairs is not None:
        columns["text_pair"] = pa.array(lesson.train.pairs, pa.string())
    identity = hash_folder(folder, files_read(folder, trust_remote_code=False))
    keep_learned(f"sha256:{identity}", row_hashes(pa.table(columns)))


def remember(file: TrainingFile, report: dict[str, Any]) -> None:
    """A row of `_trainings` for each trial."""
