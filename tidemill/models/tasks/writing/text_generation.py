"""Text generation: what a decoder writes behind a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill.engines.writing.generation.written import LENGTH
from tidemill.errors import ModelError
from tidemill.models.task import Preparer, Reading
from tidemill.models.tasks.writing.options import TextGenerationOptions
from tidemill.models.tasks.writing.task import WritingTask

if TYPE_CHECKING:
    from tidemill.encoding.prompts import Prompt

THINKING, THOUGHT = "<think>", "</think>"
"""Between these a model thinks before it answers; a chat template may have written the first."""


class TextGeneration(WritingTask):
    pipeline_tag = "text-generation"
    auto_class = "AutoModelForCausalLM"
    Options = TextGenerationOptions
    options_of_texts = frozenset({"prompt", "system_prompt", "date", "thinking"})
    reads_parts = True
    heads = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    may_be_served = True

    def preparer(self, folder: str | Path, reading: Reading) -> Preparer:
        if reading.long_text == "windows":
            raise ModelError(
                f'model.task = "{self.pipeline_tag}" writes behind a whole prompt, and tokenizer.long_text = "windows" '
                'cuts it. Set long_text to "truncate" or "quarantine".'
            )
        from tidemill.encoding.prompts import PromptTokenizer, ServedPrompts

        prompt = prompt_of(self.options, reading.columns, reading.separator)
        if self.is_served:
            self._refuse_date()
            return ServedPrompts(prompt)
        reading = self._leaving_room(reading)
        return PromptTokenizer.load(
            folder,
            prompt=prompt,
            max_length=reading.max_length,
            long_text=reading.long_text,
            model_max_length=reading.model_max_length,
            usual_length=reading.usual_length,
            trust_remote_code=reading.trust_remote_code,
        )

    def _refuse_date(self) -> None:
        if self.options.date is not None:
            raise ModelError(
                f'model.options.date = "{self.options.date}" is told to a chat template, and the server renders it. '
                "Leave it out."
            )

    @classmethod
    def check_columns(cls, options: Any, columns: tuple[str, ...]) -> None:
        prompt_of(options, columns)

    def begun(self, ids: Sequence[int]) -> str:
        text = super().begun(ids)
        # What may be the beginning of a thought is not the answer's.
        return "" if THINKING.startswith(text.strip()) else text

    def _answer(self, text: str, finish: int) -> tuple[str | None, str | None]:
        # A server mostly keeps apart what was thought.
        begun = self.options.thinking and not self.is_served
        if not (begun or text.lstrip().startswith(THINKING)):
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


def prompt_of(options: TextGenerationOptions, columns: tuple[str, ...], separator: str = "\n") -> Prompt:
    """
    Raises:
        ConfigError: the template of `options` names others than these columns, or the date is none.
    """
    from tidemill.encoding.prompts import Prompt

    return Prompt(
        template=options.prompt,
        columns=columns,
        separator=separator,
        system_prompt=options.system_prompt,
        date=options.date,
        thinking=options.thinking,
    )
