"""Which engines and dtypes `auto` may choose among, and which of them is the best by their speeds."""

from __future__ import annotations

import importlib.util
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from tidemill import config as options
from tidemill.engines.rates import ProductRates

ENGINES = ("openvino", "torch")
DTYPES = ("float32", "bfloat16")
"""The more exact first."""
LESS_EXACT = 1.05
"""A less exact dtype has to be so many times as fast: a tie goes to the more exact one."""
SAME_DTYPE = 1.02
"""And another engine in the same dtype, beside the one that is preferred."""
HOPELESS_PRODUCTS = 0.5
"""So many times float32's, and a dtype is not tried."""


@dataclass(frozen=True)
class Candidate:
    engine: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.engine} {self.dtype}"

    def given_to(self, inference: options.Inference) -> options.Inference:
        """The same options with this engine and dtype."""
        return inference.model_copy(update={"engine": self.engine, "dtype": self.dtype})

    def has_to_be(self, other: Candidate) -> float:
        """How many times as fast as the `other`, which is preferred, it has to be."""
        return SAME_DTYPE if self.dtype == other.dtype else LESS_EXACT


def candidates(inference: options.Inference, *, refused: Container[str] = ()) -> tuple[Candidate, ...]:
    """What `inference` leaves open on a CPU and is installed, the preferred first; fewer than two are no question.

    `refused` are dtypes that `auto` does not take for this model.
    """
    if inference.dtype == "int8":
        return ()
    engines = [name for name in ENGINES if inference.engine in ("auto", name) and _is_installed(name)]
    dtypes = [dtype for dtype in DTYPES if dtype not in refused] if inference.dtype == "auto" else [inference.dtype]
    return tuple(Candidate(engine, dtype) for dtype in dtypes for engine in engines)


def hopeless(among: Sequence[Candidate], rates: ProductRates) -> dict[Candidate, str]:
    """Candidates whose products are so slow here that nothing else can make up for it, each with why."""
    found = {}
    for candidate in among:
        times = rates.times(candidate.dtype) if candidate.dtype in ("float32", "bfloat16") else 1.0
        if times is None:
            found[candidate] = f"the processor has no products in {candidate.dtype}"
        elif times < HOPELESS_PRODUCTS:
            found[candidate] = f"its products are {times:.2f} times as fast as those in float32"
    return found


def fastest(speeds: Mapping[Candidate, float], *, preferred: Sequence[Candidate]) -> Candidate | None:
    """The best by tokens a second: never one that is slower than a more exact one; None where there is none."""
    best = None
    for candidate in filter(speeds.__contains__, preferred):
        if best is None or speeds[candidate] > candidate.has_to_be(best) * speeds[best]:
            best = candidate
    return best


def _is_installed(engine: str) -> bool:
    return importlib.util.find_spec(engine) is not None
