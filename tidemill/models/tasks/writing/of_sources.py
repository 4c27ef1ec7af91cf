"""What encoder-decoders write of a source text: summaries, translations, any other text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tidemill.models.task import Preparer, Reading
from tidemill.models.tasks.writing.options import SourceOptions, TranslationOptions
from tidemill.models.tasks.writing.task import WritingTask

USUAL_LENGTH = 512
"""Tokens of a source where neither model nor tokenizer states a length, as T5 was trained with."""


class TextToText(WritingTask):
    pipeline_tag = "text2text-generation"
    auto_class = "AutoModelForSeq2SeqLM"
    Options = SourceOptions
    heads = ("ForConditionalGeneration", "MTModel", "MarianMTModel")

    def preparer(self, folder: str | Path, reading: Reading) -> Preparer:
        if reading.model_max_length is None and reading.usual_length is None:
            reading = replace(reading, usual_length=USUAL_LENGTH)
        return super().preparer(folder, reading)


class Summarization(TextToText):
    pipeline_tag = "summarization"
    text_column = "summary_text"


class Translation(TextToText):
    pipeline_tag = "translation"
    Options = TranslationOptions
    text_column = "translation_text"
