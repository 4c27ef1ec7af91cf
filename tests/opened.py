"""A checkpoint's model task and module, without an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tidemill.checkpoints.loading import load_config
from tidemill.models.tasks import ModelTask, find_task, task_options


def task_of(folder: str | Path, name: str = "text-classification", **made: Any) -> ModelTask:
    """The task for this checkpoint's configuration; `options` are as in a pipeline file."""
    options = task_options(name, made.pop("options", {}))
    return find_task(name)(load_config(folder), options, **made)


def module_of(folder: str | Path, name: str = "text-classification", **made: Any) -> torch.nn.Module:
    """The task's module, in float32."""
    return task_of(folder, name, **made).load(folder, dtype=torch.float32, trust_remote_code=False)
