"""Answers that are JSON of a schema: llguidance says which tokens keep an answer such that it can still become it.

JSON is written in one line, with at most one blank behind a comma or a colon: a model that may write blanks may
write nothing else. What a grammar cannot hold, such as `uniqueItems`, is left to the check of the answer.

Shapes: V logits of the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError, ModelError
from tidemill.structured.schemas import Schema, subschemas

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from tokenizers import Tokenizer

_WRITTEN = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?", "lenient": True}
_LARGEST = 10**18 - 1
"""A model that has begun to repeat itself ends a number here, which a column still holds."""

_BEFORE_AN_ERROR = re.compile(r"\Aat \d+\(\d+\): (failed to compile JSON schema: )?")
_BEHIND_AN_ERROR = re.compile(r"<state>|^\s*\d+ \| ", re.MULTILINE)
_PROBE = '{"a": [1.5, -2, true, false, null], "b": {}}'
_BLANKS_OF_PIECES = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}
"""What `Metaspace` decodes, in the words that llguidance knows."""


class JsonMatchers:
    """Of one schema. Threads may share it."""

    def __init__(self, first: LLMatcher, end_ids: Collection[int], num_logits: int) -> None:
        self._first, self.end_ids, self.num_logits = first, np.array(sorted(end_ids), dtype=np.int64), num_logits

    @classmethod
    def of(cls, schema: Schema, tokenizer: Tokenizer, *, end_ids: Collection[int], num_logits: int) -> Self:
        """
        Raises:
            ModelError: the schema or the tokenizer is of a kind that no grammar is made for.
            ConfigError: llguidance is not installed.
        """
        try:
            from llguidance import LLMatcher
        except ImportError as e:
            raise ConfigError(
                "model.options.json_schema needs llguidance, which is not installed: pip install "
                '"tidemill[structured]".'
            ) from e
        _refuse_what_loses_json(tokenizer, schema)
        vocabulary = _vocabulary(tokenizer, end_ids, num_logits)
        first = LLMatcher(vocabulary, _grammar_of(schema), log_level=0)
        if first.is_error():
            raise ModelError(
                f"No grammar can be made of model.options.json_schema: {_in_a_line(first.get_error())}. Take that "
                "out of the schema."
            )
        return cls(first, end_ids, num_logits)

    def new(self) -> JsonMatcher:
        return JsonMatcher(self, self._first.deep_copy())


class JsonMatcher:
    """Of one row's answer."""

    def __init__(self, of: JsonMatchers, state: LLMatcher) -> None:
        self._of, self._state = of, state
        self.problem: str | None = None

    @property
    def is_finished(self) -> bool:
        return self.problem is not None or bool(self._state.is_stopped())

    def allowed(self) -> NDArray[np.bool_]:
        if self.problem is not None:
            return np.zeros(self._of.num_logits, dtype=bool)
        bits = np.frombuffer(self._state.compute_bitmask(), dtype=np.uint8)
        mask_V = np.unpackbits(bits, count=self._of.num_logits, bitorder="little").view(bool)
        if not self._state.is_accepting():
            # To a checkpoint a token that is part of a text may be an end token too.
            mask_V[self._of.end_ids] = False
        if not mask_V.any():
            self.problem = "the answer cannot go on: the model's vocabulary has no token for what must follow"
        self._look_for_errors()
        return mask_V

    def accept(self, token_id: int) -> None:
        self._state.consume_token(token_id)
        self._look_for_errors()

    def copy(self) -> JsonMatcher:
        other = JsonMatcher(self._of, self._state.deep_copy())
        other.problem = self.problem
        return other

    def _look_for_errors(self) -> None:
        if self._state.is_error():
            self.problem = f"the answer cannot go on: {_in_a_line(self._state.get_error())}"


def _grammar_of(schema: Schema) -> str:
    bounded = {**_bounded(schema), "x-guidance": _WRITTEN}
    bounded.pop("$schema", None)
    # A tokenizer of pieces begins a text with a blank, which it takes off again when it decodes.
    return f'start: " "? answer\nanswer: %json {json.dumps(bounded)}'


def _bounded(schema: Schema) -> Any:
    """A copy whose integers have an end."""
    copied = json.loads(json.dumps(schema))
    for _, inner in subschemas(copied):
        if inner.get("type") == "integer" and "enum" not in inner and "const" not in inner:
            if "minimum" not in inner and "exclusiveMinimum" not in inner:
                inner["minimum"] = -_LARGEST
            if "maximum" not in inner and "exclusiveMaximum" not in inner:
                inner["maximum"] = _LARGEST
    return copied


def _refuse_what_loses_json(tokenizer: Tokenizer, schema: Schema) -> None:
    """T5's vocabulary has no braces, and a tokenizer of words puts blanks around them."""
    names = [name for _, inner in subschemas(schema) for name in inner.get("properties", {})]
    for text in (_PROBE, *(json.dumps(name, ensure_ascii=False) for name in names)):
        read = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=True)
        if read.removeprefix(" ") != text:
            raise ModelError(
                "The model's tokenizer cannot write JSON of model.options.json_schema: what it writes for "
                f"{text} reads {read}. Choose another model, or set model.options.choices in place of it."
            )


def _vocabulary(tokenizer: Tokenizer, end_ids: Collection[int], num_logits: int) -> Any:
    from llguidance import LLTokenizer

    described = json.loads(tokenizer.to_str())
    if (described.get("decoder") or {}).get("type") == "Metaspace":
        described["decoder"] = _BLANKS_OF_PIECES
    size = max(num_logits, *(token_id + 1 for token_id in tokenizer.get_vocab(with_added_tokens=True).values()))
    try:
        return LLTokenizer(json.dumps(described), n_vocab=size, eos_token=list(end_ids))
    except ValueError as e:
        raise ModelError(
            f"model.options.json_schema cannot be used with the model's tokenizer: {_in_a_line(str(e))}. Choose "
            "another model, or set model.options.choices in place of it."
        ) from e


def _in_a_line(text: str) -> str:
    """What llguidance says of an error, without arrows, and without the place in a grammar that nobody wrote."""
    lines = _BEHIND_AN_ERROR.split(_BEFORE_AN_ERROR.sub("", text))[0].splitlines()
    return " ".join(line.strip() for line in lines if line.strip(" ^")).rstrip(".")[:300]
