"""What the tasks of models that write have in common."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.checkpoints.fast_tokenizer import load_whole
from tidemill.checkpoints.served import is_served
from tidemill.encoding.batching import Indices
from tidemill.encoding.items import Outputs
from tidemill.engines.writing import open_writer
from tidemill.engines.writing.generation.settings import GENERATION_CONFIG, Settings
from tidemill.engines.writing.generation.written import ANSWER, FAILED, LENGTH, STOP, answers_of
from tidemill.errors import ModelError
from tidemill.models.comparing import OF_WRITTEN
from tidemill.models.task import ModelTask
from tidemill.models.tasks.writing.forms import in_form
from tidemill.structured import AnswerSchema, Grammar

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from tidemill.config import Inference
    from tidemill.engines import Engine, Load

FINISHES = {STOP: "stop", LENGTH: "length"}
BETWEEN_WINDOWS = "\n"
"""What joins the texts that were written of a long text's windows."""


class WritingTask(ModelTask):
    """An answer is what the model wrote: its ids, and why it ended there."""

    family = "texts"
    writes = True
    reads_files = (GENERATION_CONFIG,)
    comparisons = OF_WRITTEN
    text_column: ClassVar[str] = "text"
    heads: ClassVar[tuple[str, ...]]
    """How the names of architectures end that can do it."""

    def __init__(self, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        if self.all_scores:
            raise ModelError(
                "model.all_scores = true stores a score for each class of a text, and model.task = "
                f'"{self.pipeline_tag}" writes texts. Leave it out.'
            )
        architectures = config.architectures or []
        if architectures and not any(name.endswith(self.heads) for name in architectures):
            raise ModelError(
                f'The model is a {", ".join(architectures)}, and model.task = "{self.pipeline_tag}" needs a '
                f"{' or a '.join(f'...{head}' for head in self.heads)}. Set model.path to a model that writes, or "
                "choose another task."
            )
        if self.pooling is not None and self.form is not None:
            raise ModelError(
                'tokenizer.long_text = "windows" joins what is written of each window, and model.options.choices and '
                'json_schema ask for one answer of a form. Set long_text to "truncate" or "quarantine".'
            )
        self._tokenizer: tuple[str | Path, bool] | None = None

    @functools.cached_property
    def form(self) -> AnswerSchema | None:
        """What an answer must look like; None where any text will do.

        Raises:
            ModelError: a property of the schema has the name of a column.
        """
        grammar = Grammar.of(self.options.choices or (), self.options.json_schema)
        return None if grammar is None else AnswerSchema.of(grammar, taken=self._of_text.names)

    @property
    def settings(self) -> Settings:
        trusts = self._tokenizer is not None and self._tokenizer[1]
        return replace(self._settings, trust_remote_code=trusts)

    @functools.cached_property
    def _settings(self) -> Settings:
        return Settings.of(
            self.config.name_or_path,
            self.config,
            max_new_tokens=self.options.max_new_tokens,
            stop=tuple(self.options.stop),
            sampling=self.options.sampling,
            forced_bos_token_id=self._first_token,
            grammar=None if self.form is None else self.form.grammar,
        )

    @property
    def _first_token(self) -> int | None:
        """What every answer begins with, where the options say so."""
        return None

    @property
    def is_served(self) -> bool:
        """Whether a server has the model: prompts go to it as bytes, and bytes are what it wrote."""
        return is_served(self.config.name_or_path)

    @property
    def num_written(self) -> int:
        return self.settings.max_new_tokens

    @property
    def schema(self) -> pa.Schema:
        return self._of_text if self.form is None else pa.schema([*self._of_text, *self.form.fields])

    @property
    def _of_text(self) -> pa.Schema:
        """The columns that every answer has."""
        return pa.schema(
            [
                (self.text_column, pa.string()),
                ("finish_reason", pa.string()),
                ("num_prompt_tokens", pa.int32()),
                ("num_new_tokens", pa.int32()),
            ]
        )

    @property
    def answer_type(self) -> pa.DataType:
        return ANSWER

    def decode_with(self, folder: str | Path, *, trust_remote_code: bool = False) -> None:
        self._tokenizer = folder, trust_remote_code

    def open_engine(self, folder: str | Path, *, load: Load, inference: Inference) -> Engine:
        assert self._tokenizer is not None, "what ends an answer is read by a tokenizer that somebody names"
        tokenizer, _ = self._tokenizer
        return open_writer(folder, load=load, settings=self.settings, inference=inference, tokenizer=tokenizer)

    def engine_beside(self, engine: Any) -> Engine:
        beside: Engine = engine.under(self.settings)
        return beside

    def num_new_tokens(self, answers: pa.Array) -> int | None:
        total: int | None = pc.sum(answers.field("num_new_tokens")).as_py()
        return total

    def answers(self, outputs: Outputs, lengths: Indices) -> pa.Array:
        return answers_of(outputs.astype(np.int32, copy=False))

    def joined(self, answers: Sequence[Mapping[str, Any]]) -> str:
        return BETWEEN_WINDOWS.join(self._text(each["ids"], each["finish"])[0] or "" for each in answers)

    def rows(self, answers: pa.ListArray, prepared: pa.Table) -> tuple[pa.Table, pa.StringArray]:
        """Of a row in windows the texts follow each other, a line each; of one that was read again it is the last.

        The counts are of all that was written.
        """
        made = [self._row(row) for row in answers.to_pylist()]
        values = list(zip(*made, strict=True)) or [()] * len(self._types)
        *results, reasons = (pa.array(each, kind) for each, kind in zip(values, self._types, strict=True))
        table = pa.table(results, schema=self._of_text)
        if self.form is None:
            return table, reasons
        is_cut = pc.equal(table["finish_reason"].combine_chunks(), pa.scalar(FINISHES[LENGTH]))
        table, of_form = in_form(self.form, table, text_column=self.text_column, is_cut=pc.fill_null(is_cut, False))
        return table, pc.coalesce(reasons, of_form)

    @property
    def _types(self) -> list[pa.DataType]:
        return [*self._of_text.types, pa.string()]

    def _row(self, written: Sequence[Mapping[str, Any]] | None) -> tuple[Any, ...]:
        """The values of `_of_text`, and the reason where there are none."""
        nothing = (None,) * len(self._of_text)
        if written is None:
            return (*nothing, None)
        texts = []
        told = self._told(written)
        for each in told:
            text, reason = self._text(each["ids"], each["finish"])
            if text is None:
                return (*nothing, reason)
            texts.append(text)
        finish = LENGTH if any(each["finish"] == LENGTH for each in told) else STOP
        counts = (_sum(each[name] for each in written) for name in ("num_prompt_tokens", "num_new_tokens"))
        return (BETWEEN_WINDOWS.join(texts), FINISHES[finish], *counts, None)

    def _told(self, written: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Of what was written, that which is the answer, or why there is none."""
        if not self.reads_again(self.options):
            return written
        return [*(each for each in written[:-1] if each["finish"] == FAILED), *written[-1:]]

    def drift(self, ours: pa.Array, theirs: pa.Array) -> NDArray[np.float32]:
        """1 where another text was written, else 0."""
        return np.asarray(~self.same(ours, theirs), dtype=np.float32)

    def same(self, ours: pa.Array, theirs: pa.Array) -> NDArray[np.bool_]:
        pairs = zip(ours.field("ids").to_pylist(), theirs.field("ids").to_pylist(), strict=True)
        return np.array([mine == other for mine, other in pairs], dtype=bool)

    def _text(self, ids: Sequence[int], finish: int) -> tuple[str | None, str | None]:
        if finish == FAILED:
            return None, bytes(ids).decode(errors="replace")
        text, reason = self._answer(self._decode(ids), finish)
        if text is None:
            return None, reason
        ends = [at for stop in self.options.stop if (at := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text, None

    def _answer(self, text: str, finish: int) -> tuple[str | None, str | None]:
        """What of the text that was written is the answer; or why there is none."""
        return text, None

    def begun(self, ids: Sequence[int]) -> str:
        """What is certain of the text of an answer that begins with these ids, as an engine gives them.

        Left out is a letter that is half written, what may become a stop text, and what is thought before the answer.
        """
        text, _ = self._answer(self._decode(ids), LENGTH)
        if text is None:
            return ""
        text = text.rstrip("\ufffd")
        ends = [at for stop in self.options.stop if (at := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text[: len(text) - _most_of_a_stop(text, self.options.stop)]

    def _decode(self, ids: Sequence[int]) -> str:
        if self.is_served:
            return bytes(ids).decode(errors="replace")
        # What has a form is read as it was written: a blank that is taken out makes another choice, or other JSON.
        how = {} if self.form is None else {"clean_up_tokenization_spaces": False}
        text: str = self._decoder.decode(ids, skip_special_tokens=True, **how)
        return text

    @functools.cached_property
    def _decoder(self) -> Any:
        assert self._tokenizer is not None, "texts are decoded by a tokenizer that somebody names"
        folder, trust_remote_code = self._tokenizer
        return load_whole(folder, trust_remote_code=trust_remote_code)


def _most_of_a_stop(text: str, stops: Sequence[str]) -> int:
    """How many letters at the end of the text may begin a stop text.

    >>> _most_of_a_stop("one two #", ["##"])
    1
    """
    lengths = (size for stop in stops for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size]))
    return max(lengths, default=0)


def _sum(counts: Iterable[int | None]) -> int | None:
    """None where one of them is not known."""
    known = list(counts)
    return None if None in known else sum(count for count in known if count is not None)
