"""A row that is being written, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tidemill.checkpoints.fast_tokenizer import load_whole
from tidemill.engines.writing.generation.settings import Settings
from tidemill.engines.writing.generation.written import FAILED, LENGTH, STOP, Written, failed

if TYPE_CHECKING:
    from transformers import GenerationConfig

_TOKENS_BEFORE = 8
"""Read before a stop string's own tokens: what a text begins with may be decoded otherwise than within it."""


class Row:
    """`sequence` is what the decoder reads: the prompt, or its start behind an encoder, and every id since."""

    def __init__(self, prompt: NDArray[np.int64], *, start: Sequence[int] | None = None, limit: int) -> None:
        """`start` is what the decoder reads first where that is not the prompt; `limit` the most ids it may write."""
        first = torch.from_numpy(prompt) if start is None else torch.tensor(start)
        self.prompt, self.limit, self.num_start = prompt, limit, len(first)
        self.sequence = torch.empty(len(first) + limit, dtype=torch.int64)
        self.sequence[: len(first)] = first
        self.length = len(first)
        self.finish: int | None = None
        self.reason: str | None = None
        self.is_near = False
        """Whether two tokens were so near to each other that its company might decide: to be written again, alone."""
        self.matcher: Any = None
        self.generator: torch.Generator | None = None

    @property
    def most_tokens(self) -> int:
        return len(self.sequence)

    @property
    def num_new(self) -> int:
        return self.length - self.num_start

    @property
    def is_open(self) -> bool:
        return self.finish is None and not self.is_near

    @property
    def ids(self) -> list[int]:
        found: list[int] = self.sequence[self.num_start : self.length].tolist()
        return found

    @property
    def read(self) -> Tensor:
        return self.sequence[: self.length]

    def append(self, token_id: int) -> None:
        self.sequence[self.length] = token_id
        self.length += 1

    def fail(self, reason: str) -> None:
        self.finish, self.reason = FAILED, reason

    def begin_again(self) -> None:
        self.length, self.finish, self.is_near = self.num_start, None, False
        self.matcher = self.generator = None

    def written(self) -> Written:
        if self.reason is not None:
            return failed(self.reason)
        assert self.finish is not None, "a row that is open is not asked"
        return Written(self.ids, self.finish, len(self.prompt), self.num_new)


class Ends:
    """What ends a row: an end token, a stop string in its text, a grammar that is through, the limit."""

    def __init__(self, settings: Settings, tokenizer: str | Path) -> None:
        self._end_ids = settings.end_ids
        self._forced = _forced_ends(settings.generation)
        self._stop = settings.stop
        self._window = max((len(text.encode()) for text in settings.stop), default=0) + _TOKENS_BEFORE
        trusted = settings.trust_remote_code
        self.tokenizer = load_whole(tokenizer, trust_remote_code=trusted) if settings.stop else None

    def look_at(self, row: Row) -> None:
        """Give the row its `finish`, if what it wrote last ends it."""
        last = int(row.sequence[row.length - 1])
        is_last = row.num_new >= row.limit
        if last in self._end_ids:
            row.finish = LENGTH if is_last and last in self._forced else STOP
        elif self._has_stop(row) or (row.matcher is not None and row.matcher.is_finished):
            row.finish = STOP
        elif is_last:
            row.finish = LENGTH

    def cut(self, row: Row, ids: Sequence[int]) -> None:
        """Give the row of `ids`, which something else wrote, as many as there are before it ends."""
        row.begin_again()
        for token_id in ids:
            row.append(token_id)
            self.look_at(row)
            if row.finish is not None:
                return
        # Beams may end where no end token is: none of them could win any more.
        row.finish = STOP

    def _has_stop(self, row: Row) -> bool:
        if self.tokenizer is None:
            return False
        tail = row.sequence[max(row.num_start, row.length - self._window) : row.length]
        text = self.tokenizer.decode(tail, skip_special_tokens=True)
        return any(stop in text for stop in self._stop)


def _forced_ends(generation: GenerationConfig) -> frozenset[int]:
    forced = getattr(generation, "forced_eos_token_id", None)
    return frozenset() if forced is None else frozenset([forced] if isinstance(forced, int) else forced)
