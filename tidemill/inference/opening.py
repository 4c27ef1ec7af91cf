"""A version's preparer and model, opened."""

from __future__ import annotations

import json
import threading

import pyarrow as pa

from tidemill.checkpoints.loading import folder_state, max_positions, usual_length
from tidemill.checkpoints.served import is_served
from tidemill.config import Inference
from tidemill.encoding.pooling import Pooling
from tidemill.engines.calibration_texts import calibration_texts
from tidemill.inference.runner import ModelRunner
from tidemill.models.tasks import ModelTask, Preparer, Reading, find_task, task_options
from tidemill.models.tasks.writing.text_generation import TextGeneration
from tidemill.planning import versions
from tidemill.planning.versions import VersionSpec

_loaded: dict[tuple[object, ...], ModelRunner] = {}
_loading = threading.Lock()


def load_preparer(spec: VersionSpec) -> Preparer:
    """What makes the version's texts into what its model takes.

    Raises:
        ModelError: its tokenizer cannot be loaded, or `max_length` does not fit the model, or `overlap` not
            `max_length`.
    """
    config = versions.config_of(spec)
    if is_served(spec.model):
        reading = Reading(columns=spec.text, separator=spec.text_separator)
        return versions.task_of(spec, config).preparer(config.name_or_path, reading)
    return versions.task_of(spec, config).preparer(
        versions.tokenizer_folder(spec),
        Reading(
            max_length=spec.max_length,  # type: ignore[arg-type]
            long_text=spec.long_text,  # type: ignore[arg-type]
            overlap="auto" if spec.overlap is None else spec.overlap,  # type: ignore[arg-type]
            truncation=spec.truncation or "longest_first",  # type: ignore[arg-type]
            is_pair=spec.text_pair is not None,
            columns=spec.text,
            separator=spec.text_separator,
            model_max_length=max_positions(config),
            usual_length=usual_length(config),
            trust_remote_code=spec.trust_remote_code,
        ),
    )


def pooling_of(spec: VersionSpec) -> Pooling | None:
    """How a row's windows become one; None where a row is no list of windows."""
    if spec.aggregate is None:
        return None
    return Pooling(spec.aggregate, load_preparer(spec).num_special_tokens)  # type: ignore[arg-type]


def load_decoder(spec: VersionSpec) -> ModelTask:
    """The version's model task without its model: it makes rows of what was written before.

    Raises:
        ModelError: the model's configuration or the tokenizer cannot be loaded.
    """
    task = versions.task_of(spec, versions.config_of(spec))
    if not is_served(spec.model):
        task.decode_with(versions.tokenizer_folder(spec), trust_remote_code=spec.trust_remote_code)
    return task


def load_runner(spec: VersionSpec, inference: Inference) -> ModelRunner:
    """The version's model on its device, once a process. Its dtype is the version's, the rest is `inference`'s.

    Only the last one is kept: two models may not fit a device together.

    Raises:
        ModelError: it cannot be loaded or does not fit the model task, or its server refuses us.
        ConfigError: there is no such device, or no address of a server.
        SourceUnavailable: the model's server does not answer.
    """
    inference = inference_of(spec, inference)
    identity = spec.model if is_served(spec.model) else folder_state(versions.model_folder(spec))
    key = (identity, json.dumps(spec.to_json(), sort_keys=True), inference)
    with _loading:
        if key not in _loaded:
            _loaded.clear()
            _loaded[key] = _load(spec, inference)
        return _loaded[key]


def varied_runner(runner: ModelRunner, spec: VersionSpec, inference: Inference) -> ModelRunner:
    """The model of `runner` under the options of `spec`, which need no other model.

    Raises:
        ModelError: no model of this configuration can do the task under them.
    """
    if is_served(spec.model):
        return _ask_for(spec, inference_of(spec, inference))
    options = task_options(spec.task, spec.options or {})
    is_pair = spec.text_pair is not None
    task = find_task(spec.task)(
        versions.config_of(spec), options, all_scores=spec.all_scores, pooling=pooling_of(spec), is_pair=is_pair
    )
    task.decode_with(versions.tokenizer_folder(spec), trust_remote_code=spec.trust_remote_code)
    return runner.under(task)


def inference_of(spec: VersionSpec, declared: Inference) -> Inference:
    """By which the version is computed: the pipeline file may ask for another by now, at a server or here."""
    engine = declared.engine
    if is_served(spec.model):
        engine = "endpoint"
    elif engine == "endpoint":
        engine = "auto"
    return Inference(**{**declared.model_dump(), "dtype": spec.dtype, "engine": engine})


def _load(spec: VersionSpec, inference: Inference) -> ModelRunner:
    if is_served(spec.model):
        return _ask_for(spec, inference)
    return ModelRunner.load(
        versions.model_folder(spec),
        task=spec.task,
        inference=inference,
        task_options=spec.options or {},
        all_scores=spec.all_scores,
        pooling=pooling_of(spec),
        is_pair=spec.text_pair is not None,
        trust_remote_code=spec.trust_remote_code,
        pad_token_id=spec.pad_token_id,
        calibration=lambda: _sample_texts(spec),
        max_length=spec.max_length if isinstance(spec.max_length, int) else None,
        tokenizer=versions.tokenizer_folder(spec),
    )


def _ask_for(spec: VersionSpec, inference: Inference) -> ModelRunner:
    """The version's model where it is served: its server is asked, and nothing is loaded."""
    from tidemill.engines.writing.endpoint import EndpointWriter

    config = versions.config_of(spec)
    task = versions.task_of(spec, config)
    assert isinstance(task, TextGeneration), "no other is served"
    writer = EndpointWriter.open(
        settings=task.settings, inference=inference, name=spec.model_path, thinking=task.options.thinking
    )
    return ModelRunner(writer, config, task=task, inference=inference)


def _sample_texts(spec: VersionSpec) -> pa.Table:
    """Sample texts as the version's model gets them; each is the other text of a pair, too."""
    texts, preparer = calibration_texts(), load_preparer(spec)
    if spec.joined_text.as_parts:
        texts = [json.dumps([text] * len(spec.text)) for text in texts]
    columns = {name: texts[i:] + texts[:i] for i, name in enumerate(preparer.reads)}
    return preparer.prepare(pa.table(columns))
