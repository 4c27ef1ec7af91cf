"""What encoder-decoders write of a source text: summaries, translations, any other text."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill.encoding.prompts.languages import language_ids
from tidemill.encoding.prompts.sources import SourceTokenizer
from tidemill.errors import ModelError
from tidemill.models.task import Preparer, Reading
from tidemill.models.tasks.writing.options import SourceOptions, TranslationOptions
from tidemill.models.tasks.writing.task import WritingTask

if TYPE_CHECKING:
    from transformers import PretrainedConfig

USUAL_LENGTH = 512
"""Tokens of a source where neither model nor tokenizer states a length, as T5 was trained with."""

_PAIR = re.compile(r"translation_([a-z]+)_to_([a-z]+)")


class TextToText(WritingTask):
    pipeline_tag = "text2text-generation"
    auto_class = "AutoModelForSeq2SeqLM"
    Options = SourceOptions
    heads = ("ForConditionalGeneration", "MTModel", "MarianMTModel")

    def preparer(self, folder: str | Path, reading: Reading) -> Preparer:
        if reading.model_max_length is None and reading.usual_length is None:
            reading = replace(reading, usual_length=USUAL_LENGTH)
        return SourceTokenizer.load(folder, **reading.of_texts, prefix=self._prefix, **self._languages)

    @property
    def _prefix(self) -> str:
        """Nothing in Transformers 5 reads what a checkpoint says of it."""
        if self.options.prefix is not None:
            return str(self.options.prefix)
        specific = self._specific.get(self._specific_name)
        return str(specific.get("prefix") or "") if isinstance(specific, dict) else ""

    @property
    def _specific(self) -> dict[str, Any]:
        """Task → what config.json says of it."""
        found = getattr(self.config, "task_specific_params", None)
        return found if isinstance(found, dict) else {}

    @property
    def _specific_name(self) -> str:
        return self.pipeline_tag

    @property
    def _languages(self) -> dict[str, Any]:
        return {}


class Summarization(TextToText):
    pipeline_tag = "summarization"
    text_column = "summary_text"


class Translation(TextToText):
    pipeline_tag = "translation"
    Options = TranslationOptions
    text_column = "translation_text"

    def __init__(self, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        pairs = self._pairs
        if pairs and self.options.prefix is None and self._specific_name not in pairs:
            raise ModelError(
                f"The model translates {', '.join(pairs.values())}. Set model.options.src_lang and tgt_lang to one of "
                "these pairs, or model.options.prefix to what stands before each text."
            )

    @property
    def _pairs(self) -> dict[str, str]:
        """Of a model that is told by a prefix what to translate: its tasks, each with its languages in words."""
        named = {name: _PAIR.fullmatch(name) for name in self._specific}
        return {name: f"{found[1]} to {found[2]}" for name, found in named.items() if found}

    @property
    def _specific_name(self) -> str:
        if len(self._pairs) == 1 and self.options.src_lang is None and self.options.tgt_lang is None:
            return next(iter(self._pairs))
        return f"translation_{self.options.src_lang}_to_{self.options.tgt_lang}"

    @property
    def _languages(self) -> dict[str, Any]:
        if self._pairs:
            return {}
        return {"src_lang": self.options.src_lang, "tgt_lang": self.options.tgt_lang, "translates": True}

    @functools.cached_property
    def forced_bos_token_id(self) -> int | None:
        if self.options.tgt_lang is None or self._pairs:
            return None
        folder, trust_remote_code = self._tokenizer or (self.config.name_or_path, False)
        return language_ids(folder, self.options.tgt_lang, trust_remote_code=trust_remote_code)
