"""What encoder-decoders write of a source text: summaries, translations, any other text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tidemill.errors import ModelError
from tidemill.models.task import Preparer, Reading
from tidemill.models.tasks.writing.options import SourceOptions, SummarizationOptions, TranslationOptions
from tidemill.models.tasks.writing.task import WritingTask

USUAL_LENGTH = 512
"""Tokens of a source where neither model nor tokenizer states a length, as T5 was trained with."""
_PAIR = re.compile(r"translation_(.+)_to_(.+)")


class TextToText(WritingTask):
    pipeline_tag = "text2text-generation"
    auto_class = "AutoModelForSeq2SeqLM"
    Options = SourceOptions
    options_of_texts = frozenset({"prefix", "src_lang", "tgt_lang"})
    heads = ("ForConditionalGeneration", "MTModel", "MarianMTModel")

    def preparer(self, folder: str | Path, reading: Reading) -> Preparer:
        from tidemill.encoding.prompts import SourceTokenizer

        if reading.model_max_length is None and reading.usual_length is None:
            reading = replace(reading, usual_length=USUAL_LENGTH)
        return SourceTokenizer.load(folder, **reading.of_texts, prefix=self._prefix, **self._languages)

    @property
    def _prefix(self) -> str:
        if self.options.prefix is not None:
            return str(self.options.prefix)
        return str(self._of_tasks.get(self.pipeline_tag, {}).get("prefix") or "")

    @property
    def _languages(self) -> dict[str, Any]:
        """What a tokenizer is told of them."""
        return {}

    @property
    def _of_tasks(self) -> Mapping[str, Mapping[str, Any]]:
        """What config.json's task_specific_params says of the tasks that the model was trained on."""
        said = getattr(self.config, "task_specific_params", None)
        return {name: value for name, value in (said or {}).items() if isinstance(value, dict)}


class Summarization(TextToText):
    pipeline_tag = "summarization"
    Options = SummarizationOptions
    text_column = "summary_text"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.options.reduce and self.pooling is None:
            raise ModelError(
                "model.options.reduce = true summarises the summaries of a text's windows, and no text is read in "
                'windows. Set tokenizer.long_text = "windows", or leave it out.'
            )

    @classmethod
    def reads_again(cls, options: SummarizationOptions) -> bool:
        return options.reduce


class Translation(TextToText):
    """The languages are told by tokens, or by a prefix where config.json has one for each two of them."""

    pipeline_tag = "translation"
    Options = TranslationOptions
    text_column = "translation_text"

    @property
    def _prefix(self) -> str:
        if self.options.prefix is not None or not self._pairs:
            return super()._prefix
        return str(self._of_tasks[self._pair_named].get("prefix") or "")

    @property
    def _languages(self) -> dict[str, Any]:
        if self._pairs and self.options.prefix is None:
            return {}
        return {"src_lang": self.options.src_lang, "tgt_lang": self.options.tgt_lang, "translates": True}

    @property
    def _first_token(self) -> int | None:
        from tidemill.encoding.prompts import language_ids

        target = self._languages.get("tgt_lang")
        return None if target is None else language_ids(self.config.name_or_path, target)

    @property
    def _pairs(self) -> list[str]:
        return [name for name in self._of_tasks if _PAIR.fullmatch(name)]

    @property
    def _pair_named(self) -> str:
        """
        Raises:
            ModelError: the options name no two languages that the model has a prefix for.
        """
        source, target = self.options.src_lang, self.options.tgt_lang
        named = f"translation_{source}_to_{target}"
        if named in self._pairs:
            return named
        if source is None and target is None and len(self._pairs) == 1:
            return self._pairs[0]
        (near,) = difflib.get_close_matches(named, self._pairs, n=1, cutoff=0)
        like = _PAIR.fullmatch(near)
        assert like is not None, "it is one of those that match"
        raise ModelError(
            f"The model's config.json has prefixes for {', '.join(sorted(self._pairs))}. Set model.options.src_lang "
            f'and tgt_lang to two of these languages, such as "{like[1]}" and "{like[2]}", or model.options.prefix to '
            "what the model reads before each text."
        )
