"""`[model.options]` of tasks whose models write."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from tidemill.config import Section
from tidemill.engines.writing.generation.settings import Sampling
from tidemill.structured import check_choices, check_one_form, read_json_schema

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

    choices: list[str] | None = None
    """The answers that there are: the model writes one of them, and nothing else."""
    json_schema: str | None = None
    """A JSON schema of an object, as a table, as JSON or as the path of a JSON file: the model writes JSON that holds
    it, and each property at its top is a column."""

    @field_validator("choices")
    @classmethod
    def _can_be_told_apart(cls, choices: list[str] | None) -> list[str] | None:
        return None if choices is None else check_choices(choices)

    @field_validator("json_schema", mode="before")
    @classmethod
    def _is_checked_as_it_says(cls, schema: object) -> str | None:
        return read_json_schema(schema)

    @model_validator(mode="after")
    def _has_one_form(self) -> WritingOptions:
        check_one_form(self.choices or (), self.json_schema)
        return self

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

    @model_validator(mode="after")
    def _thinks_in_no_form(self) -> TextGenerationOptions:
        if self.thinking and (self.choices or self.json_schema):
            raise ValueError("thinking = true lets a model write before its answer, and choices and json_schema do not")
        return self


class SourceOptions(WritingOptions):
    prefix: str | None = None
    """What is put before each text; what config.json's task_specific_params says of the task if not given."""


class SummarizationOptions(SourceOptions):
    reduce: bool = False
    """Summarise what was written of a text's windows again, until one summary is left. Without it the windows'
    summaries follow each other."""


class TranslationOptions(SourceOptions):
    src_lang: str | None = None
    """The language of the texts, by the model's own code, such as "eng_Latn"."""
    tgt_lang: str | None = None
    """The language of the translations, by the model's own code, such as "deu_Latn"."""
