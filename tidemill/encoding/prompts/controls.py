"""Control tokens are a template's alone: text of a row that looks like one is tokenized as text.

The tokenizer is told to know its special tokens no more. Those that a template's
words have stand in the prompt under other names, which it does know; so everything
else is exactly its own doing, and a prompt whose row looks like no control token has
the ids that Transformers gives it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tidemill.encoding.prompts.marked import Marked, Span

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ids = NDArray[np.int32]

_MOST_KEPT = 4096
_SHORT = 32


class ControlTokens:
    """A tokenizer's tokens that mean something to its model beyond their text. Threads may share it."""

    def __init__(self, backend: Tokenizer, tokens: Mapping[int, Any], *, words: str = "") -> None:
        """Of `tokens`, which are Transformers' `added_tokens_decoder`, those count that are special, and those that the
        `words` of a template have.
        """
        own = {number: token for number, token in tokens.items() if token.content and _is_control(token, words)}
        self.backend = _knowing_none(backend, [token.content for token in own.values() if not token.special])
        self._names = {token.content: _alias(number) for number, token in own.items()}
        self._pattern = re.compile("|".join(map(re.escape, sorted(self._names, key=len, reverse=True))) or "(?!)")
        self.rename = _renaming(self.backend, own)
        """For each of the tokenizer's ids, what the model knows it by."""
        self.is_control = np.isin(self.rename, sorted(own))
        """Which of them are control tokens, by their own or by another name. The token of what the vocabulary lacks is
        one by the other alone."""
        self.is_control[sorted(_unknown(self.backend))] = False
        # A template's words are the same in most prompts.
        self._kept_with_names = functools.lru_cache(_MOST_KEPT)(self._with_names)
        self._innocent: set[str] = set()

    def first_in(self, text: str) -> str | None:
        """The first control token that a text looks like."""
        if text in self._innocent:
            return None
        found = self._pattern.search(text)
        if found is None and len(text) <= _SHORT and len(self._innocent) < _MOST_KEPT:
            self._innocent.add(text)
        return found[0] if found else None

    def is_within(self, text: str) -> bool:
        """Whether a text is a part of some control token, which a template may put together."""
        return any(text in name for name in self._names)

    def encoded_form(self, prompt: Marked) -> tuple[Marked, int]:
        """The prompt as the tokenizer is given it: with its template's control tokens under their other names; and how
        many those are.
        """
        if prompt.spans is None:
            text, num_names = self._with_names(prompt.text)
            return Marked(text, None), num_names
        pieces: list[str | Marked] = []
        num_names = 0
        for stretch, span in prompt.stretches():
            if span is not None:
                pieces.append(Marked(stretch, (Span(0, len(stretch), span.may_go),)))
                continue
            words, number = self._kept_with_names(stretch)
            pieces.append(words)
            num_names += number
        return Marked.joined(pieces), num_names

    def restored(self, ids: Sequence[int] | Ids) -> Ids:
        """The ids that the model knows."""
        restored: Ids = self.rename[np.asarray(ids, dtype=np.int64)]
        return restored

    def num_control(self, ids: Sequence[int] | Ids) -> int:
        """Control tokens among the tokenizer's ids: if they are more than the names in a prompt, a text made some."""
        return int(self.is_control[np.asarray(ids, dtype=np.int64)].sum())

    def _with_names(self, text: str) -> tuple[str, int]:
        return self._pattern.subn(lambda found: self._names[found[0]], text)


def _is_control(token: Any, words: str) -> bool:
    return bool(token.special or (token.content in words and not token.content.isspace()))


def _alias(number: int) -> str:
    """Another name of a token: letters and digits alone, which no normalizer changes.

    It begins with a letter that it has nowhere else, so that no text before it makes another name with its beginning.
    """
    return f"xqtidemill{number:09d}q"


def _knowing_none(backend: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """A tokenizer that takes its special tokens, and those of these names, for text."""
    if names:
        from tokenizers import Tokenizer

        facts = json.loads(backend.to_str())
        for token in facts["added_tokens"]:
            token["special"] = token["special"] or token["content"] in names
        backend = Tokenizer.from_str(json.dumps(facts))
    backend.encode_special_tokens = True
    return backend


def _renaming(backend: Tokenizer, tokens: Mapping[int, Any]) -> Ids:
    """Adds the other names to the tokenizer: for each of its ids, what the model knows it by."""
    from tokenizers import AddedToken

    flags: Sequence[str] = ("single_word", "lstrip", "rstrip", "normalized")
    backend.add_tokens(
        [
            AddedToken(_alias(number), special=False, **{flag: getattr(token, flag) for flag in flags})
            for number, token in tokens.items()
        ]
    )
    largest = max([*backend.get_vocab(with_added_tokens=True).values(), *tokens], default=0)
    rename = np.arange(largest + 1, dtype=np.int32)
    for number in tokens:
        rename[_id(backend, _alias(number))] = number
    return rename


def _id(backend: Tokenizer, name: str) -> int:
    found = backend.token_to_id(name)
    assert found is not None, "it was just added"
    return int(found)


def _unknown(backend: Tokenizer) -> set[int]:
    """The token that the vocabulary's model gives for what it lacks."""
    model = json.loads(backend.to_str())["model"]
    named = model.get("unk_token")
    number = model.get("unk_id") if named is None else backend.token_to_id(named)
    return set() if number is None else {int(number)}
