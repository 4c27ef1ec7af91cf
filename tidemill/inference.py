"""Token ids become predictions: longest batches first, identical rows once, and no row kills its batch.

Shapes: B rows of a batch, T tokens, C outputs of the model.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill import config as options
from tidemill.batching import Indices, plan_batches
from tidemill.checkpoint import load_config, max_positions
from tidemill.devices import (
    AUTO_TOKEN_BUDGET,
    device_name,
    is_device_failure,
    is_out_of_memory,
    resolve_device,
    resolve_dtype,
    use_all_cpus,
)
from tidemill.errors import ModelError, RunFailed, SequenceTooLong, Stopped
from tidemill.model_tasks import ModelTask, find_task
from tidemill.sequences import Sequences

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

logger = logging.getLogger("tidemill")


@dataclass
class Stats:
    """`num_tokens` were computed, each distinct row once; `num_padded_tokens` is what the device saw of them."""

    num_rows: int = 0
    num_distinct: int = 0
    num_tokens: int = 0
    num_padded_tokens: int = 0
    seconds: float = 0.0
    oom_halvings: int = 0


@dataclass(frozen=True)
class Predictions:
    """One value per row, in order.

    `columns` has the task's result columns, null where there is no prediction;
    `reason` says why there is none, and is null for rows without token ids.
    """

    columns: pa.Table
    reason: pa.StringArray
    stats: Stats


class ModelRunner:
    """A model on its device. Threads may share it; it computes one shard at a time."""

    def __init__(
        self,
        model: torch.nn.Module,
        config: PretrainedConfig,
        *,
        task: ModelTask,
        inference: options.Inference,
        device: torch.device,
        all_scores: bool = False,
    ) -> None:
        self.config = config
        self.result_schema = task.result_schema(config, all_scores=all_scores)
        self.token_budget = _resolve_budget(inference, device)
        self._model = model
        self._task = task
        self._inference = inference
        self._all_scores = all_scores
        self._device = device
        self._lock = threading.Lock()
        self._vocabulary_size = getattr(config.get_text_config(), "vocab_size", None)
        self._max_positions = max_positions(config)
        self._pad_id = self._resolve_pad_id()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        task: str,
        inference: options.Inference,
        all_scores: bool = False,
        trust_remote_code: bool = False,
    ) -> ModelRunner:
        """Load a model folder in Transformers' format onto the device that `inference` means.

        Raises:
            ModelError: the model cannot be loaded, or does not fit the task or the device.
            ConfigError: there is no such task or device.
        """
        found = find_task(task)
        device = resolve_device(inference.device)
        config = load_config(folder, trust_remote_code=trust_remote_code)
        found.check(config)
        use_all_cpus()
        dtype = resolve_dtype(inference.dtype, device)
        model = found.load(folder, dtype=dtype, trust_remote_code=trust_remote_code)
        _move(model, device, folder)
        return cls(model, config, task=found, inference=inference, device=device, all_scores=all_scores)

    @property
    def resolved(self) -> dict[str, Any]:
        """What `auto` came to, for lineage; `token_budget` as it is now, after any halving."""
        import torch

        return {
            "device": str(self._device),
            "device_name": device_name(self._device),
            "dtype": str(next(self._model.parameters()).dtype).removeprefix("torch."),
            "token_budget": self.token_budget,
            "torch": torch.__version__,
        }

    def predict(
        self, token_ids: pa.ListArray | pa.ChunkedArray, *, should_stop: Callable[[], bool] = lambda: False
    ) -> Predictions:
        """Predict every row that has token ids.

        `should_stop` is asked before each batch. Out of memory halves the token
        budget, for later shards too. Scores differ in their last digits with the
        token budget and the other rows, since padding changes the order of sums.

        Raises:
            SequenceTooLong: a row is longer than the declared token budget.
            Stopped: `should_stop` said so; nothing is kept.
            RunFailed: the device broke, and for this process it stays broken.
        """
        with self._lock:
            started = time.perf_counter()
            work = _Work.on(Sequences.of(token_ids, deduplicate=self._inference.deduplicate))
            self._refuse_unfit(work)
            self._run(work, should_stop)
            predictions = self._predictions(work, self._fetch(work))
            work.stats.seconds = time.perf_counter() - started
            return predictions

    def _refuse_unfit(self, work: _Work) -> None:
        """Keep from the model what would index outside of its tables: a GPU does not survive that."""
        lengths = work.sequences.lengths
        longest = int(lengths.max(initial=0))
        declared = self._inference.token_budget
        if declared != "auto" and longest > declared:
            raise SequenceTooLong(num_tokens=longest, token_budget=declared)
        for i in np.flatnonzero(lengths == 0).tolist():
            work.reasons[i] = "there are no tokens"
        for i in np.flatnonzero(lengths > (self._max_positions or longest)).tolist():
            work.reasons[i] = f"{lengths[i]} tokens exceed the model's {self._max_positions}"
        if self._vocabulary_size is not None:
            for i, largest in work.sequences.with_ids_from(self._vocabulary_size):
                work.reasons[i] = f"token id {largest} is outside of the model's vocabulary of {self._vocabulary_size}"

    def _run(self, work: _Work, should_stop: Callable[[], bool]) -> None:
        waiting = deque(self._plan(work, work.without_reason()))
        while waiting:
            if should_stop():
                raise Stopped("Stopped between two batches. The shard starts again on the next run.")
            batch = waiting.popleft()
            outcome = self._try(work, batch)
            if not isinstance(outcome, Exception):
                work.record(batch, outcome)
            elif is_out_of_memory(outcome):
                waiting = self._after_out_of_memory(work, batch, waiting)
            elif len(batch) > 1:
                waiting.extendleft(_one_by_one(batch))
            else:
                work.reasons[int(batch[0])] = f"the model failed: {_first_line(outcome)}"

    def _plan(self, work: _Work, rows: Indices) -> list[Indices]:
        """Rows longer than the budget, which `auto` or a halved one can meet, go alone."""
        lengths = work.sequences.lengths[rows]
        fits = lengths <= self.token_budget
        batches = plan_batches(lengths[fits], token_budget=self.token_budget)
        return [*_one_by_one(rows[~fits]), *(rows[fits][batch] for batch in batches)]

    def _try(self, work: _Work, batch: Indices) -> torch.Tensor | Exception:
        try:
            return self._forward(*work.sequences.padded(batch, pad_id=self._pad_id))
        except Exception as e:  # noqa: BLE001 - whatever a model raises, other rows go on
            self._raise_if_broken(e)
            # Its frames hold the activations, whose memory the next batch needs.
            return e.with_traceback(None)

    def _raise_if_broken(self, error: Exception) -> None:
        if is_device_failure(error):
            raise RunFailed(
                f"The device {self._device} failed: {_first_line(error)}. Start the run again in a new process."
            ) from error

    def _forward(self, ids_BT: NDArray[np.int64], mask_BT: NDArray[np.int64]) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            # Without a mask attention takes its faster path, by up to a fifth at 512 tokens.
            mask = None if mask_BT.all() else self._to_device(mask_BT)
            output = self._model(input_ids=self._to_device(ids_BT), attention_mask=mask)
            logits_BC: torch.Tensor = output.logits.float()
            return logits_BC

    def _to_device(self, values: NDArray[np.int64]) -> torch.Tensor:
        import torch

        tensor = torch.from_numpy(values)
        if self._device.type != "cuda":
            return tensor.to(self._device)
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _after_out_of_memory(self, work: _Work, batch: Indices, waiting: Iterable[Indices]) -> deque[Indices]:
        import torch

        torch.cuda.empty_cache()
        num_padded = work.sequences.num_padded(batch)
        if len(batch) == 1:
            work.reasons[int(batch[0])] = f"out of memory: its {num_padded} tokens alone do not fit the device"
            return deque(waiting)
        self.token_budget = max(1, min(self.token_budget, num_padded) // 2)
        work.stats.oom_halvings += 1
        logger.warning(
            "Out of memory with %d tokens in a batch: inference.token_budget is now %d.", num_padded, self.token_budget
        )
        return deque(self._plan(work, np.concatenate([batch, *waiting])))

    def _fetch(self, work: _Work) -> NDArray[np.float32]:
        """The one time that a shard waits for the device: its logits stay there until all are computed."""
        import torch

        if not work.logits:
            return np.zeros((0, self.config.num_labels), dtype=np.float32)
        try:
            logits_BC: NDArray[np.float32] = torch.cat(work.logits).cpu().numpy()
        except RuntimeError as e:
            self._raise_if_broken(e)
            raise
        return logits_BC

    def _predictions(self, work: _Work, logits_BC: NDArray[np.float32]) -> Predictions:
        computed = np.concatenate([np.zeros(0, dtype=np.int64), *work.computed])
        finite = np.isfinite(logits_BC).all(axis=1)
        for i, logits_C in zip(computed[~finite], logits_BC[~finite], strict=True):
            work.reasons[int(i)] = f"the model returned {'NaN' if np.isnan(logits_C).any() else 'infinity'}"
        decoded = self._task.decode(logits_BC[finite], self.config, all_scores=self._all_scores)
        row_of_sequence = np.full(len(work.sequences), -1, dtype=np.int64)
        row_of_sequence[computed[finite]] = np.arange(len(decoded))
        indices = work.sequences.spread(pa.array(row_of_sequence, mask=row_of_sequence < 0))
        return Predictions(
            columns=decoded.take(indices), reason=work.sequences.spread(work.reason_column()), stats=work.stats
        )

    def _resolve_pad_id(self) -> int:
        pad_id = getattr(self.config.get_text_config(), "pad_token_id", None)
        if pad_id is None and not self._needs_pad_id():
            return 0
        if pad_id is None or not 0 <= pad_id < (self._vocabulary_size or pad_id + 1):
            raise ModelError(
                f"The model's config.json says pad_token_id = {pad_id}, and {type(self._model).__name__} finds the end "
                "of a text by it. Set it there to the tokenizer's pad token id."
            )
        return int(pad_id)

    def _needs_pad_id(self) -> bool:
        """Whether the model is one that reads a text's last token, and refuses to guess which that is."""
        try:
            self._forward(np.zeros((2, 2), dtype=np.int64), np.ones((2, 2), dtype=np.int64))
        except ValueError:
            return True
        return False


