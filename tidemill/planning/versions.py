"""What a version is: everything that can change a prediction, except the shard.

A moving name is resolved to a commit before anything is computed. What a
version was made of lies in the lake, so that `run` keeps using the promoted
version's model and options when the pipeline file or a branch moves on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tidemill.checkpoints.files import (
    MODEL_FILES,
    files_read,
    is_read,
    matching,
    refuse_adapter,
    refuse_unapplied_tokenizer,
    refuse_weights,
)
from tidemill.checkpoints.modules import MODULE_FILES, MODULES, is_module_file, module_files, module_folders
from tidemill.checkpoints.served import is_served, served_as, served_config
from tidemill.config import Model, Pipeline, Tokenizer
from tidemill.encoding.pooling import Pooling
from tidemill.errors import ConfigError, ModelError, SourceUnavailable
from tidemill.fingerprints import fingerprint
from tidemill.places import is_hub_id, missing
from tidemill.retry import logger
from tidemill.sources import hub
from tidemill.sources.hashes import hash_folder
from tidemill.values.columns import JoinedText

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from tidemill.models.tasks import ModelTask

NUM_WINDOWS = "num_windows"
"""The result column of versions that read long texts in windows."""
TOKENIZER_FILES = tuple(pattern for pattern in MODEL_FILES if pattern != "*.safetensors")
"""What is fetched where no weights are needed."""


@dataclass(frozen=True)
class VersionSpec:
    """A version's ingredients, as declared: `auto` stays `auto`.

    `model` and `tokenizer` identify content: `commit:<hash>` on the Hub, with
    `/<subfolder>` where it lies in one, `sha256:<hash>` of the files that are read
    of a folder, `served:<name>` of a model that a server has, whose tokenizer it
    has too. The paths say where it was found. What is None does not apply, and is
    not an ingredient.
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
    pad_token_id: int | None = None
    options: dict[str, Any] | None = None
    """The model task's that are not at their defaults; None where all are."""
    text_pair: tuple[str, ...] | None = None
    """The columns of the second text; None where a row is one text, as `truncation`."""
    truncation: str | None = None

    @property
    def version(self) -> str:
        """Eight hex digits that name the version."""
        facts = {key: value for key, value in self.to_json().items() if not key.endswith("_path")}
        return fingerprint(json.dumps(facts, sort_keys=True))[:8]

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> VersionSpec:
        pair = {"text_pair": tuple(facts["text_pair"])} if "text_pair" in facts else {}
        return cls(**{**facts, "text": tuple(facts["text"]), **pair})

    @property
    def joined_text(self) -> JoinedText:
        from tidemill.models.tasks import find_task

        as_parts = find_task(self.task).reads_parts
        return JoinedText(self.text, self.text_separator, self.text_pair or (), as_parts)

    def differences(self, other: VersionSpec) -> list[str]:
        """What `other` has differently, in words."""
        mine, theirs = asdict(self), asdict(other)
        return [
            f"{key}: {_shown(mine[key])} → {_shown(theirs[key])}"
            for key in mine
            if mine[key] != theirs[key] and not key.endswith("_path")
        ]


def declared(pipeline: Pipeline, tell: Callable[[str], object] = logger.warning) -> VersionSpec:
    """The version that the pipeline file asks for now; asks the Hub what a branch points to.

    Where it does not answer, a branch points to what it pointed to when it last did; `tell` is told.

    Raises:
        ConfigError: there is no such model task, or it has no such option.
        ModelError: the model or tokenizer does not exist, or may not be read.
        SourceUnavailable: the Hub did not answer well for long, and never did here.
    """
    from tidemill.models.tasks import find_task, task_options

    model, tokenizer = pipeline.model, pipeline.tokenizer
    given = task_options(model.task, model.options)
    find_task(model.task).check_columns(given, tuple(pipeline.dataset.text))
    options = given.model_dump(mode="json", exclude_defaults=True)
    windows, trusted, pair = tokenizer.long_text == "windows", model.trust_remote_code, pipeline.dataset.text_pair
    if pipeline.inference.engine == "endpoint":
        identity = served_identity(model.path, model.task)
    else:
        identity = _identify(model, tell, trusted=trusted, task=model.task)
    return VersionSpec(
        task=model.task,
        model_path=_place(model),
        model=identity,
        tokenizer_path=_place(tokenizer) or _place(model),
        tokenizer=_identify(tokenizer, tell, trusted=trusted, weights=False)
        if tokenizer.path is not None
        else identity,
        text=tuple(pipeline.dataset.text),
        text_separator=pipeline.dataset.text_separator,
        max_length=tokenizer.max_length,
        long_text=tokenizer.long_text,
        dtype=pipeline.inference.dtype,
        all_scores=model.all_scores,
        trust_remote_code=trusted,
        overlap=tokenizer.overlap if windows else None,
        aggregate=tokenizer.aggregate if windows else None,
        pad_token_id=model.pad_token_id,
        options=options or None,
        text_pair=tuple(pair) if pair else None,
        truncation=tokenizer.truncation if pair else None,
    )


