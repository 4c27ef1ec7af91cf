"""What a contest found, kept for later runs of a model of this shape with these libraries on this processor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from tidemill.engines.contest.candidates import Candidate, fastest
from tidemill.fingerprints import fingerprint
from tidemill.machine import processor
from tidemill.storage.kept import keep, read_kept

RULES = 2
"""Counts up when speeds are no longer comparable with kept ones: an engine computes or is tried otherwise."""
LIBRARIES = ("torch", "openvino", "transformers")
NO_SHAPE = ("_name_or_path", "id2label", "label2id", "transformers_version", "torch_dtype", "dtype", "finetuning_task")
"""Keys of a config.json that change no cost."""


@dataclass(frozen=True)
class Finding:
    """Tokens a second of the candidates that were tried, and why others were not, or failed."""

    speeds: dict[Candidate, float]
    left_out: dict[Candidate, str] = field(default_factory=dict)

    def taken(self, among: Sequence[Candidate]) -> Candidate | None:
        return fastest(self.speeds, preferred=among)

    def among(self, candidates: Sequence[Candidate]) -> Finding:
        """The same, without others."""
        return Finding(
            {each: speed for each, speed in self.speeds.items() if each in candidates},
            {each: why for each, why in self.left_out.items() if each in candidates},
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "tokens_per_second": {str(candidate): round(speed, 1) for candidate, speed in self.speeds.items()},
            "left_out": {str(candidate): why for candidate, why in self.left_out.items()},
        }

    @classmethod
    def from_json(cls, facts: Any, among: Sequence[Candidate]) -> Finding:
        """
        Raises:
            ValueError: these are no speeds of these candidates.
        """
        by_name = {str(candidate): candidate for candidate in among}
        try:
            speeds = {by_name[name]: float(speed) for name, speed in facts["tokens_per_second"].items()}
            left_out = {by_name[name]: str(why) for name, why in facts["left_out"].items()}
        except (KeyError, TypeError, AttributeError, OverflowError) as e:
            raise ValueError("This is no finding of a contest.") from e
        if not speeds or not all(0 < speed < float("inf") for speed in speeds.values()):
            raise ValueError("A contest finds speeds.")
        return cls(speeds, left_out)

    def __str__(self) -> str:
        by_speed = sorted(self.speeds.items(), key=lambda item: -item[1])
        return ", ".join(f"{candidate} {speed:,.0f} tokens/s" for candidate, speed in by_speed)


def kept_finding(model: Path, among: Sequence[Candidate]) -> Finding | None:
    """What was found before of a model like the one in a folder; None where nothing was, or what is kept is damaged."""
    with suppress(ValueError):
        return Finding.from_json(read_kept(_name(model, among)), among)
    return None


def keep_finding(finding: Finding, model: Path, among: Sequence[Candidate]) -> None:
    keep(_name(model, among), finding.to_json())


def _name(model: Path, among: Sequence[Candidate]) -> str:
    return f"auto-{fingerprint(RULES, _shape(model), *library_versions(), processor().fingerprint, *among)}"


def _shape(model: Path) -> str:
    """What of a model decides how long it takes, in one text: its configuration without names."""
    config: Any = None
    with suppress(OSError, ValueError, RecursionError):
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        return ""
    num_labels = len(config.get("id2label") or ())
    shape = {key: value for key, value in config.items() if key not in NO_SHAPE}
    return json.dumps({**shape, "num_labels": num_labels}, sort_keys=True)


def library_versions() -> list[str]:
    found = []
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return found
