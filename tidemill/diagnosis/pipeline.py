"""What one pipeline needs: its model, its dataset and its lake."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.config import Pipeline
from tidemill.diagnosis.finding import Check, Finding
from tidemill.diagnosis.machine import disk
from tidemill.diagnosis.server import server
from tidemill.places import home

if TYPE_CHECKING:
    from tidemill.planning.versions import VersionSpec

_loading = threading.Lock()
SECONDS = 20.0
"""Of a model or a dataset on the Hub: some requests, each of which may be slow."""


def places(pipeline: Pipeline | None) -> list[Finding]:
    """The disks of the lake and the store; of the default ones without a pipeline."""
    if pipeline is None:
        return disk("home", home(), "TIDEMILL_HOME")
    lake, store = pipeline.lake, pipeline.store
    found: list[Finding] = []
    if "://" not in lake.data:
        found += disk("lake", Path(lake.data), "lake.data")
    if "://" not in store.path:
        found += disk("store", Path(store.path), "store.max_bytes or store.path", int(store.max_bytes))
    return found


def checks(pipeline: Pipeline) -> Sequence[Check]:
    remedy = "tidemill plan shows the whole message; the pipeline file's keys are in docs/pipeline-file.md"
    found = [
        Check("pipeline", "dataset", lambda: _dataset(pipeline), remedy, needed=True, seconds=SECONDS),
        Check("pipeline", "model", lambda: _model(pipeline), remedy, needed=True, seconds=SECONDS),
        Check("pipeline", "lake", lambda: _lake(pipeline), "check lake.catalog", needed=True),
    ]
    if pipeline.inference.engine == "endpoint":
        remedy = "start the server, or check inference.endpoint and model.path"
        found.append(Check("pipeline", "server", lambda: server(pipeline), remedy, needed=True, seconds=SECONDS))
    return found


def needs_hub(pipeline: Pipeline | None) -> bool:
    """Whether something of it is read from the Hub."""
    if pipeline is None:
        return False
    is_served = pipeline.inference.engine == "endpoint"
    models = [] if is_served else filter(None, [pipeline.model.path, pipeline.tokenizer.path])
    dataset = pipeline.dataset.path
    is_hub_dataset = dataset.startswith("hf://") or ("://" not in dataset and not _is_here(dataset))
    return is_hub_dataset or not all(map(_is_here, models))


def needs_server(pipeline: Pipeline | None) -> bool:
    """Whether a Prefect server has to be there: one is configured, or the pipeline has schedules for one."""
    if os.environ.get("PREFECT_API_URL"):
        return True
    if pipeline is None:
        return False
    plan = pipeline.schedule
    return any(one.cron for one in (plan, plan.ingest, plan.tokenize, plan.infer, plan.materialize, plan.gc))


def _is_here(path: str) -> bool:
    from glob import glob

    return Path(path).exists() or bool(glob(path))


def _load_libraries() -> None:
    """Once: two threads that import parts of them at one time find them half done."""
    with _loading:
        import datasets  # noqa: F401
        import transformers  # noqa: F401
        from transformers import AutoConfig, PreTrainedTokenizerBase  # noqa: F401


def _dataset(pipeline: Pipeline) -> list[Finding]:
    _load_libraries()
    from tidemill.models.tasks import find_task
    from tidemill.planning.columns import check_names
    from tidemill.sources.dataset import open_dataset
    from tidemill.values.columns import JoinedText

    spec = pipeline.dataset
    as_parts = find_task(pipeline.model.task).reads_parts
    text = JoinedText(tuple(spec.text), spec.text_separator, tuple(spec.text_pair), as_parts)
    dataset = open_dataset(pipeline, text)
    check_names(pipeline)
    columns = dataset.columns(spec.kept, {}, num_keys=len(spec.key))
    dataset.use(columns)
    dataset.check(dataset.schema(), columns)
    num_bytes = sum(file.size for file in dataset.files)
    files = f"{len(dataset.files):,} file{'s' if len(dataset.files) != 1 else ''}"
    found = [Finding("pipeline", "dataset", "works", f"{spec.path}: {files}, {num_bytes / 2**20:,.1f} MiB")]
    return found + [Finding("pipeline", "dataset", "slow", note) for note in dataset.notes]


def _model(pipeline: Pipeline) -> list[Finding]:
    _load_libraries()
    from tidemill.planning.versions import declared, result_schema

    spec = declared(pipeline)
    names = ", ".join(result_schema(spec).names)
    said = f"{pipeline.model.path}: {pipeline.model.task}, gives {names}"
    return [Finding("pipeline", "model", "works", said), *_auto(pipeline, spec)]


def _auto(pipeline: Pipeline, spec: VersionSpec) -> list[Finding]:
    """What the engine and the dtype come to that the pipeline file leaves open."""
    from tidemill.engines.contest.telling import is_question, known_of
    from tidemill.planning.versions import configuration_folder

    if not is_question(pipeline.inference):
        return []
    known = known_of(configuration_folder(spec), pipeline.inference)
    said = "was not measured for this model on this machine: a long run does it" if known is None else f"takes {known}"
    return [Finding("pipeline", "auto", "works", said)]


def _lake(pipeline: Pipeline) -> list[Finding]:
    from tidemill.lake import Lake, catalog_exists
    from tidemill.masking import shown_catalog

    where = shown_catalog(pipeline.lake.catalog)
    if not catalog_exists(pipeline.lake):
        return [Finding("pipeline", "lake", "works", f"{where}: none yet, `tidemill run` makes it")]
    with Lake(pipeline.lake, read_only=True) as lake:
        return [Finding("pipeline", "lake", "works", f"{where}: can be read, its data is in {lake.data}")]