def recognized(declared: VersionSpec, recorded: Iterable[VersionSpec]) -> VersionSpec:
    """What is declared, under the identity of a recorded version if every file that is read is the same.

    A commit that changes nothing but a model's card is not another version, nor is
    a folder whose unrelated files counted when its version was recorded.

    Raises:
        SourceUnavailable: the Hub does not answer.
    """
    known = {spec.version: spec for spec in recorded}
    if declared.version in known:
        return declared
    for name, spec in known.items():
        same = replace(declared, model=spec.model, tokenizer=spec.tokenizer)
        if same.version == name and _has_content_of(declared, same):
            return same
    return declared


def _has_content_of(declared: VersionSpec, same: VersionSpec) -> bool:
    own = _is_own(declared)
    return (
        own == _is_own(same)
        and _same_files(declared, declared.model_path, declared.model, same.model)
        and _same_files(declared, declared.tokenizer_path, declared.tokenizer, same.tokenizer, weights=own)
    )


def _is_own(spec: VersionSpec) -> bool:
    """Whether the tokenizer is the model's, so that both are identified by the same files."""
    return spec.tokenizer == spec.model


def _same_files(spec: VersionSpec, path: str, found: str, recorded: str, *, weights: bool = True) -> bool:
    """Whether two identities are of the same files, as far as they are read."""
    if found == recorded:
        return True
    match found.partition(":")[0], recorded.partition(":")[0]:
        case "sha256", "sha256":
            return _lies_at(spec, path, recorded, weights=weights)
        case "commit", "commit":
            now, then = (_read_at(spec, path, identity, weights=weights) for identity in (found, recorded))
            return bool(now) and now == then
    return False


def _read_at(spec: VersionSpec, repo: str, identity: str, *, weights: bool) -> dict[str, str]:
    """Contents by name of the files that are read of a repository at a commit; none where that is gone."""
    commit, subfolder = _commit_and_subfolder(identity)
    has_modules = weights and _has_modules(spec.task)
    of_task = _files_of(spec.task) if weights else ()
    try:
        folders = module_folders(hub.model_snapshot(repo, commit, subfolder, (MODULES,))) if has_modules else []
        contents = hub.model_contents(repo, commit, subfolder, within=folders)
    except ModelError:
        return {}
    return {
        name: content
        for name, content in contents.items()
        if is_read(name, trust_remote_code=spec.trust_remote_code, weights=weights)
        or (has_modules and is_module_file(name))
        or name in of_task
    }


def relocated(spec: VersionSpec, pipeline: Pipeline) -> VersionSpec:
    """The version with the paths of the pipeline file where its local folders have moved there, content unchanged."""
    model, tokenizer = _place(pipeline.model), _place(pipeline.tokenizer) or _place(pipeline.model)
    own = _is_own(spec)
    if not _lies_at(spec, spec.model_path, spec.model) and _lies_at(spec, model, spec.model):
        spec = replace(spec, model_path=model)
    if not _lies_at(spec, spec.tokenizer_path, spec.tokenizer, weights=own) and _lies_at(
        spec, tokenizer, spec.tokenizer, weights=own
    ):
        spec = replace(spec, tokenizer_path=tokenizer)
    return spec


def _lies_at(spec: VersionSpec, path: str, identity: str, *, weights: bool = True) -> bool:
    """Whether a folder here has this content; what is on the Hub or at a server lies where it lies."""
    kind, _, value = identity.partition(":")
    if kind == "commit" or is_served(identity):
        return True
    if not Path(path).is_dir():
        return False
    read = _files_read(path, trusted=spec.trust_remote_code, weights=weights, task=spec.task)
    counted_before = matching(path, MODEL_FILES if weights else TOKENIZER_FILES)
    return any(hash_folder(path, names) == value for names in (read, counted_before))


def model_folder(spec: VersionSpec, *, weights: bool = True) -> Path:
    """A local folder with the model's files at the version's commit; fetches what is missing.

    Raises:
        ModelError: a local folder no longer holds what the version was made with.
    """
    folder = _folder(spec, spec.model_path, spec.model, MODEL_FILES if weights else TOKENIZER_FILES)
    if spec.model.startswith("commit:") and _has_modules(spec.task):
        commit, subfolder = _commit_and_subfolder(spec.model)
        hub.fetch_within(spec.model_path, commit, subfolder, module_folders(folder), MODULE_FILES)
    return folder


