"""Prepared rows become predictions: longest batches first, identical items once, and no item kills its batch."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill import config as options
from tidemill.checkpoints.loading import load_config, max_positions, padding_of
from tidemill.encoding.batching import ONE_ROW, Indices, plan_batches, rounded
from tidemill.encoding.items import Outputs, are_finite
from tidemill.encoding.pooling import Pooling
from tidemill.engines import Answer, Calibration, Engine, open_engine
from tidemill.engines.contest.trial import Batch
from tidemill.engines.devices import WRITING_TOKEN_BUDGET, auto_token_budget, is_device_failure
from tidemill.engines.probing.memory import is_out_of_memory
from tidemill.errors import RunFailed, SequenceTooLong, Stopped, first_line
from tidemill.inference.choosing.bounds import BoundedOpening
from tidemill.inference.choosing.calibration import calibrated_budget
from tidemill.inference.choosing.choice import Choice, evenly
from tidemill.inference.close_calls import close_calls, decide
from tidemill.inference.drift import Measured, measure_drift
from tidemill.inference.exact import ExactEngine, is_exact
from tidemill.inference.rounds import predict_in_rounds
from tidemill.inference.work import Every, Predictions, Work
from tidemill.models.tasks import ModelTask, Preparer, find_task
from tidemill.models.tasks import task_options as options_of
from tidemill.progress import StageProgress

if TYPE_CHECKING:
    from transformers import PretrainedConfig

T = TypeVar("T")

KEPT_SECONDS = 120.0
"""What a model has written is kept so often: a killed process has lost no more."""
NO_BOUND = 2**31
NOBODY = StageProgress()

WORTH_CALIBRATING = {"cpu": 1_000, "cuda": 50}
"""Batches of a shard from which a trial of other token budgets is paid back by it, or by the next few."""
WORTH_A_CONTEST_TOKENS, WORTH_A_CONTEST_SECONDS = 2_000_000, 120.0
"""Of a shard, or spent in the model before: a contest takes some seconds, and what it finds is kept."""
LEAST_CONTEST_TOKENS = 32_768
"""Of a shard in any case: with fewer no engine is busy."""

logger = logging.getLogger("tidemill")


class ModelRunner:
    """A model in its engine. Threads may share it; one at a time starts batches."""

    def __init__(
        self,
        engine: Engine,
        config: PretrainedConfig,
        *,
        task: ModelTask,
        inference: options.Inference,
        exact: ExactEngine | None = None,
        choice: Choice | None = None,
        opening: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """`exact` computes what has no finite outputs in `engine`, even alone; without it such items have no answer.

        `choice` may take another engine, once there is enough to compute; `opening` is what lineage tells of how the
        first one was opened.
        """
        self.engine, self.config = engine, config
        self.result_schema = task.schema
        self.token_budget = _default_budget(inference, engine, writes=task.writes)
        self._task, self._inference = task, inference
        self._exact, self._choice, self._opening = exact, choice, opening
        self._is_calibrated = task.writes or inference.token_budget != "auto"
        self._measured_drift: Measured | None = None
        self._has_told_of_inexact = False
        self._seconds = 0.0
        self._lock = threading.Lock()
        self._vocabulary_size = getattr(config.get_text_config(), "vocab_size", None)
        self._max_positions = max_positions(config)
        self._pad_id = padding_of(config) or 0

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        task: str,
        inference: options.Inference,
        task_options: Mapping[str, Any] = MappingProxyType({}),
        all_scores: bool = False,
        pooling: Pooling | None = None,
        is_pair: bool = False,
        trust_remote_code: bool = False,
        pad_token_id: int | None = None,
        calibration: Calibration | None = None,
        max_length: int | None = None,
        tokenizer: str | Path | None = None,
    ) -> ModelRunner:
        """Load a model folder in Transformers' format into the engine that `inference` means.

        `task_options`, `pooling` and `is_pair` are as in `ModelTask`. `max_length` is the most tokens that any item
        will have, where that is known: wider ones are not tried. `calibration` gives the rows by which int8 sets its
        ranges, and 16 bits are held against float32. `tokenizer` is the folder of what made the rows, where that is not
        the model's.

        Raises:
            ModelError: the model cannot be loaded, or does not fit the task, the engine or the device.
            ConfigError: there is no such task, option or device, or the engine is not installed.
        """
        config = load_config(folder, trust_remote_code=trust_remote_code, pad_token_id=pad_token_id)
        made_of = options_of(task, task_options)
        found = find_task(task)(config, made_of, all_scores=all_scores, pooling=pooling, is_pair=is_pair)
        found.decode_with(folder if tokenizer is None else tokenizer, trust_remote_code=trust_remote_code)
        load = partial(found.load, folder, trust_remote_code=trust_remote_code, pad_token_id=pad_token_id)
        own = found.open_engine(folder, load=load, inference=inference)
        if own is not None:
            return cls(own, config, task=found, inference=inference)
        open_as = partial(
            open_engine,
            folder,
            load=load,
            called=found.called,
            inputs=found.inputs,
            longest=min((most for most in (max_positions(config), max_length) if most is not None), default=None),
            calibration=calibration,
        )
        bounded = BoundedOpening(
            open_as, folder=folder, config=config, task=found, declared=inference, sample=calibration
        )
        choice = Choice(folder, inference, bounded, refused=bounded.refused)
        engine = choice.open()
        torch_float32 = {"engine": "torch", "dtype": "float32", "device": engine.facts()["device"]}
        exact = ExactEngine(lambda: open_as(inference=inference.model_copy(update=torch_float32)))
        return cls(
            engine,
            config,
            task=found,
            inference=inference,
            exact=None if is_exact(engine) and not choice.is_open else exact,
            choice=choice,
            opening=bounded.facts(),
        )

    def under(self, task: ModelTask) -> Self:
        """The same model for a task that differs in options which need no other one. Both take their turns at it."""
        other = copy.copy(self)
        other._task, other.result_schema = task, task.schema
        other.engine = task.engine_beside(self.engine)
        # What a contest finds fastest would become the engine of one of the two alone.
        other._choice = None
        return other

    @property
    def task(self) -> ModelTask:
        return self._task

    @property
    def reads_again(self) -> bool:
        """Whether what is written of a row's windows is read in rounds, until one answer is left."""
        return self._task.reads_again(self._task.options)

    @property
    def joins(self) -> bool:
        """Whether rows of several calls of `predict` are computed together, if these are made at the same time."""
        return getattr(self.engine, "joins", False)

    def widths(self, lengths: Indices) -> Indices:
        """What items of so many tokens count in a batch, if they are its longest."""
        return self._widths(lengths) + self._task.num_written

    @property
    def resolved(self) -> dict[str, Any]:
        """What `auto` came to, for lineage; `token_budget` as it is now, after any halving."""
        drift = {} if self._measured_drift is None else {"int8": asdict(self._measured_drift)}
        choice = {} if self._choice is None else self._choice.facts()
        return {**self.engine.facts(), "token_budget": self.token_budget, **self._opening, **choice, **drift}

    def predict(
        self,
        prepared: pa.Table,
        *,
        preparer: Preparer | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        progress: StageProgress = NOBODY,
        keep: Callable[[Predictions], None] = lambda _: None,
        started: Callable[[Answer], object] = lambda _: None,
    ) -> Predictions:
        """The answers of every row that has token ids, in as many rounds as the task takes; else as `predict_round`.

        `preparer` makes rows of what was written, as it made `prepared`.

        Raises:
            TypeError: the task reads again what it wrote, and there is no `preparer`: the first round holds no answer.
        """
        predict = partial(self.predict_round, should_stop=should_stop, progress=progress, started=started)
        if not self.reads_again:
            return predict(prepared, keep=keep)
        if preparer is None:
            raise TypeError("The model reads again what it wrote of a text's windows: give its preparer.")
        return predict_in_rounds(
            prepared,
            lambda: self._task,
            preparer=preparer,
            predict=lambda rows, keep: predict(rows, keep=keep),
            keep=keep,
        )

    def predict_round(
        self,
        prepared: pa.Table,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        progress: StageProgress = NOBODY,
        keep: Callable[[Predictions], None] = lambda _: None,
        started: Callable[[Answer], object] = lambda _: None,
    ) -> Predictions:
        """Predict every row that has token ids; of a task that reads again what it wrote, one round of it.

        Where a row is a list of items, those of all rows are batched together, and
        the task makes their answers the row's; one that fails fails its row.

        `should_stop` is asked before each batch, and `progress` is told after each. Out of memory halves the token
        budget, for later shards too. Scores differ in their last digits with the
        token budget and the other rows, since padding changes the order of sums.

        `keep` is given what a model that writes has made until then, every few minutes and when it is stopped: rows
        that are not through have neither an answer nor a reason.

        `started` is given each batch that is on its way. A batch of a model that writes may have `so_far`, the ids of
        each of its items, which `should_stop` is a moment to read: it is asked after each token.

        Raises:
            SequenceTooLong: a row is longer than the declared token budget.
            Stopped: `should_stop` said so.
            RunFailed: the device broke, and for this process it stays broken.
            LimitExceeded: int8 drifts too far.
        """
        work = Work.on(prepared, deduplicate=self._inference.deduplicate)
        work.started = started
        self._refuse_unfit(work)
        work.begin(progress)
        if self._task.writes:
            work.tell = Every(KEPT_SECONDS, lambda: keep(self._predictions(work)))
        try:
            self._run(work, should_stop)
        except Stopped:
            work.tell.at_the_end()
            raise
        return self._predictions(work)

    def _refuse_unfit(self, work: Work) -> None:
        """Keep from the model what would index outside of its tables: a GPU does not survive that."""
        lengths = work.items.lengths
        longest = int(lengths.max(initial=0))
        declared, most = self._inference.token_budget, longest + self._task.num_written
        if declared != "auto" and longest and most > declared:
            raise SequenceTooLong(num_tokens=most, token_budget=declared)
        for i in np.flatnonzero(lengths == 0).tolist():
            work.reasons[i] = "there are no tokens"
        for i in np.flatnonzero(lengths > (self._max_positions or longest)).tolist():
            work.reasons[i] = f"{lengths[i]} tokens exceed the model's {self._max_positions}"
        if self._vocabulary_size is not None:
            for i, largest in work.items.with_ids_from(self._vocabulary_size):
                work.reasons[i] = f"token id {largest} is outside of the model's vocabulary of {self._vocabulary_size}"

    def _prepare(self, work: Work, should_stop: Callable[[], bool]) -> None:
        """What the first shard pays for the rest: int8 is measured, and a shard that is worth it finds the engine and
        the budget."""
        if self._choice is not None and self._choice.is_open and self._is_worth_a_contest(work):
            self._settle_choice(self._choice, work, should_stop)
        if self.engine.reference is not None:
            work.progress.doing("measuring what int8 costs")
            before = self._measured_drift
            self._measured_drift = measure_drift(
                self.engine,
                work.items,
                work.left(),
                task=self._task,
                collate=lambda batch: self._inputs(work, batch, self.engine),
                bound=self._inference.max_drift,
                token_budget=self.token_budget,
                before=before,
                keep=lambda batch, outputs: self._record(work, batch, outputs),
                should_stop=should_stop,
            )
            if before is None and self._measured_drift is not None:
                work.notes += self._measured_drift.notes()
        # A batch of one row is as large as its row, whatever the budget.
        if not self._is_calibrated and self.engine.company != ONE_ROW and self._is_worth_calibrating(work):
            self._is_calibrated = True
            work.progress.doing("finding the best token budget")
            found = calibrated_budget(self.engine, self.config, longest=self._max_positions, inputs=self._task.inputs)
            self.token_budget = found or self.token_budget

    def _is_worth_a_contest(self, work: Work) -> bool:
        """A large shard; or as much time was spent already, which others of a dataset of small files will need too."""
        num_tokens = work.num_tokens_left()
        is_late = self._seconds >= WORTH_A_CONTEST_SECONDS and num_tokens >= LEAST_CONTEST_TOKENS
        return is_late or num_tokens >= WORTH_A_CONTEST_TOKENS

    def _settle_choice(self, choice: Choice, work: Work, should_stop: Callable[[], bool]) -> None:
        before = self.engine.facts()
        planned = self._plan(work, work.left())
        choice.settle(
            self,
            lambda engine, count, together: [
                self._inputs(work, batch, engine) for batch in evenly(planned, count, together=together)
            ],
            tell=work.progress.doing,
            should_stop=should_stop,
        )
        work.notes += choice.notes()
        self._succeed(before)

    def _succeed(self, before: Mapping[str, Any]) -> None:
        """After a contest: whoever won finds a token budget of its own, and why OpenVINO was out is told still."""
        if all(self.engine.facts()[key] == before[key] for key in ("engine", "dtype")):
            return
        self._is_calibrated = self._inference.token_budget != "auto"
        if why := before.get("fallback"):
            self._opening = {**self._opening, "fallback": why}

    def _inputs(self, work: Work, batch: Indices, engine: Engine) -> Batch:
        width = int(self._widths(work.items.lengths[batch], engine).max())
        return work.items.collate(batch, pad_id=self._pad_id, width=width)

    def _is_worth_calibrating(self, work: Work) -> bool:
        return work.num_tokens_left() >= WORTH_CALIBRATING[_device_type(self.engine)] * self.token_budget

    def _run(self, work: Work, should_stop: Callable[[], bool]) -> None:
        """Keep `engine.depth` batches on their way; while the last ones are, another shard may start its own."""
        started: deque[tuple[Indices, Answer | Exception]] = deque()
        try:
            with self._lock:
                started_at = time.perf_counter()
                self._prepare(work, should_stop)
                waiting = deque(self._plan(work, work.left()))
                waiting = self._start_all(work, waiting, started, should_stop)
                work.resolved = self.resolved
            while started or waiting:
                while started and not waiting:
                    waiting = self._settle(work, *started.popleft(), waiting)
                if waiting:
                    with self._lock:
                        waiting = self._start_all(work, waiting, started, should_stop)
                        work.resolved = self.resolved
            self._decide_close_calls(work, should_stop)
            work.stats.seconds = time.perf_counter() - started_at
            self._seconds += work.stats.seconds
        except BaseException:
            _abandon(answer for _, answer in started)
            raise

    def _decide_close_calls(self, work: Work, should_stop: Callable[[], bool]) -> None:
        """By the float32 model that int8 is held against."""
        reference = self.engine.reference
        if reference is None or not len(close := close_calls(self._task, work)):
            return
        work.progress.doing("deciding close calls in float32")
        with self._lock:
            decide(
                self._task,
                work,
                reference,
                self._plan(work, close),
                collate=lambda batch: self._inputs(work, batch, reference),
                should_stop=should_stop,
            )

    def _start_all(
        self,
        work: Work,
        waiting: deque[Indices],
        started: deque[tuple[Indices, Answer | Exception]],
        should_stop: Callable[[], bool],
    ) -> deque[Indices]:
        while waiting:
            if len(started) >= self._depth(work, [waiting[0], *(batch for batch, _ in started)]):
                waiting = self._settle(work, *started.popleft(), waiting)
                continue
            if should_stop():
                raise Stopped("Stopped between two batches. The shard starts again on the next run.")
            batch = waiting.popleft()
            started.append((batch, self._start(work, batch, should_stop)))
        return waiting

    def _depth(self, work: Work, batches: Iterable[Indices]) -> int:
        """How many batches may be on their way: one, where any of these is to be alone."""
        return 1 if any(map(work.is_alone, batches)) else self.engine.depth

    def _settle(
        self, work: Work, batch: Indices, answer: Answer | Exception, waiting: deque[Indices]
    ) -> deque[Indices]:
        """Take a batch's outputs, or see what can be done without them; returns what is to be computed still."""
        outcome = self._finish(answer)
        if not isinstance(outcome, Exception):
            waiting.extendleft(self._record(work, batch, outcome))
        elif is_out_of_memory(outcome):
            return self._after_out_of_memory(work, batch, waiting)
        elif len(batch) > 1:
            waiting.extendleft(_one_by_one(batch))
        else:
            work.reasons[int(batch[0])] = f"the model failed: {first_line(outcome)}"
        return waiting

    def _record(self, work: Work, batch: Indices, outputs: Outputs) -> list[Indices]:
        """Keep what is finite, and return the items that are to be tried alone and without padding."""
        lengths = work.items.lengths[batch]
        finite_B = are_finite(outputs, lengths)
        num_padded = len(batch) * self._width(work, batch) if self.engine.pads else None
        if len(batch) == 1 and self._width(work, batch) == lengths[0] and not finite_B.all():
            outputs = self._exact_outputs(work, batch, outputs)
            finite_B = are_finite(outputs, lengths)
            if not finite_B.all():
                work.reasons[int(batch[0])] = f"the model returned {'NaN' if np.isnan(outputs).any() else 'infinity'}"
                work.count(batch, num_padded=num_padded)
                return []
        answers = self._task.answers(outputs[finite_B], lengths[finite_B])
        work.record(batch[finite_B], answers, num_padded=num_padded)
        if new_tokens := self._task.num_new_tokens(answers):
            work.progress.wrote(new_tokens)
        work.unpadded.update(batch[~finite_B].tolist())
        work.tell()
        return _one_by_one(batch[~finite_B])

    def _exact_outputs(self, work: Work, batch: Indices, outputs: Outputs) -> Outputs:
        """Of an item whose outputs are not finite in the engine; those, where there is nothing more exact."""
        exact = self._exact
        if exact is None or is_exact(self.engine):
            return outputs
        inputs = work.items.collate(batch, pad_id=self._pad_id)
        outcome = self._guarded(lambda: exact.outputs(inputs))
        if isinstance(outcome, Exception):
            if not self._has_told_of_inexact:
                logger.warning("Rows without finite scores cannot be computed in float32: %s", first_line(outcome))
            self._has_told_of_inexact = True
            return outputs
        work.stats.num_in_float32 += 1
        return outcome

    def _plan(self, work: Work, rows: Indices) -> list[Indices]:
        """Rows longer than the budget, which `auto` or a halved one can meet, are batches of one."""
        # Another thread, settling its own batches, may lower the budget meanwhile.
        lengths, token_budget = self._widths(work.items.lengths[rows]) + self._task.num_written, self.token_budget
        fits = (lengths <= token_budget) & ~np.isin(rows, work.by_itself())
        batches = plan_batches(lengths[fits], token_budget=token_budget, company=self.engine.company)
        return [*_one_by_one(rows[~fits]), *(rows[fits][batch] for batch in batches)]

    def _widths(self, lengths: Indices, engine: Engine | None = None) -> Indices:
        """What lengths are padded to if they are the longest of a batch."""
        rounds = (engine or self.engine).rounds_widths
        return np.minimum(rounded(lengths), self._max_positions or NO_BOUND) if rounds else lengths

    def _width(self, work: Work, batch: Indices) -> int:
        lengths = work.items.lengths[batch]
        return int((lengths if work.is_unpadded(batch) else self._widths(lengths)).max())

    def _start(self, work: Work, batch: Indices, should_stop: Callable[[], bool]) -> Answer | Exception:
        inputs = work.items.collate(batch, pad_id=self._pad_id, width=self._width(work, batch))
        answer = self._guarded(lambda: self.engine.submit(inputs, should_stop=should_stop))
        if not isinstance(answer, Exception):
            work.started(answer)
        return answer

    def _finish(self, answer: Answer | Exception) -> Outputs | Exception:
        return answer if isinstance(answer, Exception) else self._guarded(answer.result)

    def _guarded(self, call: Callable[[], T]) -> T | Exception:
        try:
            return call()
        except (Stopped, RunFailed):
            raise
        except Exception as e:
            if is_device_failure(e):
                device = self.engine.facts()["device"]
                raise RunFailed(
                    f"The device {device} failed: {first_line(e)}. Start the run again in a new process."
                ) from e
            # Its frames hold the activations, whose memory the next batch needs.
            return e.with_traceback(None)

    def _after_out_of_memory(self, work: Work, batch: Indices, waiting: Iterable[Indices]) -> deque[Indices]:
        self.engine.release_memory()
        num_padded = len(batch) * self._width(work, batch)
        if work.is_alone(batch):
            work.reasons[int(batch[0])] = f"out of memory: its {num_padded} tokens alone do not fit the device"
            return deque(waiting)
        if len(batch) == 1:
            work.alone.add(int(batch[0]))
            return deque([*waiting, batch])
        # Others were on their way under the same budget: they fail with this one, and say nothing of the lower one.
        if num_padded <= self.token_budget:
            self.token_budget = num_padded // 2
            work.stats.oom_halvings += 1
            logger.warning(
                "Out of memory with %d tokens in a batch: inference.token_budget is now %d.",
                num_padded,
                self.token_budget,
            )
        return deque(self._plan(work, np.concatenate([batch, *waiting])))

    def _predictions(self, work: Work) -> Predictions:
        of_items = work.answer_column(self._task.answer_type), work.reason_column()
        work.stats.num_new_tokens = self._task.num_new_tokens(of_items[0])
        answers, failures = work.items.to_rows(*of_items, named=self._task.named_item)
        columns, refusals = self._task.rows(answers, work.prepared)
        reason = pc.coalesce(failures, refusals)
        written = answers if self._task.writes else None
        return Predictions(columns, reason, work.stats, tuple(work.notes), work.resolved, written)


def _default_budget(inference: options.Inference, engine: Engine, *, writes: bool) -> int:
    """What is declared, or what is good enough where there is too little to compute for a trial."""
    if inference.token_budget != "auto":
        return inference.token_budget
    if writes:
        return WRITING_TOKEN_BUDGET[_device_type(engine)]
    facts = engine.facts()
    return auto_token_budget(facts["device"], facts["dtype"])


def _device_type(engine: Engine) -> str:
    return str(engine.facts()["device"].partition(":")[0])


def _abandon(answers: Iterable[Answer | Exception]) -> None:
    """Wait for what is on its way: its requests and memory are used again."""
    for answer in answers:
        if not isinstance(answer, Exception):
            with suppress(Exception):
                answer.result()


def _one_by_one(batch: Indices) -> list[Indices]:
    return [batch[i : i + 1] for i in range(len(batch))]
