"""A training from its file to a folder that a pipeline can name."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidemill.checkpoints.loading import silence
from tidemill.errors import ConfigError, counted
from tidemill.fingerprints import fingerprint
from tidemill.masking import shown_catalog
from tidemill.places import usable
from tidemill.training.examples.lesson import make_lesson
from tidemill.training.examples.reading import Examples, read_examples
from tidemill.training.given.base import BaseModel, find_base
from tidemill.training.given.file import TrainingFile

REPORT = "training.json"
"""In the folder of a trained model: what `tidemill train` told of it."""
NO_PART = {"cost", "lake"}
"""Sections that say nothing of what comes out."""
PACKAGES = {"full": ("accelerate",), "head": ("accelerate",), "lora": ("accelerate", "peft")}


def train(
    file: TrainingFile,
    folder: Path,
    *,
    restart: bool = False,
    drop_duplicates: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train, and put the model into `folder`, which is there only when it is done. What was killed goes on.

    Raises:
        InputError: the rows, the base or the folder are not fit; nothing was trained.
        RunFailed: a loss or gradient is not finite.
        CostReached: what it may cost is reached; a checkpoint is there.
        PlaceUnusable: no space, or no right to write.
    """
    from tidemill.training.loop.space import writing_weights
    from tidemill.training.records import refuse_lake, remember_once

    refuse_missing_packages(file)
    started_at = datetime.now(UTC)  # Before the rows are read: marks that are made later are the next training's.
    base, examples = find_base(file), read_examples(file)
    identity = _identity(file, base, examples, drop_duplicates=drop_duplicates)
    if (done := _done_before(folder, identity)) is not None:
        remember_once(file, done, folder)
        return done
    refuse_lake(file)
    with (
        usable(folder, "-o"),
        writing_weights(),
        silence(),
        warnings.catch_warnings(),
        _work_folder(folder, identity, restart=restart) as work,
    ):
        warnings.simplefilter("ignore")  # Libraries warn those who call them, which a user does not.
        return _trained(
            *(file, base, examples, folder, work, identity),
            started_at=started_at,
            drop_duplicates=drop_duplicates,
            tell=tell,
        )


def folder_of(file: TrainingFile, parent: Path) -> Path:
    """A folder in `parent` for what comes of the file, the rows and the base as they are now, and of nothing else."""
    return parent / _identity(file, find_base(file), read_examples(file), drop_duplicates=True)[:12]


def refuse_missing_packages(file: TrainingFile) -> None:
    """
    Raises:
        ConfigError: what the method or the task takes is not installed.
    """
    from importlib.util import find_spec

    needed = [*PACKAGES[file.method.type], *(["sentence_transformers"] if file.task == "sentence-similarity" else [])]
    missing = [name.replace("_", "-") for name in needed if find_spec(name) is None]
    if missing:
        raise ConfigError(f"`tidemill train` needs {missing[0]}. Install it: pip install 'tidemill[train]'")


