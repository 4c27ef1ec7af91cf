"""Which model: the one that is named, checked, or else one of the Hub's for the task and the language."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tidemill.errors import ConfigError, InputError, ModelError, SourceUnavailable, TidemillError
from tidemill.models.tasks import MODEL_TASKS, find_task
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
FOR_PAIRS = frozenset(
    ["cross-encoder", "reranker", "text-ranking", "sentence-transformers", "natural-language-inference"]
)
"""Tags of models that judge two texts at once."""
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
    others: tuple[str, ...] = field(default=())
    """The next ones in the Hub's listing."""


def check_model(path: str, task: str | None) -> ChosenModel:
    """A model that the user names; with no task, the one that its configuration fits.

    Raises:
        ModelError: there is no such model, or it does not do the task.
        ConfigError: there is no such task.
        SourceUnavailable: it is on the Hub, which does not answer.
    """
    tags = [find_task(task).pipeline_tag] if task else list(MODEL_TASKS)
    is_local = Path(path).is_dir()
    if not is_local and _looks_local(path):
        raise ModelError(f"There is no model folder {path}. {GIVE_ONE}")
    folder = Path(path) if is_local else _fetch_config(path)
    failure: InputError | None = None
    for tag in tags:
        try:
            return ChosenModel(path, tag, labels_of(folder, tag), is_local)
        except ModelError as e:
            failure = failure or e
    assert failure is not None
    raise failure


def labels_of(folder: Path, task: str) -> tuple[str, ...]:
    """What the model may answer.

    Raises:
        ModelError: its configuration does not fit the task.
    """
    from tidemill.checkpoints.loading import load_config

    config = load_config(folder)
    find_task(task)(config)
    return tuple(str(label) for _, label in sorted(config.id2label.items()))


def propose_models(task: str, language: str | None) -> Iterator[ChosenModel]:
    """Models of the Hub that fit, the most downloaded first; each is checked when it is its turn.

    Of a language: those for it, then those for many.

    Raises:
        ConfigError: the Hub cannot be asked.
    """
    most = MOST_PARAMETERS_GPU if _has_gpu() else MOST_PARAMETERS
    asked = [language, "multilingual"] if language else [None]
    seen = set()
    for tag in asked:
        try:
            listed = hub.list_models(task, language=tag, most_parameters=most, limit=MOST_LISTED)
        except TidemillError as e:
            said = str(e).rstrip(".")
            raise ConfigError(f"The Hub cannot be asked for a model: {said}. {GIVE_ONE}") from e
        for model in filter(_may_run, listed):
            if model.repo not in seen and (chosen := _checked(model, task)):
                seen.add(model.repo)
                yield chosen


def _may_run(model: hub.ListedModel) -> bool:
    tags = {tag.lower() for tag in model.tags}
    return model.license in FREE_LICENSES and not tags & (NOT_RUN | FOR_PAIRS)


def _checked(model: hub.ListedModel, task: str) -> ChosenModel | None:
    """The model, if its configuration fits the task and its labels have names."""
    try:
        labels = labels_of(_fetch_config(model.repo), task)
    except (ModelError, SourceUnavailable):
        return None
    if any(label.startswith("LABEL_") for label in labels):
        return None
    return ChosenModel(
        model.repo, task, labels, is_local=False, num_parameters=model.num_parameters, license=model.license
    )


def _fetch_config(repo: str) -> Path:
    """A folder with the model's configuration.

    Raises:
        ModelError: there is no such model, or it has no safetensors.
    """
    commit = hub.model_commit(repo, "main")
    if not any(name.endswith(".safetensors") for name in hub.model_contents(repo, commit)):
        raise ModelError(f"The model {repo} has no weights in safetensors at the top of its repository. {GIVE_ONE}")
    return hub.model_config(repo, commit)


def _looks_local(path: str) -> bool:
    return path.startswith((".", "/", "~")) or path.count("/") > 1


def _has_gpu() -> bool:
    return Path("/dev/nvidia0").exists()