@dataclass
class _Work:
    """What became of each distinct sequence of a shard so far: `logits` of the `computed`, `reasons` of the failed."""

    sequences: Sequences
    stats: Stats
    reasons: dict[int, str] = field(default_factory=dict)
    computed: list[Indices] = field(default_factory=list)
    logits: list[torch.Tensor] = field(default_factory=list)

    @classmethod
    def on(cls, sequences: Sequences) -> _Work:
        return cls(sequences, Stats(num_rows=len(sequences.sequence_of_row), num_distinct=len(sequences)))

    def without_reason(self) -> Indices:
        fit = np.ones(len(self.sequences), dtype=bool)
        fit[list(self.reasons)] = False
        return np.flatnonzero(fit)

    def record(self, batch: Indices, logits_BC: torch.Tensor) -> None:
        self.computed.append(batch)
        self.logits.append(logits_BC)
        self.stats.num_tokens += int(self.sequences.lengths[batch].sum())
        self.stats.num_padded_tokens += self.sequences.num_padded(batch)

    def reason_column(self) -> pa.StringArray:
        return pa.array([self.reasons.get(i) for i in range(len(self.sequences))], pa.string())


def _resolve_budget(inference: options.Inference, device: torch.device) -> int:
    if inference.token_budget != "auto":
        return inference.token_budget
    return AUTO_TOKEN_BUDGET.get(device.type, AUTO_TOKEN_BUDGET["cpu"])


