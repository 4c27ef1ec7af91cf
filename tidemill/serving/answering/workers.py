"""The threads of a version: one tokenizes what comes in, the others give the model batches of what waits."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Protocol

import pyarrow as pa

from tidemill.checkpoints.served import is_served
from tidemill.errors import RunFailed, Stopped, first_line
from tidemill.inference.runner import ModelRunner
from tidemill.inference.work import Predictions, Stats
from tidemill.running.stages.reasons import with_texts
from tidemill.serving.answering.calls import Busy, Call, Closing, Form, Record
from tidemill.serving.answering.limits import Limits
from tidemill.serving.answering.line import Line, Prepared, Waiting
from tidemill.serving.answering.records import records_of
from tidemill.serving.answering.version import ServedVersion, rows_of, sizes_of

TOGETHER_BYTES = 2**20
"""Of texts that are tokenized together, so that a long call does not keep the next one waiting for long."""
MOST_CALLS_WRITTEN = 32
"""Calls whose answers a model writes side by side."""
MOST_SECONDS = 600
"""After which a client that is refused may come again, at most."""
BATCH_COST_TOKENS = 40
"""What a batch on a CPU costs beside its tokens: as much as so many more. Measured with small encoders, where it is
largest."""
STUCK_SECONDS = 60.0
"""So long, or for a call's deadline where that is longer, nothing may move while rows wait, before the service says
that it is not ready."""

logger = logging.getLogger("tidemill")


class Watcher(Protocol):
    """Told what the workers do."""

    def computed(self, stats: Stats, token_budget: int, seconds: float) -> None: ...
    def answered(self, records: Sequence[Record], num_reused: int) -> None: ...
    def waited(self, seconds: float) -> None: ...


class Known(Protocol):
    """Answers to rows, some of which are there already: how many, comes second."""

    def __call__(self, rows: pa.Table, prepared: pa.Table, predict: Any) -> tuple[Predictions, int]: ...


class Workers:
    def __init__(self, version: ServedVersion, limits: Limits, watcher: Watcher, *, known: Known | None = None) -> None:
        self.version, self._limits, self._watcher, self._known = version, limits, watcher, known
        self._changed = threading.Condition()
        self._arrived: deque[Call] = deque()
        self._line = Line(partial(getattr, version.runner, "token_budget"), batch_cost=_batch_cost(version.runner))
        self._num_tokenizing = self._num_computing = 0
        self._is_closing = False
        self._moved = time.monotonic()
        self._rate = 0.0
        """Rows a second, of the last batches."""
        self.broken: str | None = None
        """Why the version computes no more, if it does not."""
        joins = version.runner.joins
        if joins and hasattr(version.runner.engine, "make_room"):
            version.runner.engine.make_room(version.runner.token_budget)
        self._is_joined = joins
        self._side_by_side = _side_by_side(version.runner)
        more = 2 if version.runner.engine.depth > 1 else 1  # One takes the next batch while others are in the model.
        num_computing = MOST_CALLS_WRITTEN if joins else max(self._side_by_side, more)
        self._threads = [threading.Thread(target=self._tokenize, name="tokenize", daemon=True)]
        for number in range(num_computing):
            self._threads.append(threading.Thread(target=self._compute, name=f"compute {number}", daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def num_waiting(self) -> int:
        """Rows that are neither answered nor in the model."""
        with self._changed:
            return sum(call.num_rows for call in self._arrived) + len(self._line)

    def seconds_until_room(self) -> int:
        """After which a row more may wait; 0 where it may now."""
        if self._line.weight < self._limits.queue_rows:
            return 0
        with self._changed:
            self._line.drop()
            return 0 if self._line.weight < self._limits.queue_rows else self._seconds_of_waiting()

    def is_stuck(self, now: float) -> bool:
        """Whether work waits and nothing moves."""
        with self._changed:
            has_work = self.num_waiting or self._num_computing or self._num_tokenizing
            return bool(has_work) and now - self._moved > max(STUCK_SECONDS, self._limits.deadline_seconds)

    def put(self, call: Call) -> None:
        """
        Raises:
            Busy: as many rows wait as may.
            Closing: the version takes none any more.
            RunFailed: its device broke.
        """
        with self._changed:
            if self.broken is not None:
                raise RunFailed(self.broken)
            if self._is_closing:
                raise Closing("This version is being replaced.")
            if self.num_waiting:
                self._require_room(call)
            elif not self._num_computing and not self._num_tokenizing:
                self._moved = time.monotonic()
            self._arrived.append(call)
            self._changed.notify_all()

    def close(self) -> None:
        """Take no more calls; the threads end when those that are there have their answers."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()

    def join(self, seconds: float) -> bool:
        """Whether the threads ended within so many seconds."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _require_room(self, call: Call) -> None:
        """
        Raises:
            Busy: the call would not fit what may wait, or wait for longer than its client does.
        """
        if self._is_full_with(call):
            self._line.drop()
        seconds = self._seconds_of_waiting()
        if self._is_full_with(call) or (self._rate and seconds > call.deadline - time.monotonic() + 1):
            raise Busy(seconds)

    def _seconds_of_waiting(self) -> int:
        """How long the rows that wait now will take, by the rate of the last batches; at least a second."""
        seconds = self.num_waiting / self._rate if self._rate else 0.0
        return max(1, min(MOST_SECONDS, math.ceil(seconds)))

    def _is_full_with(self, call: Call) -> bool:
        weight = self._line.weight + sum(each.num_rows * each.row_weight for each in self._arrived)
        return weight > 0 and weight + call.num_rows * call.row_weight > self._limits.queue_rows

    def _tokenize(self) -> None:
        while calls := self._next_calls():
            wanted = (call for call in calls if not call.is_over)
            for form, of_form in groupby(wanted, key=lambda call: call.form):
                self._prepare(form, list(of_form))
            with self._changed:
                self._num_tokenizing = 0
                self._moved = time.monotonic()
                self._changed.notify_all()

    def _next_calls(self) -> list[Call]:
        """Calls that are to be tokenized together; none where there will be no more."""
        with self._changed:
            while not self._arrived and not self._is_closing:
                self._changed.wait()
            calls: list[Call] = []
            num_bytes = 0
            while self._arrived and num_bytes < TOGETHER_BYTES:
                calls.append(self._arrived.popleft())
                num_bytes += calls[-1].num_bytes
            self._num_tokenizing = len(calls)
        return calls

    def _prepare(self, form: Form, calls: list[Call]) -> None:
        try:
            found = _prepared(form, calls)
        except Exception as e:  # noqa: BLE001
            if len(calls) > 1:
                for call in calls:
                    self._prepare(form, [call])
                return
            self._say_failed("The texts of a request cannot be tokenized", e)
            calls[0].fail(e)
            return
        with self._changed:
            self._line.put(found)
            self._changed.notify_all()

    def _compute(self) -> None:
        while batch := self._next_batch():
            started = time.monotonic()
            for call in {row.call for row in batch}:
                self._watcher.waited(started - call.arrived)
            try:
                self._answer(batch)
            finally:
                with self._changed:
                    self._num_computing -= 1
                    self._moved = time.monotonic()
                    self._note_rate(len(batch), self._moved - started)
                    self._changed.notify_all()

    def _next_batch(self) -> list[Waiting]:
        """Rows to compute together; none where there will be no more."""
        with self._changed:
            while True:
                is_last = self._is_closing and not self._arrived and not self._num_tokenizing
                seconds = self._seconds_to_wait() if len(self._line) else None
                if seconds is not None and (is_last or seconds <= 0):
                    # All may have become too late by now.
                    if batch := self._line.take_call() if self._is_joined else self._line.take():
                        self._num_computing += 1
                        return batch
                elif is_last:
                    return []
                else:
                    self._changed.wait(seconds)

    def _seconds_to_wait(self) -> float:
        """For company: a moment where the model has a core idle, and while it is busy until a batch is full."""
        if self._is_joined or self._line.is_full:
            return 0.0
        if self._num_computing >= self._side_by_side:
            return 1.0
        return self._line.oldest.since + self._limits.wait_seconds - time.monotonic()

    def _answer(self, batch: list[Waiting]) -> None:
        calls, started = list(dict.fromkeys(row.call for row in batch)), time.monotonic()
        try:
            records, found, num_reused = self._records(batch, _Watch(calls))
            self._watcher.computed(found.stats, self.version.runner.token_budget, time.monotonic() - started)
            self._watcher.answered(records, num_reused)
            _settle(batch, records)
        except Stopped:
            return
        except Exception as e:  # noqa: BLE001
            self._fail(calls, e)

    def _records(self, batch: list[Waiting], watch: _Watch) -> tuple[list[Record], Predictions, int]:
        """The batch's answers, how they were computed, and how many of them the table had."""
        form, rows, tokens = _table_of(batch)
        prepared = with_texts(tokens, rows, form.preparer.reads)

        def predict(left: pa.Table) -> Predictions:
            return form.runner.predict(
                left, preparer=form.preparer, should_stop=watch.should_stop, started=watch.started
            )

        if self._known is None or form is not self.version.plain:
            found, num_reused = predict(prepared), 0
        else:
            found, num_reused = self._known(rows, prepared, predict)
        return records_of(rows, tokens, found), found, num_reused

    def _fail(self, calls: Iterable[Call], error: Exception) -> None:
        self._say_failed("A batch failed", error)
        if isinstance(error, RunFailed) and not is_served(self.version.spec.model):  # A server may come back.
            self.broken = str(error)
        for call in calls:
            call.fail(error)

    def _say_failed(self, what: str, error: Exception) -> None:
        """By the kind of error alone: what it says may repeat a text."""
        said = f": {first_line(error)}" if isinstance(error, RunFailed) else ""
        logger.error("%s (%s)%s.", what, type(error).__name__, said)

    def _note_rate(self, num_rows: int, seconds: float) -> None:
        rate = num_rows / max(seconds, 1e-6) * max(1, self._num_computing + 1)
        self._rate = rate if not self._rate else 0.8 * self._rate + 0.2 * rate


