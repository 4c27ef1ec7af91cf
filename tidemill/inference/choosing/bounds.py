"""What `auto` may take for a model: 16 bits only where they move no score of sample texts too far from float32's."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from tidemill import config as options
from tidemill.checkpoints.loading import folder_state, max_positions
from tidemill.encoding.items import Items, are_finite, prepared_rows
from tidemill.engines import Calibration, Engine
from tidemill.engines.contest.finding import library_versions
from tidemill.engines.devices import device_name, fast_dtypes, is_device_failure, resolve_device
from tidemill.engines.probing.memory import is_out_of_memory
from tidemill.errors import ModelError, first_line
from tidemill.fingerprints import fingerprint
from tidemill.machine import processor
from tidemill.models.tasks import ModelTask
from tidemill.storage.kept import keep, read_kept

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MOST_DRIFT = 0.02
"""As docs/engines.md promises of bfloat16."""
PERCENTILE = 0.95
"""One text between two classes moves further than its model does."""
SAMPLE_ROWS = 24
SAMPLE_TOKENS = 1_024
"""Of the rows together: a base model takes a second for them in float32."""
RULES = 1
"""Counts up when what was refused is to be measured again."""

logger = logging.getLogger("tidemill")


class Open(Protocol):
    def __call__(self, *, inference: options.Inference) -> Engine: ...


class BoundedOpening:
    """Opens a model as `open_as` does; where the pipeline file leaves the dtype open, not in one that is refused.

    `sample` gives prepared texts as the model gets them; without it token ids are drawn. What is found of the model
    in `folder` is kept for later runs.
    """

    def __init__(
        self,
        open_as: Open,
        *,
        folder: str | Path,
        config: PretrainedConfig,
        task: ModelTask,
        declared: options.Inference,
        sample: Calibration | None = None,
    ) -> None:
        self._open_as, self._folder, self._config = open_as, folder, config
        self._task, self._declared, self._sample = task, declared, sample
        self.refused: dict[str, str] = {}
        """The dtypes that `auto` does not take, each with why; what is found to move scores too far comes to them."""
        if declared.dtype == "auto":
            self.refused = self._found_before() | refused_dtypes(task)
        self._items: Items | None = None
        self._expected: dict[int, pa.Array] | None = None
        self._was_asked = False
        self._because: dict[str, str] = {}

    def __call__(self, *, inference: options.Inference) -> Engine:
        """
        Raises:
            ModelError: `inference` names a dtype that moves scores too far, though the pipeline file does not; or
                whatever opening raises.
        """
        is_open = inference.dtype == "auto"
        asked = fast_dtypes(resolve_device(inference.device)) if is_open else (inference.dtype,)
        if self._declared.dtype != "auto" or asked in ((), ("float32",)):
            return self._open_as(inference=inference)
        for dtype in asked:
            engine = None if dtype in self.refused else self._open_measured(inference, dtype)
            if engine is not None:
                self._because = self._told(asked, dtype)
                return engine
        if not is_open:
            raise ModelError(f"inference.dtype = {asked[0]!r} is not for this model: {self.refused[asked[0]]}.")
        self._because = self._told(asked, "float32")
        return self._open_in_float32(inference, asked[0])

    def facts(self) -> dict[str, Any]:
        """For lineage: why the model is not computed in what the device is fastest in."""
        return self._because

    def _told(self, asked: Sequence[str], taken: str) -> dict[str, str]:
        """Why a dtype was taken that was not the first choice; for regressions there is one reason for all."""
        passed = dict.fromkeys(self.refused[dtype] for dtype in asked[: asked.index(taken) if taken in asked else None])
        return {f"{taken}_because": "; ".join(passed)} if passed else {}

    def _open_measured(self, inference: options.Inference, dtype: str) -> Engine | None:
        """None where it moves scores too far: then it is refused. Where that cannot be told, it is taken."""
        expected = self._in_float32(inference)
        engine = self._open_as(inference=inference.model_copy(update={"dtype": dtype}))
        why = None if expected is None else self._too_far(engine, expected, dtype)
        if why is None:
            return engine
        self.refused[dtype] = why
        keep(self._kept_as(dtype), {"why": why})
        return None

    def _open_in_float32(self, inference: options.Inference, dtype: str) -> Engine:
        try:
            return self._open_as(inference=inference.model_copy(update={"dtype": "float32"}))
        except ModelError as e:
            if not isinstance(e.__cause__, Exception) or not is_out_of_memory(e.__cause__):
                raise
            raise ModelError(
                f"{e} It is computed in float32 because {self.refused[dtype]}. "
                f'If 16 bits are good enough, set inference.dtype = "{dtype}".'
            ) from e.__cause__

    def _in_float32(self, inference: options.Inference) -> dict[int, pa.Array] | None:
        """Torch's answers to items of the sample, computed once; that model is gone before another is opened.

        None where they cannot be had: a device may have room for the model in 16 bits alone.
        """
        if self._was_asked:
            return self._expected
        self._was_asked = True
        try:
            self._expected = self._computed_exactly(inference)
            why = "the model answers none of the sample texts"
        except Exception as e:
            if is_device_failure(e):
                raise
            why = first_line(e)
        if self._expected is None:
            gc.collect()
            logger.warning("How far 16 bits move scores from float32's is not measured: %s.", why)
        return self._expected

    def _computed_exactly(self, inference: options.Inference) -> dict[int, pa.Array] | None:
        items = Items.of(self._drawn() if self._sample is None else self._sample(), deduplicate=True)
        self._items = items
        exact = self._open_as(inference=inference.model_copy(update={"engine": "torch", "dtype": "float32"}))
        found = {i: self._answer(exact, items, i) for i in _sample_of(items, self._config)}
        return {i: answer for i, answer in found.items() if answer is not None} or None

    def _answer(self, engine: Engine, items: Items, i: int) -> pa.Array | None:
        """None where the model fails at the item, as it then does at such a row of a dataset, or gives no number."""
        alone = np.array([i])
        try:
            outputs = engine.submit(items.collate(alone, pad_id=0)).result()
        except Exception as e:
            if is_device_failure(e):
                raise
            return None
        lengths = items.lengths[alone]
        return self._task.answers(outputs, lengths) if are_finite(outputs, lengths).all() else None

    def _too_far(self, engine: Engine, expected: dict[int, pa.Array], dtype: str) -> str | None:
        assert self._items is not None
        found = {i: self._answer(engine, self._items, i) for i in expected}
        answered = {i: answer for i, answer in found.items() if answer is not None}
        num_lost = len(expected) - len(answered)
        if num_lost > (1 - PERCENTILE) * len(expected):
            return f"{dtype} gives {num_lost} of {len(expected)} sample texts no number, and float32 does"
        ours, theirs = (pa.concat_arrays([each[i] for i in answered]) for each in (answered, expected))
        drift = float(np.quantile(self._task.drift(ours, theirs), PERCENTILE))
        if drift <= MOST_DRIFT:
            return None
        return (
            f"{dtype} moves scores by {drift:.3f} from float32's at the {PERCENTILE * 100:.0f}th percentile of "
            f"{len(expected)} sample texts, more than {MOST_DRIFT:g}"
        )

    def _drawn(self) -> pa.Table:
        vocabulary = _vocabulary_size(self._config) or 2
        draw = np.random.default_rng(0)
        return prepared_rows(
            pa.array(
                [draw.integers(vocabulary // 10, vocabulary, length) for length in range(4, 32)], pa.list_(pa.int32())
            )
        )

    def _found_before(self) -> dict[str, str]:
        kept = {dtype: read_kept(self._kept_as(dtype)) for dtype in ("bfloat16", "float16")}
        found = {dtype: each.get("why") for dtype, each in kept.items() if isinstance(each, dict)}
        return {dtype: why for dtype, why in found.items() if isinstance(why, str)}

    def _kept_as(self, dtype: str) -> str:
        device = device_name(resolve_device(self._declared.device))
        state = (*folder_state(self._folder), self._task.called)
        return f"refused-{fingerprint(RULES, *state, device, processor().fingerprint, *library_versions(), dtype)}"


def refused_dtypes(task: ModelTask) -> dict[str, str]:
    """The dtypes that `auto` does not take for a model whatever they are found to do, each with why."""
    why = "a regression has values of any size, of which 16 bits keep two or three digits"
    return dict.fromkeys(("bfloat16", "float16"), why) if task.is_regression else {}


def _sample_of(items: Items, config: PretrainedConfig) -> list[int]:
    """Evenly over their lengths, without the longest if those are too many tokens.

    What would index outside of the model's tables is left out: a GPU does not survive that.
    """
    lengths, longest = items.lengths, max_positions(config)
    fits = (lengths > 0) & (lengths <= (longest or lengths.max(initial=0)))
    if (vocabulary := _vocabulary_size(config)) is not None:
        fits[[i for i, _ in items.with_ids_from(vocabulary)]] = False
    fitting = np.flatnonzero(fits)
    by_length = fitting[np.argsort(lengths[fitting], kind="stable")]
    if not len(by_length):
        return []
    chosen = by_length[np.linspace(0, len(by_length) - 1, min(SAMPLE_ROWS, len(by_length))).astype(np.int64)]
    num_fitting = int((np.cumsum(lengths[chosen]) <= SAMPLE_TOKENS).sum())
    return [int(i) for i in chosen[: max(1, num_fitting)]]


def _vocabulary_size(config: PretrainedConfig) -> int | None:
    return getattr(config.get_text_config(), "vocab_size", None)
