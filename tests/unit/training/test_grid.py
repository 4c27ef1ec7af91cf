"""Trials of a grid share what a training may cost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tidemill.training import run
from tidemill.training.given.file import Cost, TrainingFile
from tidemill.training.loop import fitting
from tidemill.training.loop.telling import Told

RATES = [0.1, 0.2, 0.3]
LEARNER: Any = SimpleNamespace(best_by="f1", greater_is_better=True, begin=lambda seed: None)


def test_each_trial_is_told_what_those_before_it_spent(tmp_path, monkeypatch):
    cost = Cost(per_hour=2.0, max_cost=1.0)
    raw = {"data": {"path": "rows.parquet"}, "base": {"path": "base"}, "grid": {"learning_rate": RATES}}
    file = TrainingFile.model_validate({"name": "spam", "cost": cost, **raw}, context={"settled": True})
    asked: list[tuple[float, float, Cost]] = []

    def fit(learner: Any, settings: Any, folder: Any, *, cost: Cost, spent_seconds: float, **_: Any) -> Told:
        asked.append((settings.learning_rate, spent_seconds, cost))
        return Told(seconds=5.0, seconds_before=1.0, history=[{"f1": settings.learning_rate}])

    monkeypatch.setattr(fitting, "fit", fit)
    trials = run._run_trials(file, LEARNER, tmp_path, print)

    assert asked == [(rate, spent, cost) for rate, spent in zip(RATES, (0.0, 5.0, 10.0), strict=True)]
    assert [trial["score"] for trial in trials] == RATES
    assert [trial["seconds_before"] for trial in trials] == [1.0, 1.0, 1.0]