def configuration_folder(spec: VersionSpec) -> Path | None:
    """A local folder with the model's config.json and maybe no more; None where it was not fetched yet, or is none."""
    if is_served(spec.model):
        return None
    if spec.model.startswith("commit:"):
        return hub.cached_config(spec.model_path, *_commit_and_subfolder(spec.model))
    return Path(spec.model_path)


def tokenizer_folder(spec: VersionSpec) -> Path:
    """As `model_folder`, for the tokenizer."""
    return _folder(spec, spec.tokenizer_path, spec.tokenizer, TOKENIZER_FILES, weights=_is_own(spec))


def _place(section: Model | Tokenizer) -> str:
    """The folder that a section names, or the id on the Hub, in which its subfolder is part of the identity."""
    path = section.path or ""
    return path if section.subfolder is None or is_hub_id(path, of="model") else f"{path}/{section.subfolder}"


def _identify(
    section: Model | Tokenizer,
    tell: Callable[[str], object],
    *,
    trusted: bool,
    weights: bool = True,
    task: str | None = None,
) -> str:
    path = _place(section)
    if is_local(path):
        return f"sha256:{hash_folder(path, _files_read(path, trusted=trusted, weights=weights, task=task))}"
    commit = hub.model_commit(path, section.revision, tell)
    return f"commit:{commit}" if section.subfolder is None else f"commit:{commit}/{section.subfolder}"


def served_identity(name: str, task: str) -> str:
    """Of the model that a server calls so.

    Raises:
        ConfigError: there is no such task, or no server does it.
    """
    from tidemill.models.tasks import find_task

    if not find_task(task).may_be_served:
        raise ConfigError(
            f'A server goes on with prompts (inference.engine = "endpoint"), and model.task = "{task}" has none. Set '
            'model.task = "text-generation"; model.options.prompt says what becomes of a text, such as '
            '"Summarise: {text}".'
        )
    return served_as(name)


def _has_modules(task: str) -> bool:
    """Whether what modules.json names is part of a model of this task."""
    from tidemill.models.tasks import find_task

    return find_task(task).reads_modules


def _files_of(task: str) -> tuple[str, ...]:
    """Names of the files that are part of a model of this task alone."""
    from tidemill.models.tasks import find_task

    return find_task(task).reads_files


def _files_read(path: str, *, trusted: bool, weights: bool, task: str | None) -> list[str]:
    """Names of the files in a folder that decide a prediction; without weights, those of a tokenizer."""
    names = files_read(path, trust_remote_code=trusted, weights=weights)
    if task is None or not weights:
        return names
    of_task = [name for name in matching(path, _files_of(task)) if name not in names]
    return [*names, *of_task, *(module_files(path) if _has_modules(task) else [])]


def _commit_and_subfolder(identity: str) -> tuple[str, str]:
    commit, _, subfolder = identity.partition(":")[2].partition("/")
    return commit, subfolder


def _folder(spec: VersionSpec, path: str, identity: str, fetched: tuple[str, ...], *, weights: bool = True) -> Path:
    if identity.startswith("commit:"):
        return hub.model_snapshot(path, *_commit_and_subfolder(identity), fetched)
    if not _lies_at(spec, path, identity, weights=weights):
        raise ModelError(
            f"The folder {path} no longer holds the model that this table's version was computed with "
            f"({identity[:19]}). Put it back, or compute the new model beside it: `tidemill backfill`."
        )
    return Path(path)


def is_local(path: str) -> bool:
    """Whether a model's or tokenizer's path is a folder here, and not a Hub id.

    Raises:
        ModelError: it is a folder that is missing, or has no model in it.
    """
    if is_hub_id(path, of="model"):
        return False
    if not Path(path).is_dir():
        raise ModelError(missing(path, of="model"))
    refuse_adapter(Path(path))
    if not (Path(path) / "config.json").exists() and not (Path(path) / "tokenizer.json").exists():
        raise ModelError(f"There is no config.json in {path}. Give a folder in Transformers' format.")
    return True


def _shown(value: object) -> str:
    text = "none" if value is None else str(value)
    return text[:19] if text.startswith(("commit:", "sha256:")) else text


