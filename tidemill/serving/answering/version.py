"""A version opened to answer calls: its model, its texts' preparer, and what a call may ask beside its texts."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.config import Pipeline
from tidemill.encoding.items import TOKEN_IDS
from tidemill.encoding.windowing import are_windows
from tidemill.errors import InputError
from tidemill.inference.opening import load_preparer, load_runner, varied_runner
from tidemill.models.tasks import task_options
from tidemill.planning.version_tables import Version
from tidemill.planning.versions import VersionSpec
from tidemill.serving.answering.calls import Form, Texts

MOST_FORMS = 32
"""Options of calls that are kept opened, those that were asked for last."""
OF_A_CALL: Mapping[str, tuple[str, ...]] = {
    "zero-shot-classification": ("candidate_labels", "hypothesis_template", "multi_label"),
    "token-classification": ("aggregation_strategy", "ignore_labels"),
    **dict.fromkeys(
        ("text-generation", "summarization", "translation", "text2text-generation"),
        ("max_new_tokens", "stop", "do_sample", "temperature", "top_p", "top_k", "seed"),
    ),
}
"""Of each model task, the options that need no other model: a call may say them in `parameters`."""

Reading = Literal["prompt", "messages"]
"""What a client of OpenAI's gives: it is the whole prompt, whatever the pipeline makes of its own texts."""
PROMPTS_AS_THEY_ARE: Mapping[Reading | None, dict[str, Any]] = {
    "prompt": {"prompt": None, "system_prompt": None, "date": None, "thinking": False},
    "messages": {"prompt": None},
}


