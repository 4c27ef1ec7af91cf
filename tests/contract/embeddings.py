"""Vectors of texts by Tidemill's own parts, for the suites of the tasks that embed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.checkpoints import reviews
from tidemill.checkpoints.loading import load_config, max_positions, usual_length
from tidemill.config import Inference
from tidemill.encoding.pooling import Pooling
from tidemill.inference.runner import ModelRunner
from tidemill.models.tasks import Reading, find_task, task_options

TEXTS = [*reviews(12), "", "a", "naïve café 電影 😀", "the film " * 100]


def prepare(task: str, folder: Path, texts: list[str], *, long_text: Any = "truncate", **options: Any) -> pa.Table:
    config = load_config(folder)
    reading = Reading(long_text=long_text, model_max_length=max_positions(config), usual_length=usual_length(config))
    preparer = find_task(task)(config, task_options(task, options)).preparer(folder, reading)
    return preparer.prepare(pa.table({"text": pa.array(texts, pa.string())}))


def ask_tidemill(
    task: str,
    folder: Path,
    texts: list[str] | None = None,
    *,
    prepared: pa.Table | None = None,
    windows: Pooling | None = None,
    engine: Any = "torch",
    dtype: Any = "float32",
    token_budget: int = 512,
    **options: Any,
) -> np.ndarray:
    """One vector a text; all have one."""
    rows = prepare(task, folder, texts or [], **options) if prepared is None else prepared
    inference = Inference(device="cpu", engine=engine, dtype=dtype, token_budget=token_budget)
    runner = ModelRunner.load(folder, task=task, inference=inference, task_options=options, pooling=windows)
    predictions = runner.predict(rows)
    assert predictions.reason.null_count == rows.num_rows, predictions.reason
    column = predictions.columns["embedding"].combine_chunks()
    vectors: np.ndarray = column.flatten().to_numpy().reshape(rows.num_rows, -1)
    return vectors