def _move(model: torch.nn.Module, device: torch.device, folder: str | Path) -> None:
    try:
        model.to(device)
    except RuntimeError as e:
        if not is_out_of_memory(e):
            raise
        raise ModelError(
            f"The model in {folder} does not fit the memory of {device}. Free the device, set inference.device to "
            "another, or choose a smaller model."
        ) from e


def _one_by_one(batch: Indices) -> list[Indices]:
    return [batch[i : i + 1] for i in range(len(batch))]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


_loaded: dict[tuple[object, ...], ModelRunner] = {}
_loading = threading.Lock()


def cached_runner(
    folder: str | Path,
    *,
    task: str,
    inference: options.Inference,
    all_scores: bool = False,
    trust_remote_code: bool = False,
) -> ModelRunner:
    """`ModelRunner.load`, once a process for the same files and options.

    Only the last one is kept: two models may not fit a device together.
    """
    key = (_state_of(Path(folder)), task, inference, all_scores, trust_remote_code)
    with _loading:
        if key not in _loaded:
            _loaded.clear()
            _loaded[key] = ModelRunner.load(
                folder, task=task, inference=inference, all_scores=all_scores, trust_remote_code=trust_remote_code
            )
        return _loaded[key]


def _state_of(folder: Path) -> tuple[object, ...]:
    """What differs if the folder's files do."""
    stats = [(path.name, path.stat()) for path in sorted(folder.glob("*"))]
    return (str(folder), *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))