class ServedVersion:
    """A version of a pipeline, with its model on the device. Threads may share it."""

    def __init__(self, pipeline: Pipeline, version: Version) -> None:
        self.pipeline, self.spec, self.table = pipeline, version.spec, version.table
        self.name = version.spec.version
        declared = pipeline.inference.token_budget
        # A text beyond the budget that is declared is computed alone here, where a run would refuse it.
        runner = load_runner(self.spec, pipeline.inference.model_copy(update={"token_budget": "auto"}))
        if declared != "auto":
            runner.token_budget = declared
        self.runner = runner
        self._forms: OrderedDict[str, Form] = OrderedDict()
        self._opening = threading.Lock()
        self._looking = threading.Lock()
        self.plain = Form(load_preparer(self.spec), runner)
        """By the version's own options."""

    @property
    def may_vary(self) -> tuple[str, ...]:
        """The options that a call may say."""
        return OF_A_CALL.get(self.spec.task, ())

    def is_open(self, parameters: Mapping[str, Any], reading: Reading | None = None) -> bool:
        """Whether `form` has it at hand."""
        return (not parameters and reading is None) or _key(parameters, reading) in self._forms

    def form(self, parameters: Mapping[str, Any], reading: Reading | None = None) -> Form:
        """The version under a call's own options; with `reading`, a row is one prompt or chat, as it is.

        Raises:
            InputError: the task has no such option, or not with such a value, or a call cannot change it.
        """
        if not parameters and reading is None:
            return self.plain
        key = _key(parameters, reading)
        if (found := self._known(key)) is not None:  # At once, whatever another call opens meanwhile.
            return found
        with self._opening:
            found = self._known(key) or self._open(parameters, reading)
            with self._looking:
                self._forms[key] = found
                if len(self._forms) > MOST_FORMS:
                    self._forms.popitem(last=False)
        return found

    def _known(self, key: str) -> Form | None:
        with self._looking:
            if key in self._forms:
                self._forms.move_to_end(key)
            return self._forms.get(key)

    def _open(self, parameters: Mapping[str, Any], reading: Reading | None) -> Form:
        for name in parameters:
            if name not in self.may_vary:
                known = ", ".join(self.may_vary) or "none"
                raise InputError(
                    f"parameters.{name[:60]}: {self.spec.task} takes no such option in a request. It takes: {known}."
                )
        spec = self._varied({**parameters, **PROMPTS_AS_THEY_ARE.get(reading, {})})
        if reading is not None:
            spec = replace(spec, text=(reading,))
        runner = varied_runner(self.runner, spec, self.pipeline.inference)
        return Form(load_preparer(spec), runner)

    def _varied(self, parameters: Mapping[str, Any]) -> VersionSpec:
        options = task_options(self.spec.task, {**(self.spec.options or {}), **parameters})
        return replace(self.spec, options=options.model_dump(mode="json", exclude_defaults=True) or None)

    def texts(self, inputs: Sequence[Any], reading: Reading | None = None) -> list[Texts]:
        """What the version reads of a client's inputs: a text each, or an object of columns; with `reading`, a prompt
        or a list of messages each.

        Raises:
            InputError: an input is of another shape; the message names its place.
        """
        if reading is not None:
            return [(_json([value]), None) for value in inputs]
        return [self._texts(value, place) for place, value in enumerate(inputs)]

    def _texts(self, value: Any, place: int) -> Texts:
        pair, columns = self.spec.text_pair, self.spec.text
        if isinstance(value, str) and pair is None and (len(columns) == 1 or not self._as_parts):
            return (_json([value]) if self._as_parts else value), None
        if isinstance(value, list) and self._as_parts and len(columns) == 1:
            return _json([value]), None
        if isinstance(value, Mapping) and set(value) == {"text", "text_pair"} and pair is not None:
            value = {columns[0]: value["text"], pair[0]: value["text_pair"]}
        if not isinstance(value, Mapping) or set(value) != {*columns, *(pair or ())}:
            raise InputError(f"inputs[{place}] {self._wanted}")
        return self._joined(value, columns, place), None if pair is None else self._joined(value, pair, place)

    def _joined(self, value: Mapping[str, Any], columns: Sequence[str], place: int) -> str:
        cells = [value[name] for name in columns]
        if self._as_parts:
            return _json(cells)
        if not all(isinstance(cell, str) for cell in cells):
            raise InputError(f"inputs[{place}] {self._wanted}")
        return self.spec.text_separator.join(cells)

    @property
    def _as_parts(self) -> bool:
        return self.spec.joined_text.as_parts

    @property
    def _wanted(self) -> str:
        """What an input has to be."""
        columns = (*self.spec.text, *(self.spec.text_pair or ()))
        if len(columns) == 1:
            also = ", or a list of messages" if self._as_parts else ""
            return f"is not a text{also}, or an object with a text for {columns[0]}."
        return f"is not an object with a text for each of {', '.join(columns)}."


def _key(parameters: Mapping[str, Any], reading: Reading | None) -> str:
    return f"{reading} {_json(parameters, orjson.OPT_SORT_KEYS)}"


def rows_of(texts: Sequence[Texts]) -> pa.Table:
    """The table that a run would read of these."""
    firsts, seconds = zip(*texts, strict=True)
    columns = {"row_number": pa.array(range(len(texts)), pa.int64()), "text": pa.array(firsts, pa.string())}
    if seconds[0] is not None:
        columns["text_pair"] = pa.array(seconds, pa.string())
    columns["reason"] = pa.nulls(len(texts), pa.string())
    return pa.table(columns)


def sizes_of(form: Form, tokens: pa.Table) -> tuple[list[int], list[int]]:
    """How many items each row has, and what a batch is padded to if its longest item is the longest; 0 without any."""
    column = tokens[TOKEN_IDS].combine_chunks()
    column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    if not are_windows(column):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        return [1] * len(lengths), form.runner.widths(lengths.astype(np.int64)).tolist()
    of_items = [[len(item) for item in row] if row else [0] for row in (each.values for each in column)]
    return [len(row) for row in of_items], form.runner.widths(np.array([max(row) for row in of_items])).tolist()


def _json(value: Any, option: int = 0) -> str:
    try:
        return orjson.dumps(value, option=option).decode()
    except orjson.JSONEncodeError:
        raise InputError("The body is nested too deep.") from None
