"""What people are shown of a training."""

from __future__ import annotations

from typing import Any

from tidemill.cli.train import show_training


def report(**facts: Any) -> dict[str, Any]:
    """Of tags of tokens, whose measures have no calibration error."""
    return {
        "name": "names",
        "folder": "/models/names",
        "rows": {"held_out": 4},
        "metrics": {"f1": {"value": 0.5, "low": 0.4, "high": 0.6}, "labels": [], "slices": []},
        "baselines": {"nothing": {"f1": {"value": 0.0, "low": 0.0, "high": 0.0}}},
        "temperature": 1.5,
        "calibration_error_before": None,
        "cost": None,
        "seconds": 2.0,
        **facts,
    }


def test_a_temperature_is_shown_without_a_calibration_error_where_there_is_none():
    shown = show_training(report())

    assert "Temperature 1.500, which is divided into the last layer." in shown
    assert "calibration error" not in shown


def test_a_temperature_is_shown_with_what_it_does_to_the_calibration_error():
    calibrated = {**report()["metrics"], "calibration_error": 0.01}

    shown = show_training(report(metrics=calibrated, calibration_error_before=0.2))

    assert "the last layer: calibration error 0.2000 before, 0.0100 after." in shown
    assert "f1 0.5000 (0.4000 to 0.6000); nothing 0.0000" in shown
