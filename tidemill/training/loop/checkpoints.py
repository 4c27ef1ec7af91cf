"""Checkpoints of a training: written beside and renamed, read only if whole, and the last and the best are kept."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

PREFIX = "checkpoint-"
WRITING = ".writing"
"""Where one is written; what a killed process left there is removed by the next."""
STATE = "trainer_state.json"
NUM_KEPT = 2
"""Of the last ones: the one before is gone on from where the last does not load."""


def checkpoints(folder: Path) -> list[Path]:
    """Those that were written to their end, newest first."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(PREFIX))


def newest_whole(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest checkpoint that loads, and newer ones that do not."""
    broken: list[Path] = []
    for checkpoint in checkpoints(folder):
        if is_whole(checkpoint):
            return checkpoint, broken
        broken.append(checkpoint)
    return None, broken


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of it can be read to its end."""
    import torch
    from safetensors import safe_open

    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        weights = sorted(checkpoint.rglob("*.safetensors"))
        for path in weights:
            with safe_open(path, framework="np") as opened:
                list(opened.keys())
        for name in ("optimizer.pt", "scheduler.pt"):
            torch.load(checkpoint / name, map_location="cpu", weights_only=True)
        with (checkpoint / "rng_state.pth").open("rb") as opened_state:
            torch.load(opened_state, weights_only=False)
    except Exception:  # noqa: BLE001 whatever a torn file makes its reader raise
        return False
    return bool(weights) and state["global_step"] == step_of(checkpoint)


def publish(written: Path, folder: Path) -> Path:
    """Give a checkpoint its name, once all of it is on the disk."""
    final = folder / written.name
    for path in sorted(written.rglob("*")):
        if path.is_file():
            with path.open("rb") as opened:
                os.fsync(opened.fileno())
    shutil.rmtree(final, ignore_errors=True)  # One of this step that did not load.
    written.rename(final)
    return final


def prune(folder: Path, best_step: int | None) -> None:
    """Remove all but the last ones and the best one."""
    for checkpoint in checkpoints(folder)[NUM_KEPT:]:
        if step_of(checkpoint) != best_step:
            shutil.rmtree(checkpoint, ignore_errors=True)


def settle_best(checkpoint: Path, best_step: int | None) -> None:
    """Have a checkpoint's state name the best one where it lies: it was written elsewhere, or the folder moved."""
    path = checkpoint / STATE
    state = json.loads(path.read_text(encoding="utf-8"))
    best = checkpoint.parent / f"{PREFIX}{best_step}"
    state["best_model_checkpoint"] = str(best) if best_step else None
    path.write_text(json.dumps(state, indent=2), encoding="utf-8")
