"""What `auto` may take for a model: 16 bits only where they move no score of sample texts too far from float32's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from tidemill import config as options
from tidemill.encoding.sequences import Sequences
from tidemill.engines import CalibrationIds, Engine, Logits
from tidemill.engines.devices import resolve_device, resolve_dtype
from tidemill.errors import ModelError
from tidemill.models.tasks import ModelTask

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MOST_DRIFT = 0.02
"""As docs/engines.md promises of bfloat16."""
PERCENTILE = 0.95
"""One text between two classes moves further than its model does."""
SAMPLE_ROWS = 24
SAMPLE_TOKENS = 1_024
"""Of the rows together: a base model takes a second for them in float32."""


class Open(Protocol):
    def __call__(self, *, inference: options.Inference) -> Engine: ...


class BoundedOpening:
    """Opens a model as `open_as` does; where the pipeline file leaves the dtype open, not in one that is refused.

    `sample` gives token ids of texts as the model gets them; without it rows are drawn.
    """

    def __init__(
        self,
        open_as: Open,
        *,
        config: PretrainedConfig,
        task: ModelTask,
        declared: options.Inference,
        sample: CalibrationIds | None = None,
    ) -> None:
        self._open_as, self._config, self._task, self._sample = open_as, config, task, sample
        self._is_auto = declared.dtype == "auto"
        self.refused: dict[str, str] = refused_dtypes(config, task) if self._is_auto else {}
        """The dtypes that `auto` does not take, each with why; what is found to move scores too far comes to them."""
        self._rows: list[list[int]] = []
        self._expected: list[Logits] | None = None
        self._why_float32: str | None = None

    def __call__(self, *, inference: options.Inference) -> Engine:
        """
        Raises:
            ModelError: `inference` names a dtype that moves scores too far, though the pipeline file does not; or
                whatever opening raises.
        """
        dtype = resolve_dtype(inference.dtype, resolve_device(inference.device))
        if not self._is_auto or dtype == "float32":
            return self._open_as(inference=inference)
        engine, why = None, self.refused.get(dtype)
        if why is None:
            expected = self._in_float32(inference)
            engine = self._open_as(inference=inference)
            why = self._too_far(engine, expected, dtype)
        if engine is not None and why is None:
            return engine
        self.refused[dtype] = str(why)
        if inference.dtype != "auto":
            raise ModelError(f"inference.dtype = {dtype!r} is not for this model: {why}.")
        del engine
        self._why_float32 = why
        return self._open_as(inference=inference.model_copy(update={"dtype": "float32"}))

    def facts(self) -> dict[str, Any]:
        """For lineage: why the model is computed in float32 where the device has faster ones."""
        return {} if self._why_float32 is None else {"float32_because": self._why_float32}

    def _in_float32(self, inference: options.Inference) -> list[Logits]:
        """Torch's logits of the sample, computed once; that model is gone before another is opened."""
        if self._expected is None:
            exact = self._open_as(inference=inference.model_copy(update={"engine": "torch", "dtype": "float32"}))
            self._rows = _sample_of(self._drawn() if self._sample is None else self._sample())
            self._expected = self._logits(exact)
        return self._expected

    def _logits(self, engine: Engine) -> list[Logits]:
        return [engine.submit(np.array([row], dtype=np.int64), None).result() for row in self._rows]

    def _too_far(self, engine: Engine, expected: list[Logits], dtype: str) -> str | None:
        answers = (self._logits(engine), expected)
        ours, theirs = (self._task.scores(np.concatenate(each), self._config) for each in answers)
        drift = float(np.quantile(np.abs(ours - theirs).max(axis=1), PERCENTILE))
        if drift <= MOST_DRIFT:
            return None
        return (
            f"{dtype} moves scores by {drift:.3f} from float32's at the {PERCENTILE * 100:.0f}th percentile of "
            f"{len(self._rows)} sample texts, more than {MOST_DRIFT:g}"
        )

    def _drawn(self) -> pa.ListArray:
        vocabulary = getattr(self._config.get_text_config(), "vocab_size", 2)
        draw = np.random.default_rng(0)
        return pa.array([draw.integers(vocabulary // 10, vocabulary, length) for length in range(4, 32)])


def refused_dtypes(config: PretrainedConfig, task: ModelTask) -> dict[str, str]:
    """The dtypes that `auto` does not take for a model whatever they are found to do, each with why."""
    why = "a regression has values of any size, of which 16 bits keep two or three digits"
    return dict.fromkeys(("bfloat16", "float16"), why) if task.is_regression(config) else {}


def _sample_of(token_ids: pa.ListArray) -> list[list[int]]:
    """Evenly over their lengths, without the longest if those are too many tokens."""
    sequences = Sequences.of(token_ids, deduplicate=True)
    by_length = np.argsort(sequences.lengths, kind="stable")
    chosen = by_length[np.linspace(0, len(by_length) - 1, min(SAMPLE_ROWS, len(by_length))).astype(np.int64)]
    num_fitting = int((np.cumsum(sequences.lengths[chosen]) <= SAMPLE_TOKENS).sum())
    return [sequences.padded(chosen[i : i + 1], pad_id=0)[0][0].tolist() for i in range(max(1, num_fitting))]
