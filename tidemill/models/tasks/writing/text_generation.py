"""Text generation: what a decoder writes behind a prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tidemill.engines.writing.written import LENGTH
from tidemill.errors import ModelError
from tidemill.models.tasks.task import Preparer, Reading
from tidemill.models.tasks.writing.options import TextGenerationOptions
from tidemill.models.tasks.writing.task import WritingTask

THINKING, THOUGHT = "<think>", "</think>"
"""Between these a model thinks before it answers; a chat template may have written the first."""


class TextGeneration(WritingTask):
    pipeline_tag = "text-generation"
    auto_class = "AutoModelForCausalLM"
    Options = TextGenerationOptions
    heads = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")

    def preparer(self, folder: str | Path, reading: Reading) -> Preparer:
        if reading.long_text == "windows":
            raise ModelError(
                f'model.task = "{self.pipeline_tag}" writes behind a whole prompt, and tokenizer.long_text = "windows" '
                'cuts it. Set long_text to "truncate" or "quarantine".'
            )
        return super().preparer(folder, self._leaving_room(reading))

    def _answer(self, text: str, finish: int) -> tuple[str | None, str | None]:
        if not (self.options.thinking or text.lstrip().startswith(THINKING)):
            return text, None
        _, is_answered, answer = text.partition(THOUGHT)
        if is_answered:
            return answer.lstrip("\n"), None
        if finish == LENGTH:
            return None, (
                f"the model thought for all of its {self.num_written} new tokens and gave no answer: raise "
                "model.options.max_new_tokens"
            )
        return text, None

    def _leaving_room(self, reading: Reading) -> Reading:
        """A prompt and what is written behind it share the model's positions."""
        most = reading.model_max_length
        if most is None or reading.max_length != "auto":
            return reading
        if most <= self.num_written:
            raise ModelError(
                f"The model has {most} positions, and model.options.max_new_tokens = {self.num_written} leaves none "
                "for a prompt. Lower it."
            )
        return replace(reading, max_length=most - self.num_written)
