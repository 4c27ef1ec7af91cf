"""Transformers' Trainer, which stops before a step that would spoil the weights, and never leaves half a checkpoint."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from tidemill.errors import RunFailed
from tidemill.training.loop import checkpoints


class Careful:
    """What is done otherwise than by a trainer of Transformers or of sentence-transformers, as a class before it."""

    args: Any
    state: Any
    _staging: Path | None = None

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        self._refuse_infinite(float(loss), "loss")
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        """Asked after the gradients are there and before the step is taken."""
        norm = super()._get_grad_norm(*args, **kwargs)  # type: ignore[misc]
        self._refuse_infinite(float(norm), "norm of the gradient")
        return norm

    def _refuse_infinite(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise RunFailed(
                f"The {what} is {value} at step {self.state.global_step + 1}, and that step is not taken. The weights "
                f"before it are as they were; lower method.learning_rate, which is {self.args.learning_rate:g}, or "
                "look for odd rows, and start again with --restart."
            )

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging or self.args.output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir)
        self._staging = folder / checkpoints.WRITING
        shutil.rmtree(self._staging, ignore_errors=True)
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
        finally:
            staging, self._staging = self._staging, None
        best = self.state.best_global_step
        written = staging / f"{checkpoints.PREFIX}{self.state.global_step}"
        final = checkpoints.publish(written, folder)
        checkpoints.settle_best(final, best)
        self.state.best_model_checkpoint = str(folder / f"{checkpoints.PREFIX}{best}") if best else None
        checkpoints.prune(folder, best)


class CarefulTrainer(Careful, Trainer):
    pass
