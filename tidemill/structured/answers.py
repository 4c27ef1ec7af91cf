"""What becomes of an answer's text: one of the choices, or JSON whose properties are columns. None is ever repaired."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.errors import ModelError
from tidemill.structured.columns import columns_of
from tidemill.structured.formats import format_checker
from tidemill.structured.grammar import Grammar
from tidemill.structured.strict_json import as_json, read_strictly

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator, ValidationError

_CUT = (
    "the answer was cut at the limit of new tokens before it was whole: raise model.options.max_new_tokens, or ask for "
    "less"
)
_LONGEST_REASON = 300
_DECIMAL = re.compile(r"Decimal\('([^']*)'\)")


@dataclass(frozen=True)
class AnswerSchema:
    """`fields` are the columns beside the text: one for each property at the top of a JSON schema, none for choices."""

    grammar: Grammar
    fields: pa.Schema

    @classmethod
    def of(cls, grammar: Grammar, *, taken: Collection[str] = ()) -> Self:
        """`taken` are the names of the task's own columns.

        Raises:
            ModelError: a property has the name of a column that every such table has.
        """
        types = columns_of(grammar.json_schema) if grammar.json_schema is not None else {}
        _refuse_names(types, taken)
        return cls(grammar, pa.schema([(name, type_ or pa.string()) for name, type_ in types.items()]))

    def texts(self, texts: pa.StringArray) -> pa.StringArray:
        """What the text column holds: the answer without the one blank that a tokenizer puts before a word."""
        return pc.replace_substring_regex(texts, r"\A ", "")

    def parse(self, texts: pa.StringArray, finished: NDArray[np.bool_]) -> tuple[list[pa.Array], pa.StringArray]:
        """The columns of `fields`, and why a row has no answer; of a text that is null neither has a value.

        What is not `finished` was cut at the limit.
        """
        pairs = zip(self.texts(texts).to_pylist(), finished.tolist(), strict=True)
        answers = [self._read(text, is_whole=is_whole) for text, is_whole in pairs]
        columns = [
            pa.array([_cell(answer.values.get(name), type_) for answer in answers], type_ or pa.string())
            for name, type_ in self._types.items()
        ]
        return columns, pa.array([answer.reason for answer in answers], pa.string())

    def _read(self, text: str | None, *, is_whole: bool) -> _Answer:
        if text is None:
            return _Answer()
        if not is_whole:
            return _Answer(reason=_CUT)
        return self._of_choice(text) if self.grammar.json_schema is None else self._of_json(text)

    def _of_choice(self, text: str) -> _Answer:
        if text in self.grammar.choices:
            return _Answer()
        return _Answer(reason=_line(f"the answer {text!r:.80} is none of model.options.choices"))

    def _of_json(self, text: str) -> _Answer:
        try:
            answer = read_strictly(text)
        except ValueError as e:
            return _Answer(reason=_line(f"the answer is not JSON that can be kept: {e}"))
        problem = self._problem(answer)
        return _Answer(answer) if problem is None else _Answer(reason=_line(problem))

    def _problem(self, answer: Any) -> str | None:
        from jsonschema.exceptions import best_match

        try:
            error: ValidationError | None = best_match(self._validator.iter_errors(answer))
        except (RecursionError, ArithmeticError) as e:
            return f"the answer cannot be held against model.options.json_schema: {e}"
        if error is None:
            return None
        return f"the answer is not as model.options.json_schema says at {error.json_path}: {_shown(error)}"

    @functools.cached_property
    def _validator(self) -> Draft202012Validator:
        from jsonschema import Draft202012Validator
        from referencing import Registry

        # Numbers as they were written, on both sides: 0.3 is a multiple of 0.1. And nothing is ever fetched.
        schema = read_strictly(json.dumps(self.grammar.json_schema))
        return Draft202012Validator(schema, registry=Registry(), format_checker=format_checker())

    @functools.cached_property
    def _types(self) -> dict[str, pa.DataType | None]:
        return {} if self.grammar.json_schema is None else columns_of(self.grammar.json_schema)


@dataclass(frozen=True)
class _Answer:
    values: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None


def _cell(value: Any, type_: pa.DataType | None) -> Any:
    if value is None:
        return None
    if type_ is None:
        return as_json(value)
    if pa.types.is_list(type_):
        return [_cell(item, type_.value_type) for item in value]
    return float(value) if pa.types.is_floating(type_) else value


def _shown(error: ValidationError) -> str:
    """What is wrong, without the whole of a long answer."""
    message = str(error.message)
    if len(message) > _LONGEST_REASON // 2:
        message = f"{error.validator} is {error.validator_value!r:.80}, which {error.instance!r:.80} is not as"
    return _DECIMAL.sub(r"\1", message)


def _line(reason: str) -> str:
    return " ".join(reason.split())[:_LONGEST_REASON]


def _refuse_names(names: Collection[str], taken: Collection[str]) -> None:
    from tidemill.lake.tables import RESERVED_NAMES

    of_table = {name.lower() for name in (*taken, *RESERVED_NAMES)}
    for name in names:
        if name.lower() in of_table:
            raise ModelError(
                f'model.options.json_schema has the property "{name}", and every such table has a column of that name. '
                f'Rename the property, such as to "answer_{name.strip("_")}".'
            )
