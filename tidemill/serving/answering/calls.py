"""A call: the rows that a client asks for in one HTTP request, and their answers as they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tidemill.errors import TidemillError
from tidemill.inference.runner import ModelRunner
from tidemill.models.tasks import Preparer

Record = dict[str, Any]
"""A row's answer: the result columns of the table and how long the text is, or `error`."""
ERROR = "error"
ROW_BYTES = 8_192
"""A row of more text counts as several where rows wait: so many rows that wait are so much memory."""
BUSY = "As many rows wait as may (--queue). Try again in {seconds} s."
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

    def __init__(self, rows: pa.Table, form: Form, *, deadline: float, told: Told | None = None) -> None:
        """`rows` has what a run's rows have: `row_number`, the texts and `reason`. `told` is of a call of one row."""
        self.rows, self.form, self.deadline, self.told = rows, form, deadline, told
        self.tokens: pa.Table | None = None
        """What the preparer made of the rows."""
        self.num_rows: int = rows.num_rows
        self.row_weight: float = max(1.0, rows.nbytes / ROW_BYTES / max(1, rows.num_rows))
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
