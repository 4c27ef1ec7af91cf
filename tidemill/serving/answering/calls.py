"""A call: the rows that a client asks for in one HTTP request, and their answers as they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tidemill.errors import TidemillError
from tidemill.inference.runner import ModelRunner
from tidemill.models.tasks import Preparer

Record = dict[str, Any]
"""A row's answer: the result columns of the table and how long the text is, or `error`."""
ERROR = "error"
ROW_BYTES = 8_192
"""A row of more text counts as several where rows wait: so many rows that wait are so much memory."""
BUSY = "As many rows wait as may (--queue). Try again in {seconds} s."
Texts = tuple[str, str | None]
"""What the model reads of a row; of a pair of texts, both."""
Told = Callable[[list[int]], None]
"""Given all ids that a model has written of a row so far."""


class Busy(TidemillError):
    """As many rows wait as may; try again in `seconds`."""

    retryable = True

    def __init__(self, seconds: int) -> None:
        super().__init__(BUSY.format(seconds=seconds))
        self.seconds = seconds


class Closing(TidemillError):
    """The version takes no calls any more."""

    retryable = True


@dataclass(frozen=True, eq=False)
class Form:
    """A version under the options of a call: what makes its texts into items, and what computes these."""

    preparer: Preparer
    runner: ModelRunner


class Call:
    """Threads settle its rows; `done` has all answers in order once the last one is there."""

    def __init__(self, texts: Sequence[Texts], form: Form, *, deadline: float, told: Told | None = None) -> None:
        """`told` is of a call of one row."""
        self.texts, self.form, self.deadline, self.told = texts, form, deadline, told
        self.num_rows = len(texts)
        self.num_bytes = sum(len(part.encode()) for row in texts for part in row if part is not None)
        self.row_weight: float = max(1.0, self.num_bytes / ROW_BYTES / max(1, self.num_rows))
        self.arrived = time.monotonic()
        self.done: Future[list[Record]] = Future()
        self._answers: list[Record | None] = [None] * self.num_rows
        self._num_left = self.num_rows
        self._is_gone = False
        self._lock = threading.Lock()

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for it: its client left, it failed, or it is too late."""
        return self._is_gone or time.monotonic() >= self.deadline or self.done.done()

    def leave(self) -> None:
        """Its client is gone, or waits no longer: its rows need not be computed."""
        self._is_gone = True

    def settle(self, answers: Mapping[int, Record]) -> None:
        with self._lock:
            for row, answer in answers.items():
                self._num_left -= self._answers[row] is None
                self._answers[row] = answer
            is_whole = self._num_left == 0
        if is_whole:
            with suppress(InvalidStateError):  # It failed, or its client left a moment ago.
                self.done.set_result([answer for answer in self._answers if answer is not None])

    def fail(self, error: BaseException) -> None:
        with suppress(InvalidStateError):
            self.done.set_exception(error)
