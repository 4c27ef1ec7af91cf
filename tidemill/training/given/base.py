"""The model that a training begins with: its folder here, its identity, and the tokenizer that goes with it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tidemill.checkpoints.loading import load_config, max_positions, opening, usual_length
from tidemill.config import Pipeline, load_pipeline
from tidemill.encoding.items import TYPES
from tidemill.errors import ConfigError, ModelError
from tidemill.lake import Lake
from tidemill.lake.pipelines import load_spec
from tidemill.models.tasks import Reading, find_task
from tidemill.planning import versions
from tidemill.planning.versions import VersionSpec
from tidemill.results.promotion import existing_state
from tidemill.training.given.file import TrainingFile

if TYPE_CHECKING:
    from transformers import PretrainedConfig

USUAL_LENGTH = 512
IN_TRAINING_FILE = {
    "model.path": "base.path",
    "in a pipeline file": "in a training file",
    "set tokenizer.path to a folder or Hub id that has them": "put them there from the model that it was made of",
}


@dataclass(frozen=True)
class BaseModel:
    spec: VersionSpec
    folder: Path
    tokenizer: Path
    config: PretrainedConfig
    max_length: int

    @property
    def shown(self) -> str:
        return f"{self.spec.model_path} ({self.spec.model[:19]})"

    def open_tokenizer(self) -> Any:
        """Transformers' own, for what is made of texts and their tokens' places.

        Raises:
            ModelError: there is none in the folder that is fast.
        """
        from transformers import AutoTokenizer

        with opening(f"The tokenizer in {self.tokenizer}"):
            return AutoTokenizer.from_pretrained(self.tokenizer.absolute(), use_fast=True, local_files_only=True)

    def token_ids(self, texts: list[str], pairs: list[str] | None = None) -> dict[str, list[Any]]:
        """What the model is given of each text, cut to `max_length`: made by what makes it in a run.

        Raises:
            ModelError: there is no tokenizer in the folder, or none that fits.
        """
        reading = Reading(
            max_length=self.max_length,
            is_pair=pairs is not None,
            model_max_length=max_positions(self.config),
            usual_length=usual_length(self.config),
            trust_remote_code=self.spec.trust_remote_code,
        )
        # Of a base that was made for something else, none of whose outputs is asked for.
        bare = copy.deepcopy(self.config)
        bare.architectures = None
        task = find_task("text-classification")(bare, is_pair=pairs is not None)
        columns = {"text": pa.array(texts, pa.string())}
        if pairs is not None:
            columns["text_pair"] = pa.array(pairs, pa.string())
        with _own_keys():
            prepared = task.preparer(self.tokenizer, reading).prepare(pa.table(columns))
        made = {"input_ids": prepared["token_ids"].to_pylist()}
        if "type_ids" in prepared.column_names and TYPES in task.inputs:
            made["token_type_ids"] = prepared["type_ids"].to_pylist()
        return made


def find_base(file: TrainingFile) -> BaseModel:
    """
    Raises:
        InputError: there is no such model or pipeline, it is not fit to be trained, or it has no tokenizer.
        SourceUnavailable: the Hub does not answer.
    """
    if file.base.pipeline:
        return _base_of(file, _promoted(file))
    with _own_keys():
        return _base_of(file, versions.declared(_pipeline_of(file)))


@contextmanager
def _own_keys() -> Iterator[None]:
    """Tell what is wrong with a pipeline's model by the keys that a training file has."""
    try:
        yield
    except ModelError as e:
        message = str(e)
        for of_pipeline, own in IN_TRAINING_FILE.items():
            message = message.replace(of_pipeline, own)
        raise ModelError(message) from e


def _base_of(file: TrainingFile, spec: VersionSpec) -> BaseModel:
    folder = versions.model_folder(spec)
    config = load_config(folder, trust_remote_code=spec.trust_remote_code)
    most = max_positions(config)
    longest = min(file.method.max_length or USUAL_LENGTH, most or USUAL_LENGTH)
    if file.method.max_length and most and file.method.max_length > most:
        raise ConfigError(
            f"method.max_length = {file.method.max_length} exceeds the {most} tokens that the base takes."
        )
    return BaseModel(spec, folder, versions.tokenizer_folder(spec), config, longest)


def _pipeline_of(file: TrainingFile) -> Pipeline:
    model: dict[str, Any] = {"path": file.base.path, "revision": file.base.revision, "task": file.task}
    model |= {"subfolder": file.base.subfolder, "trust_remote_code": file.base.trust_remote_code}
    raw = {"name": file.name, "dataset": {"path": ".", "text": "text"}, "model": model}
    return Pipeline.model_validate(raw, context={"settled": True})


def _promoted(file: TrainingFile) -> VersionSpec:
    assert file.base.pipeline is not None
    pipeline = load_pipeline(file.base.pipeline)
    with Lake(pipeline.lake, read_only=True) as lake:
        cursor = lake.cursor()
        promoted = existing_state(cursor, pipeline.name).promoted_version
        recorded = load_spec(cursor, pipeline.name, promoted)
    spec = versions.relocated(VersionSpec.from_json(recorded or {}), pipeline)
    if spec.model.startswith("served:"):
        raise ConfigError(f"base.pipeline = {json.dumps(file.base.pipeline)} asks a server's model, which is not here.")
    return spec
