"""The model tasks. A task is a module here and one line in `MODEL_TASKS`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from tidemill.config import Section, section_of
from tidemill.errors import ConfigError
from tidemill.models.task import ModelTask, NoOptions, Preparer, Reading
from tidemill.models.tasks.feature_extraction import FeatureExtraction
from tidemill.models.tasks.sentence_similarity import SentenceSimilarity
from tidemill.models.tasks.text_classification import TextClassification
from tidemill.models.tasks.text_ranking import TextRanking
from tidemill.models.tasks.token_classification import TokenClassification
from tidemill.models.tasks.writing.of_sources import Summarization, TextToText, Translation
from tidemill.models.tasks.writing.text_generation import TextGeneration
from tidemill.models.tasks.zero_shot_classification import ZeroShotClassification

MODEL_TASKS: dict[str, type[ModelTask]] = {
    task.pipeline_tag: task
    for task in (
        TextClassification,
        TokenClassification,
        FeatureExtraction,
        SentenceSimilarity,
        ZeroShotClassification,
        TextRanking,
        TextGeneration,
        Summarization,
        Translation,
        TextToText,
    )
}


def find_task(name: str) -> type[ModelTask]:
    """The task of that pipeline tag.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    if name in MODEL_TASKS:
        return MODEL_TASKS[name]
    near = difflib.get_close_matches(name, MODEL_TASKS, n=1)
    hint = f'Did you mean "{near[0]}"?' if near else f"Known: {', '.join(MODEL_TASKS)}."
    raise ConfigError(f'model.task = "{name}" is not a model task of Tidemill. {hint}')


def task_options(name: str, raw: Mapping[str, Any]) -> Section:
    """`[model.options]` as the task understands them.

    Raises:
        ConfigError: there is no such task, or it has no such option, or not with such a value.
    """
    return section_of(find_task(name).Options, raw, "model.options", owner=f'model.task = "{name}"')


__all__ = ["MODEL_TASKS", "ModelTask", "NoOptions", "Preparer", "Reading", "find_task", "task_options"]
