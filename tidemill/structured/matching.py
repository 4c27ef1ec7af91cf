"""Which tokens may come next in an answer of a given form: what an engine asks between two steps.

Shapes: B rows of a batch, V logits of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray


class Matcher(Protocol):
    """Of one row's answer, from its first token on."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing can follow: the answer is whole and cannot go on, an end token was accepted, or there is a
        `problem`. Who writes stops here, and needs no end token behind an answer that is whole."""

    @property
    def problem(self) -> str | None:
        """Why there can be no answer, where no token may follow one that is not whole."""

    def allowed(self) -> NDArray[np.bool_]:
        """V: the tokens that may come next, end tokens only where the answer may end."""

    def accept(self, token_id: int) -> None:
        """Go on behind a token that was allowed."""

    def copy(self) -> Self:
        """Another that stands where this one stands, as beams need it."""


class Matchers(Protocol):
    """Of one form of answers and one tokenizer. Threads may share it."""

    def new(self) -> Matcher:
        """One that stands before the first token."""


def allowed_BV(matchers: Sequence[Matcher], num_logits: int) -> NDArray[np.bool_]:  # noqa: N802
    """The tokens that may come next in each row."""
    mask_BV = np.empty((len(matchers), num_logits), dtype=bool)
    for mask_V, matcher in zip(mask_BV, matchers, strict=True):
        mask_V[:] = matcher.allowed()
    return mask_BV
