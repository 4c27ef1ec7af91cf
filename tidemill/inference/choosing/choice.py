"""What computes a model where `inference` leaves it open: what a contest found, before or on this run's own rows.

Until a shard is worth one, a CPU takes OpenVINO where it is installed and converts
the model, and bfloat16 where its products are measured to be the faster ones.
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import time
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tidemill import config as options
from tidemill.checkpoints.loading import bytes_in_float32
from tidemill.engines import Engine
from tidemill.engines.contest.candidates import Candidate, candidates, hopeless
from tidemill.engines.contest.finding import Finding, keep_finding, kept_finding
from tidemill.engines.contest.gain import gain
from tidemill.engines.contest.trial import Batch, Contest, Seat, candidate_of
from tidemill.engines.devices import resolve_device
from tidemill.engines.rates import ProductRates, kept_rates, product_rates
from tidemill.errors import ModelError, first_line
from tidemill.machine import memory_bytes

COPIES = 4
"""So many times its weights in float32 a model may take while it is opened beside another: read, converted, laid
out."""

T = TypeVar("T")

logger = logging.getLogger("tidemill")


class Open(Protocol):
    """Opens the model in the engine and dtype that the options mean."""

    def __call__(self, *, inference: options.Inference) -> Engine: ...


class Choice:
    """Of one model. `refused` are dtypes that `auto` may not take for it; opening it may add to them."""

    def __init__(
        self,
        folder: str | Path,
        inference: options.Inference,
        open_as: Open,
        *,
        refused: Container[str],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._folder, self._inference, self._open_as, self._clock = Path(folder), inference, open_as, clock
        self._refused, self._on_cpu = refused, resolve_device(inference.device).type == "cpu"
        self._finding: Finding | None = None
        self._products: ProductRates | None = None
        self._notes: list[str] = []
        self._is_settled = False

    @property
    def _among(self) -> tuple[Candidate, ...]:
        return candidates(self._inference, refused=self._refused) if self._on_cpu else ()

    @property
    def is_open(self) -> bool:
        """Whether a contest would tell more than is known."""
        return not self._is_settled and len(self._among) > 1

    def open(self) -> Engine:
        """
        Raises:
            ModelError: the model cannot be opened as it is asked for.
        """
        asked = self._among
        if (engine := self._open_found()) is not None:
            return engine
        engine = self._open_as(inference=self._inference)
        if self._inference.dtype == "auto" and self._on_cpu:
            self._products = kept_rates()
        found, taken = self._found() if self._among != asked else (None, None)
        if taken is None:
            return engine
        if taken == candidate_of(engine):
            self._finding, self._is_settled = found, True
            return engine
        del engine
        gc.collect()
        better = self._open_found()
        return self._open_as(inference=self._inference) if better is None else better

    def _found(self) -> tuple[Finding | None, Candidate | None]:
        """What an earlier contest found, and which is the fastest by it; None where there was none."""
        found = kept_finding(self._folder, self._among) if self.is_open else None
        return found, found.taken(self._among) if found else None

    def _open_found(self) -> Engine | None:
        """What an earlier contest found to be the fastest; None where there was none, or it is no longer to be had."""
        found, taken = self._found()
        if found is None or taken is None:
            return None
        tried = {candidate.engine for candidate in found.speeds}
        # An engine that did not take the model is asked again: this one may have the same shape and other weights.
        is_asked_again = self._inference.engine == "auto" and any(each.engine not in tried for each in self._among)
        wanted = {"dtype": taken.dtype} if is_asked_again else {"engine": taken.engine, "dtype": taken.dtype}
        try:
            engine = self._open_as(inference=self._inference.model_copy(update=wanted))
        except ModelError as e:
            logger.warning("What was found to be the fastest, %s, cannot be opened: %s.", taken, first_line(e))
            return None
        self._is_settled = candidate_of(engine) == taken
        self._finding = found if self._is_settled else None
        return engine

    def settle(
        self,
        seat: Seat,
        batches: Callable[[Engine, int, int], Sequence[Batch]],
        *,
        tell: Callable[[str], object],
        should_stop: Callable[[], bool],
    ) -> None:
        """Put the fastest engine on the seat, by a contest with the one that is there; kept for later runs.

        `batches` gives so many of the run's own, as an engine takes them, so many of about one length together.
        """
        self._is_settled = True
        if not self._has_room():
            logger.warning("Memory has no room for a second copy of the model, so no other engine or dtype is tried.")
            return
        contest = Contest(
            lambda candidate: self._open_as(inference=candidate.given_to(self._inference)),
            batches,
            tell=tell,
            should_stop=should_stop,
            clock=self._clock,
            left_out=self._left_out(seat.engine),
        )
        try:
            self._finding = contest.hold(seat, self._among)
        except Exception as e:  # noqa: BLE001 — rows that fail in the engine that is open fail again, and alone, later.
            logger.warning("No other engine or dtype was tried: %s.", first_line(e))
            return
        if self._finding is None:
            self._is_settled = False
            return
        if not contest.lacked_memory:
            keep_finding(self._finding.among(self._among), self._folder, self._among)
        _measure_int8()
        self._notes = [f"auto was tried on this run's rows: {self._finding}; {candidate_of(seat.engine)} computes."]

    def notes(self) -> list[str]:
        """What the contest that was just held found, for the run's record."""
        notes, self._notes = self._notes, []
        return notes

    def _has_room(self) -> bool:
        return memory_bytes()[1] >= COPIES * bytes_in_float32(self._folder)

    def _left_out(self, engine: Engine) -> dict[Candidate, str]:
        left_out = hopeless(self._among, product_rates()) if self._inference.dtype == "auto" else {}
        if why := engine.facts().get("fallback"):
            left_out |= {each: why for each in self._among if each.engine == "openvino"}
        left_out.pop(candidate_of(engine), None)
        return left_out

    def facts(self) -> dict[str, Any]:
        """For lineage: what the choice was made by."""
        if self._finding is not None:
            return {"auto": self._finding.to_json()}
        if self._products is not None:
            return {"auto": {"products_times_float32": {"bfloat16": self._products.times("bfloat16")}}}
        return {}


def _measure_int8() -> None:
    """So that plans can tell whether it would pay; a run that tries engines has a second for that."""
    if importlib.util.find_spec("openvino") is not None:
        with suppress(Exception):  # not a reason for the run to fail
            gain()


def evenly(planned: Sequence[T], count: int, *, together: int) -> list[T]:
    """So many of these, from the first to the last, so many `together` as they lie; all, where there are no more.

    >>> evenly(range(10), 4, together=1), evenly(range(10), 4, together=2)
    ([0, 3, 6, 9], [0, 1, 8, 9])
    """
    if count >= len(planned):
        return list(planned)
    num_groups = max(1, count // together)
    step = (len(planned) - together) / max(1, num_groups - 1)
    return [each for i in range(num_groups) for each in planned[round(i * step) :][:together]]
