"""Which model: the one that is named, checked, or else one of the Hub's for the task and the language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tidemill.checkpoints.modules import MODULES, SETTINGS, TRANSFORMER_SETTINGS, module_folders
from tidemill.checkpoints.served import served_config
from tidemill.config import Endpoint, section_of
from tidemill.errors import ConfigError, ModelError, SourceUnavailable, TidemillError
from tidemill.masking import masked
from tidemill.models.tasks import MODEL_TASKS, find_task, task_options
from tidemill.planning.versions import NUM_WINDOWS, served_identity
from tidemill.sources import hub

MOST_PROPOSED = 5
MOST_LISTED = 40
MOST_PARAMETERS = 300_000_000
"""Of a proposed model on a machine without a GPU: a base model with a vocabulary of many languages."""
MOST_PARAMETERS_GPU = 1_000_000_000
FREE_LICENSES = frozenset(
    ["apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0", "unlicense"]
)
"""Those that let anyone use the model for anything, by their names on the Hub."""
NOT_RUN = frozenset(
    ["gguf", "gptq", "awq", "bitsandbytes", "4-bit", "8-bit", "compressed-tensors", "custom_code", "peft", "adapter"]
)
"""Tags of models that Tidemill refuses."""
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
GIVE_ONE = "Give a model: --model FOLDER for one in a local folder, or --model OWNER/NAME for one of the Hub."


@dataclass(frozen=True)
class ChosenModel:
    """A model that does the task, as its configuration says."""

    path: str
    task: str
    labels: tuple[str, ...]
    is_local: bool
    num_parameters: int | None = None
    license: str = ""
    results: tuple[str, ...] = ("label", "score")
    """What the task calls its columns, whatever is set later."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the task, as they are given."""
    others: tuple[str, ...] = field(default=())
    """The next ones in the Hub's listing."""
    address: str | None = None
    """Of the server that has the model; None of one that is computed here."""


def check_model(path: str, task: str | None, options: Mapping[str, Any] = NO_OPTIONS) -> ChosenModel:
    """A model that the user names; with no task, the first one that its configuration fits.

    Raises:
        ModelError: there is no such model, or it does not do the task, or no task by itself.
        ConfigError: there is no such task, or it has no such option.
        SourceUnavailable: the model is on the Hub, which does not answer.
    """
    from tidemill.checkpoints.loading import load_config

    if task is not None:
        task_options(task, options)
    is_local = Path(path).is_dir()
    if not is_local and _looks_local(path):
        raise ModelError(f"There is no model folder {path}. {GIVE_ONE}")
    folder = Path(path) if is_local else _fetch_config(path)
    if task is not None:
        return _chosen(folder, path, task, options, is_local=is_local)
    for known in MODEL_TASKS:
        with suppress(ModelError, ConfigError):
            return _chosen(folder, path, known, options, is_local=is_local)
    architectures = ", ".join(load_config(folder).architectures or ["of no named architecture"])
    raise ModelError(
        f"The model {path} is {architectures}, and no model task takes it as it is. Name one by --task: the message "
        f"says what it lacks. Known: {', '.join(MODEL_TASKS)}."
    )


def served_model(
    name: str | None, address: str, task: str | None, options: Mapping[str, Any] = NO_OPTIONS
) -> ChosenModel:
    """A model that a server has, which is not asked.

    Raises:
        ConfigError: the name is missing, the address is none, or no server does the task, or it has no such option.
    """
    section_of(Endpoint, {"base_url": address}, "inference.endpoint", owner="--endpoint")
    if name is None:
        raise ConfigError(f"--endpoint {masked(address)} is a server. Name its model: --model NAME.")
    tag = task or "text-generation"
    served_identity(name, tag)
    schema = find_task(tag)(served_config(name), task_options(tag, options)).schema
    results = tuple(schema.names)
    return ChosenModel(name, tag, (), is_local=False, results=results, options=dict(options), address=address)


