"""What the engine knows of a model task. A task is one file here and one line in `MODEL_TASKS`.

Shapes: B rows of a batch, T tokens, C outputs of the model.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.errors import ConfigError
from tidemill.models.tasks import text_classification

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig


class ModelTask(Protocol):
    """A module of this package; `pipeline_tag` is the Hub's name of the task."""

    pipeline_tag: str

    def check(self, config: PretrainedConfig) -> None:
        """Raise ModelError if no model of this configuration can do the task."""

    def load(
        self, folder: str | Path, *, dtype: torch.dtype, trust_remote_code: bool, pad_token_id: int | None = None
    ) -> torch.nn.Module:
        """A module that takes input_ids_BT and attention_mask_BT and returns an object with `logits` of B rows.

        `pad_token_id` counts in place of the configuration's own.
        """

    def result_schema(self, config: PretrainedConfig, *, all_scores: bool) -> pa.Schema:
        """The columns that `decode` returns.

        Raises:
            ModelError: those columns cannot hold what the model answers.
        """

    def is_regression(self, config: PretrainedConfig) -> bool:
        """Whether scores are values of any size, and not probabilities."""

    def scores(self, logits_BC: NDArray[np.float32], config: PretrainedConfig) -> NDArray[np.float32]:
        """Finite logits as what may be averaged over the windows of a text: probabilities, or values as they are."""

    def decode(self, scores_BC: NDArray[np.float32], config: PretrainedConfig, *, all_scores: bool) -> pa.Table:
        """One row per row of scores, as `transformers.pipeline` would answer by default."""


MODEL_TASKS: tuple[ModelTask, ...] = (text_classification,)


def find_task(name: str) -> ModelTask:
    """The task of that pipeline tag.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    by_tag = {task.pipeline_tag: task for task in MODEL_TASKS}
    if name in by_tag:
        return by_tag[name]
    near = difflib.get_close_matches(name, by_tag, n=1)
    hint = f'Did you mean "{near[0]}"?' if near else f"Known: {', '.join(by_tag)}."
    raise ConfigError(f'model.task = "{name}" is not a model task of Tidemill. {hint}')
