"""A version's tokenizer and model, opened."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa

from tidemill import config as options
from tidemill.config import Inference
from tidemill.encoding.tokenizer import TextTokenizer
from tidemill.encoding.windowing import sequences
from tidemill.engines import CalibrationIds
from tidemill.engines.calibration_texts import calibration_texts
from tidemill.inference.pooling import Pooling
from tidemill.inference.runner import ModelRunner
from tidemill.models.checkpoint import folder_state, load_config, max_positions, usual_length
from tidemill.planning import versions
from tidemill.planning.versions import VersionSpec

_loaded: dict[tuple[object, ...], ModelRunner] = {}
_loading = threading.Lock()


def load_tokenizer(spec: VersionSpec) -> TextTokenizer:
    """The version's tokenizer, cut to what its model takes.

    Raises:
        ModelError: it cannot be loaded, or `max_length` does not fit the model, or `overlap` not `max_length`.
    """
    config = load_config(
        versions.model_folder(spec, weights=False),
        trust_remote_code=spec.trust_remote_code,
        pad_token_id=spec.pad_token_id,
    )
    return TextTokenizer.load(
        versions.tokenizer_folder(spec),
        max_length=spec.max_length,  # type: ignore[arg-type]
        long_text=spec.long_text,  # type: ignore[arg-type]
        overlap="auto" if spec.overlap is None else spec.overlap,  # type: ignore[arg-type]
        model_max_length=max_positions(config),
        usual_length=usual_length(config),
        trust_remote_code=spec.trust_remote_code,
    )


def pooling_of(spec: VersionSpec, tokenizer: TextTokenizer) -> Pooling | None:
    """How a row's windows become one; None where a row is one sequence."""
    if spec.aggregate is None:
        return None
    return Pooling(spec.aggregate, tokenizer.num_special_tokens)  # type: ignore[arg-type]


def load_runner(spec: VersionSpec, inference: Inference) -> ModelRunner:
    """The version's model on its device, once a process. Its dtype is the version's, the rest is `inference`'s.

    Raises:
        ModelError: it cannot be loaded or does not fit the model task.
        ConfigError: there is no such device.
    """
    return cached_runner(
        versions.model_folder(spec),
        task=spec.task,
        inference=Inference(**{**inference.model_dump(), "dtype": spec.dtype}),
        all_scores=spec.all_scores,
        trust_remote_code=spec.trust_remote_code,
        pad_token_id=spec.pad_token_id,
        calibration=lambda: _calibration_ids(spec),
        max_length=spec.max_length if isinstance(spec.max_length, int) else None,
    )


def _calibration_ids(spec: VersionSpec) -> pa.ListArray:
    """Sample texts as the version's model gets them: a long one in windows, where it does."""
    return sequences(load_tokenizer(spec).encode(pa.array(calibration_texts())).token_ids)


def cached_runner(
    folder: str | Path,
    *,
    task: str,
    inference: options.Inference,
    all_scores: bool = False,
    trust_remote_code: bool = False,
    pad_token_id: int | None = None,
    calibration: CalibrationIds | None = None,
    max_length: int | None = None,
) -> ModelRunner:
    """`ModelRunner.load`, once a process for the same files and options.

    Only the last one is kept: two models may not fit a device together.
    """
    key = (folder_state(folder), task, inference, all_scores, trust_remote_code, pad_token_id, max_length)
    with _loading:
        if key not in _loaded:
            _loaded.clear()
            _loaded[key] = ModelRunner.load(
                folder,
                task=task,
                inference=inference,
                all_scores=all_scores,
                trust_remote_code=trust_remote_code,
                pad_token_id=pad_token_id,
                calibration=calibration,
                max_length=max_length,
            )
        return _loaded[key]
