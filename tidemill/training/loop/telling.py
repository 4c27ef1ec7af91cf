"""What is told while a model trains: how far it is, what it will take and cost; and the end, before it costs more."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from transformers import TrainerCallback

from tidemill.training.given.file import Cost

FIRST_STEPS = 6
"""After so many steps the rest is estimated, the first one left out: what it allocates is there afterwards."""
SECONDS_BETWEEN = 2.0


@dataclass
class Told:
    """What became known meanwhile."""

    history: list[dict[str, Any]] = field(default_factory=list)
    """What each evaluation found."""
    estimated_seconds: tuple[float, float] | None = None
    seconds: float = 0.0
    """Of this process and those before it that worked on the same training."""
    is_cost_reached: bool = False
    seconds_before: float = 0.0
    """Those of processes before this one."""


class Telling(TrainerCallback):
    def __init__(
        self,
        told: Told,
        cost: Cost,
        tell: Callable[[str], None],
        *,
        spent_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`told.seconds_before` is what was spent before on this trial, `spent_seconds` on others."""
        self._spent_seconds = spent_seconds
        self._told, self._cost, self._tell, self._clock = told, cost, tell, clock
        self._spent_before = told.seconds = told.seconds_before
        self._started = self._last_step = self._last_line = clock()
        self._steps: list[float] = []
        self._loss: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._started = self._last_step = self._clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = self._clock()
        self._steps.append(now - self._last_step)
        self._last_step = now
        self._told.seconds = self._spent_before + now - self._started
        if len(self._steps) == FIRST_STEPS:
            self._estimate(state.max_steps - state.global_step)
        elif len(self._steps) > FIRST_STEPS and now - self._last_line >= SECONDS_BETWEEN:
            self._last_line = now
            self._tell(self._line(state))
        if self._would_pass_cost() and state.global_step < state.max_steps:
            self._told.is_cost_reached = True
            control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._told.is_cost_reached:
            # A stop ends the loop's epoch, which is not over: evaluated here, it would go on otherwise than it was.
            control.should_evaluate = control.should_save = False

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self._loss = (logs or {}).get("loss", self._loss)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        found = _measures(metrics or {})
        shown = ", ".join(f"{name} {value:.4g}" for name, value in found.items() if isinstance(value, float))
        self._tell(f"epoch {state.epoch:.3g}, step {state.global_step:,} of {state.max_steps:,}: {shown}")
        self._last_step = self._clock()  # Evaluating is no part of the next step.

    def _estimate(self, num_left: int) -> None:
        """The interval in which the mean step lies, by the first ones."""
        low, high = interval(self._steps[1:])
        self._told.estimated_seconds = (self._told.seconds + low * num_left, self._told.seconds + high * num_left)
        told = "about {:.0f} to {:.0f} s in all, evaluating left out".format(*self._told.estimated_seconds)
        if self._cost.per_hour is not None:
            costs = [seconds / 3600 * self._cost.per_hour for seconds in self._told.estimated_seconds]
            told += f", cost {costs[0]:.4f} to {costs[1]:.4f} {self._cost.currency}"
        self._tell(f"{told} (by the first {FIRST_STEPS} steps)")

    def _line(self, state: Any) -> str:
        left = fmean(self._steps[-50:]) * (state.max_steps - state.global_step)
        loss = "" if self._loss is None else f", loss {self._loss:.4f}"
        return f"training: step {state.global_step:,} of {state.max_steps:,}{loss}, about {left:.0f} s left"

    def _would_pass_cost(self) -> bool:
        if self._cost.max_cost is None or self._cost.per_hour is None:
            return False
        next_step = max(self._steps[-5:])
        seconds = self._spent_seconds + self._told.seconds + next_step
        return seconds / 3600 * self._cost.per_hour > self._cost.max_cost


def history_of(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each evaluation found, of the log that checkpoints keep."""
    evaluated = [entry for entry in log if any(name.startswith("eval_") for name in entry)]
    return [{"step": entry["step"], "epoch": entry["epoch"], **_measures(entry)} for entry in evaluated]


def _measures(logged: dict[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix("eval_"): value
        for name, value in logged.items()
        if name.startswith("eval_") and not name.endswith(("runtime", "_per_second", "preparation_time"))
    }


def interval(seconds: list[float]) -> tuple[float, float]:
    """Of a mean, by a few values: 2.6 standard errors, as Student's distribution has for five; never below half.

    >>> interval([1.0, 1.0, 1.0])
    (1.0, 1.0)
    """
    mean = fmean(seconds)
    half = 2.6 * stdev(seconds) / math.sqrt(len(seconds)) if len(seconds) > 1 else mean
    return max(mean - half, mean / 2), mean + half