def _chosen(folder: Path, path: str, tag: str, options: Mapping[str, Any], **facts: Any) -> ChosenModel:
    """The model in a folder, which has its configuration and maybe no more.

    Raises:
        ModelError: its configuration does not fit the task.
        ConfigError: the task lacks an option, or has no such one.
    """
    from tidemill.checkpoints.loading import load_config

    config = load_config(folder)
    made_of = task_options(tag, options)
    schema = find_task(tag)(config, made_of).schema
    results = dict.fromkeys([*schema.names, *_names_with_all_scores(config, tag, made_of), NUM_WINDOWS])
    # Where nothing of an answer is a text, it is no label of the model's.
    labels = [str(label) for _, label in sorted(config.id2label.items())] if "string" in str(schema.types) else []
    return ChosenModel(path, tag, tuple(labels), results=tuple(results), options=dict(options), **facts)


def _names_with_all_scores(config: Any, tag: str, options: Any) -> list[str]:
    try:
        names: list[str] = find_task(tag)(config, options, all_scores=True).schema.names
    except (ModelError, ConfigError):  # The task has none, or not of this model.
        return []
    return names


def propose_models(task: str, language: str | None, options: Mapping[str, Any] = NO_OPTIONS) -> Iterator[ChosenModel]:
    """Models of the Hub that fit, the most downloaded first; each is checked when it is its turn.

    Of a language: those for it, then those for many.

    Raises:
        ConfigError: the Hub cannot be asked, or the task has no such option, or lacks one.
    """
    task_options(task, options)
    most = MOST_PARAMETERS_GPU if _has_gpu() else MOST_PARAMETERS
    asked = [language, "multilingual"] if language else [None]
    seen = set()
    for tag in asked:
        try:
            listed = hub.list_models(task, language=tag, most_parameters=most, limit=MOST_LISTED)
        except TidemillError as e:
            said = str(e).rstrip(".")
            raise ConfigError(f"The Hub cannot be asked for a model: {said}. {GIVE_ONE}") from e
        for model in (model for model in listed if _may_run(model, task)):
            if model.repo not in seen and (chosen := _checked(model, task, options)):
                seen.add(model.repo)
                yield chosen


def _may_run(model: hub.ListedModel, task: str) -> bool:
    tags = {tag.lower() for tag in model.tags}
    return model.license in FREE_LICENSES and not tags & (NOT_RUN | find_task(task).tags_of_others)


def _checked(model: hub.ListedModel, task: str, options: Mapping[str, Any]) -> ChosenModel | None:
    """The model, if its configuration fits the task and its labels have names.

    Raises:
        ConfigError: the task lacks an option, whichever the model.
    """
    facts = {"is_local": False, "num_parameters": model.num_parameters, "license": model.license}
    try:
        chosen = _chosen(_fetch_config(model.repo), model.repo, task, options, **facts)
    except (ModelError, SourceUnavailable):
        return None
    return None if any(label.startswith("LABEL_") for label in chosen.labels) else chosen


def _fetch_config(repo: str) -> Path:
    """A folder with the model's configuration, and with those of its modules if it has some.

    Raises:
        ModelError: there is no such model, or it has no safetensors.
    """
    commit = hub.model_commit(repo, "main")
    contents = hub.model_contents(repo, commit)
    if not any(name.endswith(".safetensors") for name in contents):
        raise ModelError(f"The model {repo} has no weights in safetensors at the top of its repository. {GIVE_ONE}")
    if MODULES not in contents:
        return hub.model_config(repo, commit)
    folder = hub.model_snapshot(repo, commit, "", ("config.json", MODULES, SETTINGS, *TRANSFORMER_SETTINGS))
    hub.fetch_within(repo, commit, "", module_folders(folder), ("config.json",))
    return folder


def _looks_local(path: str) -> bool:
    return path.startswith((".", "/", "~")) or path.count("/") > 1


def _has_gpu() -> bool:
    return Path("/dev/nvidia0").exists()