def _trained(
    file: TrainingFile,
    base: BaseModel,
    examples: Examples,
    folder: Path,
    work: Path,
    identity: str,
    *,
    started_at: datetime,
    drop_duplicates: bool,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    from tidemill.training.card import write_card
    from tidemill.training.licences import licences_of
    from tidemill.training.records import identity_of, keep_texts, remember
    from tidemill.training.tasks.choosing import open_learner

    started = time.monotonic()
    lesson, rows = make_lesson(file, base, examples, work, drop_duplicates=drop_duplicates, tell=tell)
    learner = open_learner(lesson)
    for line in _told_before(file, base, rows, learner.notes):
        tell(line)
    baselines = learner.baselines()
    trials = _run_trials(file, learner, work, tell)
    best = _best_of(trials, learner)
    if len(trials) > 1:
        _fit(file, learner, best["settings"], work / f"trial-{best['number']}", tell)
    before = learner.measure()
    temperature = learner.calibrate()
    measures = learner.measure() if temperature is not None else before
    seconds = time.monotonic() - started + sum(trial["seconds_before"] for trial in trials)
    report: dict[str, Any] = {
        "name": file.name,
        "identity": identity,
        "folder": str(folder.absolute()),
        "task": file.task,
        "method": file.method.type,
        "seed": file.seed,
        "base": {"path": base.spec.model_path, "model": base.spec.model, "max_length": base.max_length},
        "data": examples.source,
        "licences": licences_of(file, base, examples),
        "rows": rows,
        "notes": list(learner.notes),
        "metrics": measures,
        "baselines": baselines,
        "temperature": temperature,
        "calibration_error_before": before.get("calibration_error"),
        "best_trial": best["number"],
        "trials": [
            {
                "number": trial["number"],
                "settings": vars(trial["settings"]),
                "score": trial["score"],
                "history": trial["history"],
            }
            for trial in trials
        ],
        "started_at": started_at.isoformat(),
        "seconds": seconds,
        "cost": None if file.cost.per_hour is None else seconds / 3600 * file.cost.per_hour,
        "currency": file.cost.currency if file.cost.per_hour is not None else None,
        "declared": _declared(file),
    }
    unpublished = work / "model"
    shutil.rmtree(unpublished, ignore_errors=True)
    learner.write(unpublished)
    write_card(unpublished, report)
    (unpublished / REPORT).write_text(json.dumps(report, indent=2, default=str), encoding="utf-8")
    model = identity_of(unpublished)
    keep_texts(model, lesson)  # Before the folder is there: a training that is done is not looked at again.
    unpublished.rename(folder)
    remember(file, report, model)
    return report


def _declared(file: TrainingFile) -> dict[str, Any]:
    """The file as it may be shown: its lakes without their passwords."""
    declared = file.model_dump(mode="json", exclude_defaults=True, exclude={"lake"})
    if file.data.lakes:
        declared["data"]["lakes"] = list(map(shown_catalog, file.data.lakes))
    return declared


def _run_trials(file: TrainingFile, learner: Any, work: Path, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    from tidemill.training.loop.learner import Settings

    grid = {name: values for name, values in file.grid.model_dump().items() if values}
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    trials, spent_seconds = [], 0.0
    for number, trial in enumerate(combinations):
        settings = Settings.of(file.method, file.seed, trial)
        if len(combinations) > 1:
            tell(f"trial {number + 1} of {len(combinations)}: {_listed(trial)}")
        told = _fit(file, learner, settings, work / f"trial-{number}", tell, spent_seconds=spent_seconds)
        spent_seconds += told.seconds
        scores = [found[learner.best_by] for found in told.history if learner.best_by in found]
        trials.append(
            {
                "number": number,
                "settings": settings,
                "history": told.history,
                "score": (max if learner.greater_is_better else min)(scores) if scores else None,
                "seconds_before": told.seconds_before,
            }
        )
    return trials


def _fit(
    file: TrainingFile,
    learner: Any,
    settings: Any,
    folder: Path,
    tell: Callable[[str], None],
    *,
    spent_seconds: float = 0.0,
) -> Any:
    from tidemill.training.loop.fitting import fit

    folder.mkdir(parents=True, exist_ok=True)
    learner.begin(file.seed)
    return fit(learner, settings, folder, seed=file.seed, cost=file.cost, tell=tell, spent_seconds=spent_seconds)


def _best_of(trials: list[dict[str, Any]], learner: Any) -> dict[str, Any]:
    sign = 1 if learner.greater_is_better else -1
    return max(trials, key=lambda trial: float("-inf") if trial["score"] is None else sign * trial["score"])


def _identity(file: TrainingFile, base: BaseModel, examples: Examples, *, drop_duplicates: bool) -> str:
    """Names all that decides what comes out: the file, the base's content and the rows'."""
    declared = file.model_dump(mode="json", exclude=NO_PART)
    declared["base"] = {"head": file.base.head}
    declared["data"] |= {"path": "", "lakes": []}  # What lies there counts.
    hashed = hashlib.blake2b(digest_size=16)
    for row in examples.table.to_pylist():
        hashed.update(json.dumps(row, sort_keys=True, default=str).encode())
    facts = (json.dumps(declared, sort_keys=True), base.spec.model, base.spec.tokenizer, hashed.hexdigest())
    return fingerprint(*facts, str(drop_duplicates))


def _done_before(folder: Path, identity: str) -> dict[str, Any] | None:
    """The report of the same training, if this folder is what came of it.

    Raises:
        ConfigError: something else is there.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        found = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    if found.get("identity") == identity:
        return {**found, "unchanged": True}
    what = f"a model of another training ({found['name']})" if "name" in found else "something"
    raise ConfigError(f"{folder} holds {what} already. Give another folder by -o, or remove this one.")


@contextmanager
def _work_folder(folder: Path, identity: str, *, restart: bool) -> Iterator[Path]:
    """Where checkpoints are until the training is done, beside the folder that it makes.

    Raises:
        ConfigError: another training is under way there, in another process or killed.
    """
    from filelock import FileLock, Timeout

    work = folder.parent / f".{folder.name}.training"
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(f"Another process trains into {folder} at the moment. Give another folder by -o.") from None
    with lock:
        told = work / "identity"
        before = told.read_text(encoding="utf-8") if told.exists() else None
        if restart or before is None:
            for path in work.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
        elif before != identity:
            raise ConfigError(
                f"{work} has checkpoints of another training: its rows, base or options were others. Say --restart to "
                "begin anew, or give another folder by -o."
            )
        told.write_text(identity, encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        yield work
    shutil.rmtree(work)


def _told_before(file: TrainingFile, base: BaseModel, rows: Mapping[str, Any], notes: Any) -> Iterator[str]:
    yield f"{file.name}: {file.task} by {file.method.type}, from {base.shown}"
    lengths = rows["characters"]
    yield (
        f"{counted(rows['train'], 'row')} to learn from, {rows['held_out']:,} held out; "
        f"{lengths['p50']:,} characters at the median, {lengths['max']:,} at most"
    )
    yield from (f"  {row['label']}: {row['train']:,} and {row['held_out']:,}" for row in rows["labels"])
    for name, meaning in (
        ("null", "left out, for they have no text or no label"),
        ("unreadable", "left out, for they are malformed"),
        ("duplicates_dropped", "left out, for a held-out row has their text"),
        ("duplicates", "have the text of another row, on the same side"),
    ):
        if rows[name]:
            yield f"note: {counted(rows[name], 'row')} {meaning}"
    if found := rows["contradictions"]["texts"]:
        shown = " and ".join(_listed(row) for row in rows["contradictions"]["rows"][0])
        yield f"note: {counted(found, 'text')} with two labels, such as {shown}"
    yield from notes


def _listed(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


__all__ = ["REPORT", "folder_of", "refuse_missing_packages", "train"]
