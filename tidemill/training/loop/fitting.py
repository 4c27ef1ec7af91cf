"""A learner trained: from its last whole checkpoint on where there is one, and with its best weights at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from tidemill.checkpoints.loading import silence
from tidemill.errors import CostReached, PlaceUnusable, RunFailed, TidemillError, first_line
from tidemill.training.given.file import Cost
from tidemill.training.loop.checkpoints import STATE, newest_whole, settle_best
from tidemill.training.loop.learner import Learner, Settings
from tidemill.training.loop.telling import Telling, Told, history_of

SECONDS = "seconds"
NUM_LOGGED = 50
"""Times in a training that its loss is looked at."""


def fit(
    learner: Learner,
    settings: Settings,
    folder: Path,
    *,
    seed: int,
    cost: Cost,
    tell: Callable[[str], None],
    spent_seconds: float = 0.0,
) -> Told:
    """Train in `folder`, which keeps checkpoints; a training that was killed there goes on.

    Afterwards the learner's model has the best weights. `spent_seconds` were spent on other trials of the training, and
    count in what it may cost.

    Raises:
        RunFailed: a loss or gradient is not finite; no weights were spoilt.
        CostReached: the next step would pass what it may cost; a checkpoint is there.
        PlaceUnusable: no space for a checkpoint.
    """
    told = _told_before(folder)
    set_seed(seed)
    with silence():
        trainer = learner.trainer(_arguments(learner, settings, folder, seed))
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        trainer.add_callback(Telling(told, cost, tell, spent_seconds=spent_seconds))
        trainer.add_callback(_Keeping(folder, told))
        if settings.patience is not None:
            trainer.add_callback(EarlyStoppingCallback(settings.patience))
        try:
            _go_on(trainer, _resumed(folder, tell), settings)
        except TidemillError:
            raise
        except Exception as e:
            if "No space left" in str(e) or "os error 28" in str(e):
                raise PlaceUnusable(
                    f"{folder} has no space left for a checkpoint: {first_line(e)}. Free space, or set -o to a folder "
                    "on another disk; the same command goes on from the checkpoint before."
                ) from e
            if "out of memory" in str(e).lower():
                raise RunFailed(
                    f"Out of memory with method.batch_size = {settings.batch_size}. Lower it, or method.max_length."
                ) from e
            raise
    told.history = history_of(trainer.state.log_history)
    if told.is_cost_reached:
        raise CostReached(
            f"Stopped at step {trainer.state.global_step:,} of {trainer.state.max_steps:,}: the next one would pass "
            f"cost.max_cost = {cost.max_cost:g} {cost.currency}. Raise it, and the same command goes on from there."
        )
    return told


def _arguments(learner: Learner, settings: Settings, folder: Path, seed: int) -> TrainingArguments:
    import torch

    per_epoch = max(1, -(-learner.num_rows // settings.batch_size))
    strategy = "epoch" if settings.evaluate_steps is None else "steps"
    facts: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": 32,
        "weight_decay": settings.weight_decay,
        "warmup_steps": settings.warmup,
        "seed": seed,
        "data_seed": seed,
        "eval_strategy": strategy,
        "save_strategy": strategy,
        "eval_steps": settings.evaluate_steps,
        "save_steps": settings.evaluate_steps or 500,
        "load_best_model_at_end": True,
        "restore_callback_states_from_checkpoint": True,
        "metric_for_best_model": f"eval_{learner.best_by}",
        "greater_is_better": learner.greater_is_better,
        "logging_steps": max(1, int(per_epoch * settings.epochs / NUM_LOGGED)),
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False,
        "label_names": ["labels"],
        **learner.arguments,
    }
    return learner.arguments_class(**facts)


def _resumed(folder: Path, tell: Callable[[str], None]) -> str | None:
    """The checkpoint to go on from."""
    found, broken = newest_whole(folder)
    for checkpoint in broken:
        tell(f"{checkpoint.name} does not load, and is passed over.")
    if found is None:
        return None
    state = json.loads((found / STATE).read_text(encoding="utf-8"))
    settle_best(found, state.get("best_global_step"))
    tell(f"going on from {found.name}")
    return str(found)


def _go_on(trainer: Any, checkpoint: str | None, settings: Settings) -> None:
    """Train from a checkpoint on; of a training that lost its patience there, take the best weights."""
    state = TrainerState.load_from_json(str(Path(checkpoint) / STATE)) if checkpoint else TrainerState()
    if settings.patience is None or _times_in_vain(state) < settings.patience:
        trainer.train(resume_from_checkpoint=checkpoint)
        return
    trainer.state = state
    trainer._load_best_model()


def _times_in_vain(state: TrainerState) -> int:
    """Evaluations since the best one, as Transformers' own callback has counted them."""
    kept = state.stateful_callbacks.get(EarlyStoppingCallback.__name__, {})
    return int(kept.get("attributes", {}).get("early_stopping_patience_counter", 0))


def _told_before(folder: Path) -> Told:
    """With the seconds that processes before this one spent until their last checkpoint."""
    try:
        return Told(seconds_before=float((folder / SECONDS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return Told()


class _Keeping(TrainerCallback):
    """Keeps beside the checkpoints what was spent until then."""

    def __init__(self, folder: Path, told: Told) -> None:
        self._path, self._told = folder / SECONDS, told

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        written = self._path.with_suffix(".partial")
        written.write_text(str(self._told.seconds), encoding="utf-8")
        written.replace(self._path)
