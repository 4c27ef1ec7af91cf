"""What is remembered of a training: its row in the lake, and which texts it learned from."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from tidemill.checkpoints.files import files_read
from tidemill.checkpoints.learned import keep_learned
from tidemill.encoding.text_hashes import row_hashes
from tidemill.lake import Lake, ensure_system_tables
from tidemill.lake.records.trainings import record_trainings, training_of
from tidemill.sources.hashes import hash_folder
from tidemill.training.examples.rows import Lesson
from tidemill.training.given.file import TrainingFile


def identity_of(folder: Path) -> str:
    """What a version's model is called that lies in this folder."""
    return f"sha256:{hash_folder(folder, files_read(folder, trust_remote_code=False))}"


def keep_texts(model: str, lesson: Lesson) -> None:
    """Keep which texts a model learned from; `compare --truth` leaves their rows out."""
    if not all(isinstance(text, str) for text in lesson.train.texts):
        return
    columns = {"text": pa.array(lesson.train.texts, pa.string())}
    if lesson.train.pairs is not None:
        columns["text_pair"] = pa.array(lesson.train.pairs, pa.string())
    keep_learned(model, row_hashes(pa.table(columns)))


def refuse_lake(file: TrainingFile) -> None:
    """See that the lake can be written before hours are spent.

    Raises:
        LakeError: it is of another layout, or unreadable.
    """
    with Lake(file.lake) as lake:
        ensure_system_tables(lake)


def remember(file: TrainingFile, report: dict[str, Any], model: str) -> None:
    """A row of `_trainings` for each trial; measures are those of the best one, of others what it was chosen by."""
    common = {
        "training_id": report["identity"],
        **{name: report[name] for name in ("name", "task", "method", "folder", "data", "seed", "cost", "currency")},
        "base": report["base"]["path"],
        "base_model": report["base"]["model"],
        "num_rows": report["rows"]["train"],
        "num_held_out": report["rows"]["held_out"],
        "started_at": datetime.fromisoformat(report["started_at"]),
        "finished_at": datetime.now(UTC),
        "seconds": report["seconds"],
    }
    best = {
        "is_best": True,
        "model": model,
        "metrics": report["metrics"],
        "baselines": report["baselines"],
        "temperature": report["temperature"],
    }
    others: dict[str, Any] = {"is_best": False, "model": None, "baselines": {}, "temperature": None}
    rows = [
        {
            **common,
            **(best if trial["number"] == report["best_trial"] else {**others, "metrics": {"score": trial["score"]}}),
            "trial": trial["number"],
            "settings": trial["settings"],
        }
        for trial in report["trials"]
    ]
    with Lake(file.lake) as lake:
        record_trainings(lake, rows)


def remember_once(file: TrainingFile, report: dict[str, Any], folder: Path) -> None:
    """Of a training whose folder is there, and whose row may not be: it was killed, or its lake was not to be had."""
    model = identity_of(folder)
    with Lake(file.lake) as lake:
        ensure_system_tables(lake)
        is_known = training_of(lake.cursor(), model) is not None
    if not is_known:
        remember(file, report, model)