def result_schema(spec: VersionSpec) -> pa.Schema:
    """The columns that a version has beside those of every table: its model task's, by the model's configuration.

    Where long texts are read in windows, the number of a row's windows follows.

    Raises:
        ModelError: the model's configuration does not fit the task or `max_length`, or its files ask for what is not
            applied.
        ConfigError: there is no such model task.
    """
    from tidemill.checkpoints.fast_tokenizer import refuse_longer
    from tidemill.checkpoints.loading import max_positions
    from tidemill.models.tasks import find_task

    find_task(spec.task)
    if is_served(spec.model):
        return task_of(spec, config_of(spec)).schema
    _refuse_weights(spec)
    config = config_of(spec)
    task = task_of(spec, config)
    refuse_longer(spec.max_length, max_positions(config))  # type: ignore[arg-type]
    refuse_unapplied_tokenizer(tokenizer_folder(spec), trust_remote_code=spec.trust_remote_code)
    schema = task.schema
    return schema if spec.aggregate is None else schema.append(pa.field(NUM_WINDOWS, pa.int32()))


def task_of(spec: VersionSpec, config: PretrainedConfig) -> ModelTask:
    """The version's model task, for what it says of itself; one that computes is the runner's.

    Raises:
        ModelError: no model of this configuration can do it.
        ConfigError: there is no such task, or it has no such option.
    """
    from tidemill.models.tasks import find_task, task_options

    options = task_options(spec.task, spec.options or {})
    # For what the task says of it: nothing is pooled by it, since no tokenizer was asked how many tokens are special.
    pooling = None if spec.aggregate is None else Pooling(spec.aggregate, num_special=0)  # type: ignore[arg-type]
    is_pair = spec.text_pair is not None
    return find_task(spec.task)(config, options, all_scores=spec.all_scores, pooling=pooling, is_pair=is_pair)


def items_per_row(spec: VersionSpec) -> int:
    """How many items the model is given of a row, at least: by the options of the version's task alone.

    Raises:
        ConfigError: there is no such task, or it has no such option.
    """
    from tidemill.models.tasks import find_task, task_options

    return find_task(spec.task).items_per_row(task_options(spec.task, spec.options or {}))


def options_of_texts(spec: VersionSpec) -> dict[str, Any]:
    """Of the version's options those that say what is read of a text, such as a prompt.

    Raises:
        ConfigError: there is no such task.
    """
    from tidemill.models.tasks import find_task

    read = find_task(spec.task).options_of_texts
    return {name: value for name, value in (spec.options or {}).items() if name in read}


def writes(spec: VersionSpec) -> bool:
    """Whether the version's model writes its answers token by token.

    Raises:
        ConfigError: there is no such task.
    """
    from tidemill.models.tasks import find_task

    return find_task(spec.task).writes


def reads_again(spec: VersionSpec) -> bool:
    """Whether the version's model reads what it wrote of a text's windows again.

    Raises:
        ConfigError: there is no such task, or it has no such option.
    """
    from tidemill.models.tasks import find_task, task_options

    return find_task(spec.task).reads_again(task_options(spec.task, spec.options or {}))


def config_of(spec: VersionSpec) -> PretrainedConfig:
    """The configuration of the version's model, of which its weights are no part; a served one has nothing in it.

    Raises:
        ModelError: it cannot be read.
    """
    if is_served(spec.model):
        return served_config(spec.model_path)
    from tidemill.checkpoints.loading import load_config

    folder = model_folder(spec, weights=False)
    return load_config(folder, trust_remote_code=spec.trust_remote_code, pad_token_id=spec.pad_token_id)


def most_new_tokens(spec: VersionSpec) -> float | None:
    """Tokens that the version's model writes of a row at most; None of one that writes none.

    Of a text in windows it writes for each of them, and nobody knows how many there will be.

    Raises:
        ModelError: the model's configuration cannot be read.
    """
    if not writes(spec):
        return None
    if spec.aggregate is not None:
        return math.inf
    declared = (spec.options or {}).get("max_new_tokens")
    most = int(declared) if declared else task_of(spec, config_of(spec)).num_written
    return most + _tokens_around(spec)


def _tokens_around(spec: VersionSpec) -> int:
    """Tokens beside a choice: a server writes it in an object, and counts that too."""
    if not is_served(spec.model) or not (spec.options or {}).get("choices"):
        return 0
    from tidemill.engines.writing.endpoint.protocol import TOKENS_AROUND_A_CHOICE

    return TOKENS_AROUND_A_CHOICE


def _refuse_weights(spec: VersionSpec) -> None:
    """Raise ModelError where the listing of the model's files says that no run could open it; nothing is fetched."""
    if not spec.model.startswith("commit:"):
        refuse_weights(matching(spec.model_path, ["*"]), spec.model_path)
    elif not hub.is_offline():
        with suppress(SourceUnavailable), hub.impatient():
            names = hub.model_contents(spec.model_path, *_commit_and_subfolder(spec.model), or_cached=False)
            refuse_weights(names, f"the model {spec.model_path}")
