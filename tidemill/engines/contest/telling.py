"""What `auto` is going to take, as far as it is known before a run: no library of an engine is loaded for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill import config as options
from tidemill.engines.contest.candidates import DTYPES, candidates
from tidemill.engines.contest.finding import Finding, kept_finding
from tidemill.engines.rates import ProductRates, kept_rates

NVIDIA = Path("/dev/nvidia0")


@dataclass(frozen=True)
class Known:
    """`engine` is None where only a run finds out whether OpenVINO takes the model."""

    engine: str | None
    dtype: str
    finding: Finding | None = None
    rates: ProductRates | None = None

    def to_json(self) -> dict[str, Any]:
        found = {} if self.finding is None else self.finding.to_json()
        rates = {} if self.rates is None else {"products_times_float32": {"bfloat16": self.rates.times("bfloat16")}}
        return {"engine": self.engine, "dtype": self.dtype, **found, **rates}

    def __str__(self) -> str:
        if self.finding is not None:
            return f"{self.engine} {self.dtype}, by trial: {self.finding}"
        times = self.rates.times("bfloat16") if self.rates is not None else None
        why = "do not exist" if times is None else f"are {times:.1f} times as fast as float32's"
        return f"{self.dtype}, for products in bfloat16 {why} here"


def computes_on_cpu(inference: options.Inference) -> bool:
    """As far as that is known without asking a library."""
    return inference.device == "cpu" or (inference.device == "auto" and not NVIDIA.exists())


def is_question(inference: options.Inference) -> bool:
    """Whether more than one engine or dtype is left open that is installed: a contest decides, on a CPU alone."""
    return computes_on_cpu(inference) and len(candidates(inference)) > 1


def known_of(model: Path | None, inference: options.Inference) -> Known | None:
    """What was found of a model like the one in a folder; else what products say; None where nothing was measured."""
    if not is_question(inference):
        return None
    for refused in ((), DTYPES[1:]):
        among = candidates(inference, refused=refused)
        found = kept_finding(model, among) if model is not None and len(among) > 1 else None
        if found is not None and (taken := found.taken(among)) is not None:
            return Known(taken.engine, taken.dtype, finding=found)
    rates = kept_rates()
    if inference.dtype != "auto" or rates is None:
        return None
    return Known(None, "bfloat16" if rates.pays("bfloat16") else "float32", rates=rates)
