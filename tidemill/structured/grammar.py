"""The form that answers must have: one of a few choices, or JSON of a schema."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from tidemill.errors import ModelError
from tidemill.structured.choices import ChoiceMatchers
from tidemill.structured.matching import Matchers


@dataclass(frozen=True)
class Grammar:
    """Known by its `source` alone: JSON with either `choices` or `json_schema`."""

    source: str

    @classmethod
    def of(cls, choices: Sequence[str] = (), json_schema: str | None = None) -> Self | None:
        """What the options of a task ask for; None where they ask for no form. They were checked before."""
        if not choices and json_schema is None:
            return None
        asked = {"choices": list(choices)} if choices else {"json_schema": json.loads(json_schema or "{}")}
        return cls(json.dumps(asked, ensure_ascii=False, separators=(",", ":")))

    @cached_property
    def choices(self) -> tuple[str, ...]:
        return tuple(self._asked.get("choices", ()))

    @cached_property
    def json_schema(self) -> dict[str, Any] | None:
        return self._asked.get("json_schema")

    @cached_property
    def _asked(self) -> dict[str, Any]:
        asked: dict[str, Any] = json.loads(self.source)
        return asked

    def matcher(
        self,
        tokenizer: str | Path,
        *,
        end_ids: Iterable[int],
        num_logits: int,
        trust_remote_code: bool = False,
    ) -> Matchers:
        """For the tokenizer in a folder, and a model that ends its answers with one of `end_ids` and has `num_logits`.

        Takes up to a second for a large vocabulary.

        Raises:
            ModelError: no answer of this form can be written by the tokenizer, or none can be ended.
            ConfigError: what holds a model to a JSON schema is not installed.
        """
        from tidemill.checkpoints.fast_tokenizer import open_fast

        # Of any length: it reads no texts here.
        backend = open_fast(tokenizer, max_length=1, trust_remote_code=trust_remote_code).backend
        ids = backend.get_vocab(with_added_tokens=True).values()
        ends = _known_ends(end_ids, min(num_logits, max(ids) + 1))
        if self.json_schema is None:
            return ChoiceMatchers.of(self.choices, backend, end_ids=ends, num_logits=num_logits)
        from tidemill.structured.json_matchers import JsonMatchers

        return JsonMatchers.of(self.json_schema, backend, end_ids=ends, num_logits=num_logits)


def _known_ends(end_ids: Iterable[int], num_ids: int) -> Collection[int]:
    known = {token_id for token_id in end_ids if 0 <= token_id < num_ids}
    if not known:
        raise ModelError(
            "model.options.choices and json_schema need a model that can end its answer, and this one's configuration "
            "names no end token of its vocabulary. Set eos_token_id in its generation_config.json."
        )
    return sorted(known)


def check_one_form(choices: Sequence[str], json_schema: object) -> None:
    """
    Raises:
        ValueError: answers would have two forms.
    """
    if choices and json_schema is not None:
        raise ValueError("choices and json_schema give answers two forms: take one of them out")
