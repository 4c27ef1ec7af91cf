"""`[model.options]` of tasks whose models write."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from tidemill.config import Section
from tidemill.engines.writing.settings import Sampling

NonEmpty = Annotated[str, Field(min_length=1)]


class WritingOptions(Section):
    max_new_tokens: Annotated[int, Field(gt=0)] | None = None
    """Most tokens of an answer; what the checkpoint's generation_config.json says, or 256, if not given."""
    stop: list[NonEmpty] = Field(default=[])
    """Texts after which no more is written. The answer ends before the first of them."""
    do_sample: bool = False
    """Draw each token from those that the model finds probable, in place of the most probable one. What is drawn
    follows from `seed` and the row's prompt alone."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    """How evenly is drawn where `do_sample` is on: less than 1 prefers the probable."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Draw only from the most probable tokens that together have this probability."""
    top_k: Annotated[int, Field(gt=0)] | None = None
    """Draw only from so many of the most probable tokens."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """What is drawn is drawn by this."""

    @model_validator(mode="after")
    def _only_of_sampling(self) -> WritingOptions:
        given = [name for name in ("temperature", "top_p", "top_k", "seed") if _is_given(self, name)]
        if given and not self.do_sample:
            raise ValueError(f"{given[0]} counts only with do_sample = true: set that, or leave this out")
        return self

    @property
    def sampling(self) -> Sampling | None:
        if not self.do_sample:
            return None
        return Sampling(self.seed, self.temperature, self.top_p, self.top_k)


def _is_given(options: Section, name: str) -> bool:
    value: Any = getattr(options, name)
    return bool(value != type(options).model_fields[name].default)


class TextGenerationOptions(WritingOptions):
    prompt: NonEmpty | None = None
    """A template of the prompt, such as `"Summarise: {title}\\n{body}"`, whose fields are columns of dataset.text.
    Without it the column is the prompt."""
    system_prompt: str | None = None
    """What the model is told before each row: the prompt then goes through the model's chat template."""
    date: str | None = None
    """The date that the chat template is told where it asks for today's, such as "2026-11-26"."""
    thinking: bool = False
    """Let a model that can do so think before it answers. What it thinks is not part of the answer, and counts in
    `max_new_tokens`."""


class SourceOptions(WritingOptions):
    prefix: str | None = None
    """What is put before each text; what config.json's task_specific_params says of the task if not given."""


class TranslationOptions(SourceOptions):
    src_lang: str | None = None
    """The language of the texts, by the model's own code, such as "eng_Latn"."""
    tgt_lang: str | None = None
    """The language of the translations, by the model's own code, such as "deu_Latn"."""
