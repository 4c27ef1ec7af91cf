"""The pipeline file: every option, its default and its meaning, in one model.

TOML holds what a pipeline is; environment variables hold only secrets and facts
of the machine. Unknown keys are refused with the nearest known one named.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from tidemill.config.sections import (
    Alerts,
    Cost,
    Dataset,
    Endpoint,
    Inference,
    Lake,
    Limits,
    Model,
    Report,
    Schedule,
    StageSchedule,
    Store,
    Subfolder,
    Tokenizer,
    Workers,
)
from tidemill.config.values import SETTLED, STAGES, Aggregate, LongText, Section, Stage, Truncation
from tidemill.errors import ConfigError
from tidemill.masking import shown_setting
from tidemill.pipeline_file import Overrides, names_served_model, overridden, read_file, shown

MOST_PROBLEMS = 20
"""Told of one pipeline file; the first ones mostly explain the rest."""


class Pipeline(Section):
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,47}$")
    """Names the table: a lower-case letter, then letters, digits and underscores; not `_marks` at its end."""
    dataset: Dataset
    tokenizer: Tokenizer = Tokenizer()
    model: Model
    inference: Inference = Inference()
    schedule: Schedule = Schedule()
    alerts: Alerts = Alerts()
    lake: Lake = Field(default_factory=Lake)
    store: Store = Field(default_factory=Store)
    report: Report = Report()
    limits: Limits = Limits()
    cost: Cost = Cost()

    @model_validator(mode="wrap")
    @classmethod
    def _with_served_name(cls, raw: Any, validated: Callable[[Any], Self]) -> Self:
        """A model that a server has is called as the server calls it, whatever lies at such a path here."""
        pipeline = validated(raw)
        if not isinstance(raw, dict) or not names_served_model(raw) or not isinstance(raw.get("model"), dict):
            return pipeline
        return pipeline.model_copy(update={"model": pipeline.model.model_copy(update={"path": raw["model"]["path"]})})


def load_pipeline(path: str | Path, overrides: Overrides = ()) -> Pipeline:
    """Read a pipeline file, less what overrides it: `key.path=value`, a value as in TOML, or values by `key.path`.

    Its relative paths begin at its folder, those of overrides at the current one.

    Raises:
        ConfigError: the file is missing, is not TOML, or holds an unknown key or a wrong value.
    """
    return pipeline_of(read_file(path, overrides), str(path))


def with_overrides(pipeline: Pipeline, overrides: Overrides) -> Pipeline:
    """A pipeline with other values, given as to `load_pipeline`.

    Raises:
        ConfigError: an unknown key or a wrong value.
    """
    return pipeline_of(overridden(pipeline.model_dump(mode="json", exclude_unset=True), overrides), pipeline.name)


def pipeline_of(raw: dict[str, Any], where: str) -> Pipeline:
    """The pipeline that a file's content, or a flow run's parameter, says; `where` is named in each message.

    Its paths are settled.

    Raises:
        ConfigError: it holds an unknown key or a wrong value.
    """
    try:
        pipeline = Pipeline.model_validate(raw, context=SETTLED)
    except ValidationError as e:
        raise ConfigError("\n".join(f"{where}: {line}" for line in explain(e, of=Pipeline))) from e
    if "__" in pipeline.name:
        raise ConfigError(
            f"{where}: name = {pipeline.name!r} holds '__', which separates a table's name from its version."
        )
    if pipeline.name.endswith("_marks"):
        raise ConfigError(
            f"{where}: name = {pipeline.name!r} ends with '_marks', by which a lake names the marks of a pipeline. "
            "Give it another name."
        )
    if problem := _problem_of_pairs(pipeline) or _problem_of_served(pipeline):
        raise ConfigError(f"{where}: {problem}")
    return pipeline


def _problem_of_pairs(pipeline: Pipeline) -> str | None:
    """What does not go together where a row is a pair of texts, or is none."""
    tokenizer, is_pair = pipeline.tokenizer, bool(pipeline.dataset.text_pair)
    if is_pair and tokenizer.long_text == "windows":
        return (
            'tokenizer.long_text = "windows" reads one text, and dataset.text_pair makes a row two. Set long_text to '
            '"truncate" or "quarantine".'
        )
    # As a default may be given: a pipeline that is written out has all of them.
    if not is_pair and tokenizer.truncation != Tokenizer.model_fields["truncation"].default:
        return (
            f'tokenizer.truncation = "{tokenizer.truncation}" counts only for pairs of texts: set dataset.text_pair, '
            "or leave this out."
        )
    return None


def _problem_of_served(pipeline: Pipeline) -> str | None:
    """What counts only for a model that is computed here, where a server computes it."""
    model, tokenizer, inference = pipeline.model, pipeline.tokenizer, pipeline.inference
    if inference.engine != "endpoint":
        return None
    if inference.endpoint.base_url is None:
        return (
            'inference.engine = "endpoint" asks a server, and inference.endpoint.base_url does not say which. Set it '
            'to its address, such as "http://127.0.0.1:8000/v1".'
        )
    of_files = {
        "model": (model, ("revision", "subfolder", "all_scores", "trust_remote_code", "pad_token_id")),
        "tokenizer": (tokenizer, ("path", "max_length", "long_text")),
        "inference": (inference, ("device", "dtype", "token_budget")),
    }
    for section, (values, names) in of_files.items():
        for name in names:
            # As a default may be given: a pipeline that is written out has all of them.
            if getattr(values, name) != type(values).model_fields[name].default:
                return (
                    f'{section}.{name} counts for models that are computed here, and inference.engine = "endpoint" '
                    "asks a server. Leave it out, or set it there."
                )
    return None


Kind = TypeVar("Kind", bound=Section)


def section_of(kind: type[Kind], raw: Mapping[str, Any], where: str, *, owner: str) -> Kind:
    """What a table of the pipeline file says, whose keys another part of the file decides: `owner`, as it is written.

    Raises:
        ConfigError: it holds an unknown key or a wrong value.
    """
    known = list(known_keys(kind))
    for key in raw:
        if key not in kind.model_fields:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"Did you mean {where}.{near[0]}?" if near else f"Known: {', '.join(known) or 'none'}."
            raise ConfigError(f"{where}.{_cut(str(key))} is no option of {owner}. {hint}")
    try:
        return kind.model_validate(dict(raw))
    except ValidationError as e:
        raise ConfigError("\n".join(explain(e, of=Pipeline, prefix=f"{where}."))) from e


def explain(error: ValidationError, *, of: type[Section], prefix: str = "") -> Iterator[str]:
    """What is wrong with a file, a line each; `of` has the keys that it may have."""
    problems = error.errors()
    for problem in problems[:MOST_PROBLEMS]:
        dotted = prefix + _cut(".".join(str(part) for part in problem["loc"]))
        match problem["type"]:
            case "extra_forbidden":
                yield f"unknown key {dotted}.{_nearest(dotted, of)}"
            case "missing":
                yield f"{dotted} is missing."
            case _:
                # A union reports each branch under the branch's own name.
                dotted = re.sub(r"\.(int|constrained-int|literal\[.*\]|list\[.*\]|function-.*)$", "", dotted)
                value = shown(shown_setting(dotted, problem["input"]))
                yield f"{dotted} = {value}: {problem['msg'].removeprefix('Value error, ')}."
    if len(problems) > MOST_PROBLEMS:
        yield f"and {len(problems) - MOST_PROBLEMS:,} more."


def _cut(key: str) -> str:
    return key if len(key) <= 100 else f"{key[:97]}..."


def _nearest(dotted: str, model: type[Section]) -> str:
    known = list(known_keys(model))
    by_last = {key.rpartition(".")[2]: key for key in known}
    if near := difflib.get_close_matches(dotted, known, n=1, cutoff=0.6):
        return f" Did you mean {near[0]}?"
    if near := difflib.get_close_matches(dotted.rpartition(".")[2], by_last, n=1, cutoff=0.6):
        return f" Did you mean {by_last[near[0]]}?"
    section = dotted.rpartition(".")[0]
    siblings = [key for key in known if key.rpartition(".")[0] == section]
    return f" Known here: {', '.join(siblings or known)}."


def known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of the pipeline file, in order."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield prefix + name
            yield from known_keys(annotation, f"{prefix}{name}.")
        elif not any(isinstance(a, type) and issubclass(a, BaseModel) for a in get_args(annotation)):
            yield prefix + name


__all__ = [
    "SETTLED",
    "STAGES",
    "Aggregate",
    "Alerts",
    "Cost",
    "Dataset",
    "Endpoint",
    "Inference",
    "Lake",
    "Limits",
    "LongText",
    "Model",
    "Pipeline",
    "Report",
    "Schedule",
    "Section",
    "Stage",
    "StageSchedule",
    "Store",
    "Subfolder",
    "Tokenizer",
    "Truncation",
    "Workers",
    "explain",
    "known_keys",
    "load_pipeline",
    "pipeline_of",
    "section_of",
    "with_overrides",
]
