"""A pipeline for a source, put together and held against what a run would check."""

from __future__ import annotations

import itertools
import os
import re
import tomllib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import has_magic
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from tidemill.config import Pipeline
from tidemill.errors import ConfigError, SchemaError
from tidemill.models.tasks import task_options
from tidemill.planning import versions
from tidemill.planning.columns import check_collisions, check_names, settle_columns
from tidemill.proposing.kept import KeptNames, name_columns
from tidemill.proposing.keys import Key, find_key
from tidemill.proposing.language import guess_language
from tidemill.proposing.models import (
    GIVE_ONE,
    MOST_PROPOSED,
    NO_OPTIONS,
    ChosenModel,
    check_model,
    propose_models,
    served_model,
)
from tidemill.proposing.prose import Prose, choose_text
from tidemill.proposing.sample import Sample, look_at
from tidemill.proposing.source import Source, find_source
from tidemill.sources.dataset import reopen_dataset

DEFAULT_TASK = "text-classification"
LONGEST_NAME = 48
CELLS_OF_LANGUAGE = 100

Choice = Callable[[Sequence[ChosenModel]], ChosenModel]
"""Takes one of the models that are proposed, the likeliest first."""


@dataclass(frozen=True)
class Proposal:
    name: str
    source: Source
    text: Prose
    other_texts: Sequence[Prose]
    language: str | None
    key: Key
    columns: KeptNames
    model: ChosenModel


def propose(
    source_name: str,
    *,
    name: str,
    model: str | None,
    task: str | None,
    options: Mapping[str, Any] = NO_OPTIONS,
    endpoint: str | None = None,
    choose: Choice = lambda models: models[0],
) -> Proposal:
    """Look at a source, and choose what a pipeline over it says; `options` are the model task's, and `endpoint` is the
    address of the server that has the model, where one does.

    Raises:
        DatasetError: there is no such source, or it has no rows.
        SchemaError: no column of it holds text.
        ModelError: the model does not exist, or does not do the task.
        ConfigError: no model is named, and the Hub has none to propose, or cannot be asked.
    """
    if task is not None:
        task_options(task, options)
    chosen = None
    if endpoint is not None:
        chosen = served_model(model, endpoint, task, options)
    elif model is not None:
        chosen = check_model(model, task, options)
    source = find_source(source_name)
    sample = look_at(source)
    text, others = _choose_text(source, sample)
    language = guess_language([cell for cell in sample.texts[text.column] if cell][:CELLS_OF_LANGUAGE])
    if chosen is None:
        chosen = _propose_model(task or DEFAULT_TASK, language, options, choose)
    key = find_key(source, sample, text.column)
    columns = name_columns(sample, text=text.column, key=key.columns, results=chosen.results)
    return Proposal(name, source, text, others, language, key, columns, chosen)


def check_proposal(proposal: Proposal, written: str) -> Pipeline:
    """Hold a pipeline file that is about to be written against what a run would check before it computes.

    Raises:
        InputError: what a run would end with.
    """
    raw = tomllib.loads(written)
    raw["dataset"]["path"], raw["model"]["path"] = proposal.source.options["path"], proposal.model.path
    pipeline = Pipeline.model_validate(raw)
    spec = versions.declared(pipeline)
    known = proposal.source.dataset
    dataset = reopen_dataset(pipeline, spec.joined_text, known.revision, known.files)
    check_names(pipeline)
    kept, _ = settle_columns(pipeline, spec, dataset, None, None)
    check_collisions(kept, [(field.name, "") for field in versions.result_schema(spec)])
    return pipeline


def _choose_text(source: Source, sample: Sample) -> tuple[Prose, list[Prose]]:
    found = choose_text(sample.texts)
    if found is None or not found[0].filled:
        types = ", ".join(f"{name} ({type_})" for name, type_ in sample.types.items())
        raise SchemaError(f"No column of {source.name} holds text. It has: {types or 'no columns'}.")
    return found


def _propose_model(task: str, language: str | None, options: Mapping[str, Any], choose: Choice) -> ChosenModel:
    models = list(itertools.islice(propose_models(task, language, options), MOST_PROPOSED))
    if not models:
        raise ConfigError(f"The Hub has no model for {task} that fits, by language, size and licence. {GIVE_ONE}")
    chosen = choose(models)
    return replace(chosen, others=tuple(model.path for model in models if model.path != chosen.path))


def name_of(source: str) -> str:
    """What a source is called: its file's or folder's name, or the repository's, without what says its format."""
    if "://" in source:
        path = re.sub(r"[?#].*$", "", source.partition("://")[2])
        if source.startswith("hf://datasets/"):
            path = "/".join(path.removeprefix("datasets/").partition("@")[0].split("/")[:2])
        parts = list(itertools.takewhile(lambda part: not has_magic(part), PurePosixPath(path).parts))
        return _without_endings(parts[-1] if parts else "")
    if has_magic(source) and not os.path.lexists(source):
        whole = PurePath(os.path.abspath(source))  # noqa: PTH100 — links stay as they are named.
        parts = list(itertools.takewhile(lambda part: not has_magic(part), whole.parts))
        return parts[-1] if len(parts) > 1 else ""
    return _without_endings(Path(os.path.abspath(source)).name)  # noqa: PTH100 — as above.


def pipeline_name(text: str) -> str:
    """A text as the name of a pipeline.

    >>> pipeline_name("Kundenbewertungen – 2024 (März)")
    'kundenbewertungen_2024_marz'
    """
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss")).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")
    if not name[:1].isalpha():
        name = f"data_{name}".rstrip("_")
    return name[:LONGEST_NAME].rstrip("_")


def _without_endings(name: str) -> str:
    return re.sub(r"(?i)(\.(csv|tsv|jsonl?|ndjson|parquet|txt|text|arrow|gz|zst|bz2|xz|zip))+$", "", name)
