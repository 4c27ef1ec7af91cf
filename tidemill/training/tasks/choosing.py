"""Which learner does a task by a method."""

from __future__ import annotations

from tidemill.training.examples.rows import Lesson
from tidemill.training.loop.learner import Learner


def open_learner(lesson: Lesson) -> Learner:
    """
    Raises:
        ConfigError: what the rows say cannot be learned.
        ModelError: the base is not fit for it.
    """
    match lesson.file.task:
        case "text-classification":
            from tidemill.training.tasks.classification import Classification

            return Classification(lesson)
        case "token-classification":
            from tidemill.training.tasks.tokens import TokenLearner

            return TokenLearner(lesson)
        case "sentence-similarity":
            from tidemill.training.tasks.embeddings import EmbeddingLearner

            return EmbeddingLearner(lesson)
        case _:
            from tidemill.training.tasks.causal import CausalLearner

            return CausalLearner(lesson)
