"""What a version is: everything that can change a prediction, except the shard.

A moving name is resolved to a commit before anything is computed. What a
version was made of lies in the lake, so that `run` keeps using the promoted
version's model and options when the pipeline file or a branch moves on.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from tidemill import hub
from tidemill.config import Pipeline
from tidemill.errors import ModelError
from tidemill.fingerprints import hash_folder
from tidemill.shards import fingerprint

MODEL_FILES = (
    "*.json",
    "*.safetensors",
    "*.txt",
    "*.model",
    "*.py",
    "*.jinja",
)
"""What is used of a model's repository or folder: configuration, weights, tokenizer, trusted code."""
NUM_WINDOWS = "num_windows"
"""The result column of versions that read long texts in windows."""
TOKENIZER_FILES = tuple(pattern for pattern in MODEL_FILES if pattern != "*.safetensors")


@dataclass(frozen=True)
class VersionSpec:
    """A version's ingredients, as declared: `auto` stays `auto`.

    `model` and `tokenizer` identify content: `commit:<hash>` on the Hub,
    `sha256:<hash>` of a folder's files. The paths say where it was found.
    What is None does not apply, and is no ingredient.
    """

    task: str
    model_path: str
    model: str
    tokenizer_path: str
    tokenizer: str
    text: tuple[str, ...]
    text_separator: str
    max_length: int | str
    long_text: str
    dtype: str
    all_scores: bool
    trust_remote_code: bool
    overlap: int | str | None = None
    """None unless `long_text` is "windows", as `aggregate`."""
    aggregate: str | None = None

    @property
    def version(self) -> str:
        """Eight hex digits that name the version."""
        facts = {key: value for key, value in self.to_json().items() if not key.endswith("_path")}
        return fingerprint(json.dumps(facts, sort_keys=True))[:8]

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> VersionSpec:
        return cls(**{**facts, "text": tuple(facts["text"])})

    def differences(self, other: VersionSpec) -> list[str]:
        """What `other` has differently, in words."""
        mine, theirs = asdict(self), asdict(other)
        return [
            f"{key}: {_shown(mine[key])} → {_shown(theirs[key])}"
            for key in mine
            if mine[key] != theirs[key] and not key.endswith("_path")
        ]


def declared(pipeline: Pipeline) -> VersionSpec:
    """The version that the pipeline file asks for now; asks the Hub what a branch points to.

    Raises:
        ModelError: the model or tokenizer does not exist, or may not be read.
    """
    model, tokenizer = pipeline.model, pipeline.tokenizer
    identity = _identify(model.path, model.revision, MODEL_FILES)
    own, windows = tokenizer.path is None, tokenizer.long_text == "windows"
    return VersionSpec(
        task=model.task,
        model_path=model.path,
        model=identity,
        tokenizer_path=tokenizer.path or model.path,
        tokenizer=identity if own else _identify(str(tokenizer.path), tokenizer.revision, TOKENIZER_FILES),
        text=tuple(pipeline.dataset.text),
        text_separator=pipeline.dataset.text_separator,
        max_length=tokenizer.max_length,
        long_text=tokenizer.long_text,
        dtype=pipeline.inference.dtype,
        all_scores=model.all_scores,
        trust_remote_code=model.trust_remote_code,
        overlap=tokenizer.overlap if windows else None,
        aggregate=tokenizer.aggregate if windows else None,
    )


def relocated(spec: VersionSpec, pipeline: Pipeline) -> VersionSpec:
    """The version with the paths of the pipeline file where its local folders have moved there, content unchanged."""
    model, tokenizer = pipeline.model.path, pipeline.tokenizer.path or pipeline.model.path
    if not _lies_at(spec.model_path, spec.model, MODEL_FILES) and _lies_at(model, spec.model, MODEL_FILES):
        spec = replace(spec, model_path=model)
    patterns = MODEL_FILES if spec.tokenizer == spec.model else TOKENIZER_FILES
    if not _lies_at(spec.tokenizer_path, spec.tokenizer, patterns) and _lies_at(tokenizer, spec.tokenizer, patterns):
        spec = replace(spec, tokenizer_path=tokenizer)
    return spec


def _lies_at(path: str, identity: str, patterns: tuple[str, ...]) -> bool:
    """Whether a folder here has this content; what is on the Hub lies where it lies."""
    kind, _, value = identity.partition(":")
    return kind == "commit" or (Path(path).is_dir() and hash_folder(path, _matching(path, patterns)) == value)


def model_folder(spec: VersionSpec, *, weights: bool = True) -> Path:
    """A local folder with the model's files at the version's commit; fetches what is missing.

    Raises:
        ModelError: a local folder no longer holds what the version was made with.
    """
    return _folder(spec.model_path, spec.model, MODEL_FILES, TOKENIZER_FILES if not weights else MODEL_FILES)


def tokenizer_folder(spec: VersionSpec) -> Path:
    """As `model_folder`, for the tokenizer."""
    patterns = MODEL_FILES if spec.tokenizer == spec.model else TOKENIZER_FILES
    return _folder(spec.tokenizer_path, spec.tokenizer, patterns, TOKENIZER_FILES)


def _identify(path: str, revision: str, patterns: tuple[str, ...]) -> str:
    if _is_local(path):
        return f"sha256:{hash_folder(path, _matching(path, patterns))}"
    return f"commit:{hub.model_commit(path, revision)}"


def _folder(path: str, identity: str, identified_by: tuple[str, ...], fetched: tuple[str, ...]) -> Path:
    kind, _, value = identity.partition(":")
    if kind == "commit":
        return hub.model_snapshot(path, value, fetched)
    if not Path(path).is_dir() or hash_folder(path, _matching(path, identified_by)) != value:
        raise ModelError(
            f"The folder {path} no longer holds the model that this table's version was computed with "
            f"({identity[:19]}). Put it back, or compute the new model beside it: `tidemill backfill`."
        )
    return Path(path)


def _is_local(path: str) -> bool:
    if Path(path).is_dir():
        if not (Path(path) / "config.json").exists() and not (Path(path) / "tokenizer.json").exists():
            raise ModelError(f"There is no config.json in {path}. Give a folder in Transformers' format.")
        return True
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise ModelError(f"There is no model folder {path}. Give a folder in Transformers' format, or a Hub model id.")
    return False


def _matching(folder: str, patterns: tuple[str, ...]) -> list[str]:
    return [
        str(path.relative_to(folder))
        for pattern in patterns
        for path in Path(folder).glob(pattern)
        if path.is_file() and not path.name.startswith(".")
    ]


def _shown(value: object) -> str:
    text = "none" if value is None else str(value)
    return text[:19] if text.startswith(("commit:", "sha256:")) else text


def result_schema(spec: VersionSpec) -> pa.Schema:
    """The columns that a version has beside those of every table: its model task's, by the model's configuration.

    Where long texts are read in windows, the number of a row's windows follows.

    Raises:
        ModelError: the model's configuration does not fit the task.
        ConfigError: there is no such model task.
    """
    from tidemill.checkpoint import load_config
    from tidemill.model_tasks import find_task

    task = find_task(spec.task)
    config = load_config(model_folder(spec, weights=False), trust_remote_code=spec.trust_remote_code)
    task.check(config)
    schema = task.result_schema(config, all_scores=spec.all_scores)
    return schema if spec.aggregate is None else schema.append(pa.field(NUM_WINDOWS, pa.int32()))
