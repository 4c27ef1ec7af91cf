"""Answers that are one of a few texts: a tree of the tokens that write them.

Each choice is written as its tokenizer writes it: at the beginning, behind a line
break, and behind a blank, since what a prompt ends with decides which of them a
model finds natural. Other ways to cut it into tokens are none that a model was
trained on.

Shapes: V logits of the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CONTEXTS = ("", "\n")
"""What a choice may stand behind."""
_TWO_BLANKS = ("▁▁", "ĠĠ")
"""How pieces begin that nobody writes: with a blank of the text's own behind the tokenizer's."""


def check_choices(choices: Sequence[str]) -> list[str]:
    """The choices, if answers can be told apart by them.

    Raises:
        ValueError: there is none, or one is empty, there twice, or has blanks at its ends.
    """
    if not choices:
        raise ValueError('is empty: give a list of choices, such as ["yes", "no"]')
    stripped = [choice.strip() for choice in choices]
    if not all(stripped):
        raise ValueError("holds an empty choice: take it out, or name it")
    if doubled := [choice for choice, count in Counter(stripped).items() if count > 1]:
        raise ValueError(f"holds {', '.join(map(repr, doubled))} more than once: take one out")
    if padded := [choice for choice in choices if choice != choice.strip()]:
        raise ValueError(f"holds {padded[0]!r}, which begins or ends with a blank: write it without")
    return list(choices)


@dataclass
class _Node:
    """Where an answer stands: what may follow, and whether it may end here."""

    following: dict[int, _Node] = field(default_factory=dict)
    is_choice: bool = False

    def add(self, token_ids: Sequence[int]) -> None:
        node = self
        for token_id in token_ids:
            node = node.following.setdefault(token_id, _Node())
        node.is_choice = True


class ChoiceMatchers:
    """Of one set of choices. Threads may share it."""

    def __init__(self, root: _Node, end_ids: Collection[int], num_logits: int) -> None:
        self._root, self.end_ids, self.num_logits = root, sorted(end_ids), num_logits

    @classmethod
    def of(cls, choices: Sequence[str], tokenizer: Tokenizer, *, end_ids: Collection[int], num_logits: int) -> Self:
        """
        Raises:
            ModelError: the tokenizer cannot write one of them.
        """
        root = _Node()
        for choice in choices:
            for token_ids in _writings(choice, tokenizer, end_ids, num_logits):
                root.add(token_ids)
        return cls(root, end_ids, num_logits)

    def new(self) -> ChoiceMatcher:
        return ChoiceMatcher(self, self._root)


class ChoiceMatcher:
    """Of one row's answer. Where one choice begins another, an end token decides."""

    problem = None

    def __init__(self, of: ChoiceMatchers, node: _Node, *, has_ended: bool = False) -> None:
        self._of, self._node, self._has_ended = of, node, has_ended

    @property
    def is_finished(self) -> bool:
        return self._has_ended or not self._node.following

    @property
    def allowed_ids(self) -> list[int]:
        """The few tokens that may come next: to look at these alone is faster than a mask."""
        ends = self._of.end_ids if self._node.is_choice or self._has_ended else []
        return [*([] if self._has_ended else self._node.following), *ends]

    def allowed(self) -> NDArray[np.bool_]:
        mask_V = np.zeros(self._of.num_logits, dtype=bool)
        mask_V[self.allowed_ids] = True
        return mask_V

    def accept(self, token_id: int) -> None:
        if token_id in self._node.following:
            self._node = self._node.following[token_id]
            return
        assert token_id in self.allowed_ids, f"token {token_id} was not allowed"
        self._has_ended = True

    def copy(self) -> ChoiceMatcher:
        return ChoiceMatcher(self._of, self._node, has_ended=self._has_ended)


def _writings(choice: str, tokenizer: Tokenizer, end_ids: Collection[int], num_logits: int) -> list[tuple[int, ...]]:
    """How the tokenizer writes a choice, with and without a blank before it; each once, and none with an end in it.

    Raises:
        ModelError: what it writes does not read as the choice.
    """
    ways = {
        ids
        for context in _CONTEXTS
        for text in (choice, f" {choice}")
        for ids in _behind(context, text, tokenizer)
        if max(ids) < num_logits and not set(ids) & set(end_ids) and _reads_as(choice, ids, tokenizer)
    }
    if not ways:
        ids = tokenizer.encode(choice, add_special_tokens=False).ids
        raise ModelError(
            f"The model's tokenizer cannot write {choice!r} of model.options.choices: what it writes for that reads "
            f"{_read(ids, tokenizer)!r}. Name the choice otherwise."
        )
    return sorted(ways)


def _behind(context: str, text: str, tokenizer: Tokenizer) -> Iterator[tuple[int, ...]]:
    """The tokens of a text behind another, unless they have become one with it."""
    before = tokenizer.encode(context, add_special_tokens=False).ids
    both = tokenizer.encode(context + text, add_special_tokens=False).ids
    if both[: len(before)] == before and len(both) > len(before):
        yield tuple(both[len(before) :])


def _reads_as(choice: str, ids: Sequence[int], tokenizer: Tokenizer) -> bool:
    pieces = "".join(tokenizer.id_to_token(token_id) or "" for token_id in ids)
    return not pieces.startswith(_TWO_BLANKS) and _read(ids, tokenizer) in (choice, f" {choice}")


def _read(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return text
