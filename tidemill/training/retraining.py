"""A model that learns from the marks that people give: trained, computed beside the promoted one, held against it.

What was interrupted goes on with the next call: the training from its last
checkpoint, the backfill from what it committed.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidemill.config import Pipeline
from tidemill.config.sections import PROMOTE_IF
from tidemill.errors import ConfigError, InputError, RunFailed
from tidemill.lake import Lake
from tidemill.lake.pipelines import load_spec
from tidemill.lake.records.marks import num_marks_since
from tidemill.lake.records.trainings import last_training
from tidemill.lake.tables import MARKS_SUFFIX
from tidemill.places import home
from tidemill.planning.backfill_plan import BackfillPlan, Selection, plan_backfill, request_backfill
from tidemill.reports.compare import compare_versions
from tidemill.results.promotion import PROMOTED, promote
from tidemill.running.backfill_run import BackfillRun
from tidemill.training.given.file import TrainingFile, load_training
from tidemill.training.run import folder_of, train

COMPARE = {">": operator.gt, ">=": operator.ge}
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Retrained:
    """`state` says how far it came: too few marks, nothing new, not better by `promote_if`, or promoted."""

    state: str
    new_marks: int
    folder: str | None = None
    version: str | None = None
    truth: dict[str, Any] | None = None
    """What `compare --truth` says of the promoted version and this one, by marks that neither learned from."""


def retrain(pipeline: Pipeline, *, why: str = "retrain", tell: Callable[[str], None] = lambda line: None) -> Retrained:
    """Do what is due: train, compute beside, hold against each other, and promote if `promote_if` says so.

    Raises:
        InputError: there is no training file, or it, its rows or its base are not fit.
        RunFailed: the training or the backfill failed.
    """
    file = _training_file(pipeline)
    new_marks, folder = _since_last(pipeline, file)
    is_due = new_marks >= pipeline.schedule.retrain.every_marks
    if is_due:
        folder = folder_of(file, home() / "trained" / pipeline.name)
        folder.parent.mkdir(parents=True, exist_ok=True)
        train(file, folder, drop_duplicates=True, tell=tell)
    if folder is None or not folder.is_dir():
        return Retrained("too few marks", new_marks)
    model = pipeline.model.model_copy(update={"path": str(folder), "revision": "main", "subfolder": None})
    beside = pipeline.model_copy(update={"model": model})
    version = _computed(beside, is_due=is_due, why=why, tell=tell)
    if version is None:
        return Retrained("too few marks", new_marks, str(folder))
    truth = _held_against(pipeline, version, tell)
    state = _promoted(pipeline, version, truth)
    return Retrained(state, new_marks, str(folder), version, truth)


def _training_file(pipeline: Pipeline) -> TrainingFile:
    """It records in the pipeline's lake, whichever it names: there the marks are counted from."""
    if pipeline.schedule.retrain.file is None:
        raise ConfigError("Nothing says what is trained. Set schedule.retrain.file to a training file.")
    found = load_training(pipeline.schedule.retrain.file)
    return found.model_copy(update={"lake": pipeline.lake})


def _since_last(pipeline: Pipeline, file: TrainingFile) -> tuple[int, Path | None]:
    """Marks since the last training, and the folder that came of it."""
    with Lake(pipeline.lake, read_only=True) as lake:
        cursor = lake.cursor()
        began, folder = last_training(cursor, file.name) or (LONG_AGO, None)
        return num_marks_since(cursor, pipeline.name, began), Path(folder) if folder else None


def _computed(pipeline: Pipeline, *, is_due: bool, why: str, tell: Callable[[str], None]) -> str | None:
    """The version of a trained model, complete; None where an earlier call has finished with it.

    Raises:
        RunFailed: shards failed, or it stopped at `schedule.max_cost`.
    """
    with Lake(pipeline.lake) as lake:
        plan = plan_backfill(pipeline, lake, Selection())
        version = plan.version.spec.version
        if not (is_due or plan.resumes or load_spec(lake.cursor(), pipeline.name, version) is None):
            return None
        if version == plan.promoted or not (plan.resumes or _lacks_shards(plan)):
            return version
        backfill_id = request_backfill(lake, plan, max_cost=pipeline.schedule.max_cost, why=why)
    tell(f"computing version {version} beside {plan.promoted}")
    done = BackfillRun(pipeline, backfill_id, why=why).execute()
    if done.state != "done":
        raise RunFailed(
            f"The backfill {backfill_id} of version {version} is {done.state}. The next run goes on with it."
        )
    return version


def _lacks_shards(plan: BackfillPlan) -> bool:
    return plan.reason == "missing" and plan.num_shards > 0


def _held_against(pipeline: Pipeline, version: str, tell: Callable[[str], None]) -> dict[str, Any] | None:
    """None where no mark is left that neither version learned from."""
    marks = f"SELECT shard_id, row_number, label FROM {pipeline.name}{MARKS_SUFFIX}"
    with Lake(pipeline.lake, read_only=True, scans=True) as lake:
        lake.seal()
        try:
            report = compare_versions(lake, pipeline.name, PROMOTED, version, num_examples=0, truth=marks)
        except InputError as e:
            tell(f"The two versions cannot be held against the marks: {e}")
            return None
    found: dict[str, Any] = report["truth"]
    return found


def _promoted(pipeline: Pipeline, version: str, truth: dict[str, Any] | None) -> str:
    condition = pipeline.schedule.retrain.promote_if
    if condition is None:
        return "computed, and not promoted: schedule.retrain.promote_if is not set"
    if truth is None or version not in truth["accuracy"]:
        return "computed, and not promoted: no mark says which version is better"
    if not is_better(condition, truth, version):
        return f"computed, and not promoted: not {condition}"
    with Lake(pipeline.lake) as lake:
        return promote(lake, pipeline.name, version).state


def is_better(condition: str, truth: dict[str, Any], version: str) -> bool:
    """Whether `promote_if` holds for a version, by what it and the promoted one come to."""
    found = re.match(PROMOTE_IF, condition)
    assert found is not None
    measure, compared, sign, margin = found.groups()
    values = truth[measure]
    (current,) = (value for name, value in values.items() if name != version)
    return bool(COMPARE[compared](values[version], current + float(f"{sign or '+'}{margin or 0}")))