def _batch_cost(runner: ModelRunner) -> float:
    """In tokens. A CPU takes as long for a token of a small batch as of a large one; a GPU is idle in a small one."""
    engine = runner.engine
    return BATCH_COST_TOKENS if engine.pads and str(engine.facts()["device"]) == "cpu" else math.inf


def _side_by_side(runner: ModelRunner) -> int:
    """How many batches keep the model busy: on a CPU half of those that the engine takes wait; a GPU computes one."""
    engine = runner.engine
    return max(1, engine.depth // 2) if str(engine.facts()["device"]) == "cpu" else 1


class _Watch:
    """Of calls that are in the model: whether anybody waits for them, and what was written of one so far."""

    def __init__(self, calls: list[Call]) -> None:
        self._calls = calls
        self._told = calls[0].told if len(calls) == 1 else None
        self._batch: Any = None

    def started(self, answer: Any) -> None:
        self._batch = answer

    def should_stop(self) -> bool:
        if self._told is not None and hasattr(self._batch, "so_far"):
            self._told(self._batch.so_far[0])
        return all(call.is_over for call in self._calls)


def _prepared(form: Form, calls: list[Call]) -> list[Waiting]:
    """The calls' rows, which wait for the model from now on."""
    rows = rows_of([texts for call in calls for texts in call.texts])
    together = Prepared(rows, form.preparer.prepare(rows).combine_chunks())
    of_calls = ((call, row) for call in calls for row in range(call.num_rows))
    now, sizes = time.monotonic(), zip(*sizes_of(form, together.tokens), strict=True)
    return [
        Waiting(call, row, num_items, width, now, together, place)
        for place, ((call, row), (num_items, width)) in enumerate(zip(of_calls, sizes, strict=True))
    ]


def _table_of(batch: list[Waiting]) -> tuple[Form, pa.Table, pa.Table]:
    """The rows of a batch and what was made of them, in the batch's order, which puts beside each other what was
    prepared together."""
    batch.sort(key=lambda row: id(row.prepared))
    rows, tokens = [], []
    for prepared, of_it in groupby(batch, key=lambda row: row.prepared):
        assert prepared is not None, "what waits for the model is tokenized"
        places = pa.array([row.place for row in of_it])
        rows.append(prepared.rows.take(places))
        tokens.append(prepared.tokens.take(places))
    return batch[0].call.form, pa.concat_tables(rows).combine_chunks(), pa.concat_tables(tokens).combine_chunks()


def _settle(batch: list[Waiting], records: list[Record]) -> None:
    answers: dict[Call, dict[int, Record]] = {}
    for row, record in zip(batch, records, strict=True):
        answers.setdefault(row.call, {})[row.row] = record
    for call, of_call in answers.items():
        call.settle(of_call)
