"""The contest: engines compute the same batches of the run, in turns, so that noise of the machine hits all alike.

Whoever leads meets one challenger after the other, so at no time are more than two
models in memory. Of each pair the best turns are compared; a challenger that is far
behind after its first is sent away.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tidemill.encoding.items import IDS, MASK, Arrays
from tidemill.engines import Engine
from tidemill.engines.contest.candidates import Candidate, fastest
from tidemill.engines.contest.finding import Finding
from tidemill.engines.feeding import outputs_of_each
from tidemill.engines.probing.memory import began_with_memory
from tidemill.errors import first_line

Batch = Arrays
Clock = Callable[[], float]

TURN_SECONDS = 0.3
"""About how long a turn takes the engine that is opened already; longer where the least batches take longer."""
LENGTHS = 3
"""Of so many lengths a turn has batches at least, of each as many as keep the engine busy. A long batch beside a short
one leaves half of an engine idle that computes each on a CPU of its own, which a run of many batches does not."""
MOST_BATCHES = 128
ENOUGH_SECONDS = 1.0
MIN_TURNS = 2
MOST_TURNS = 8
"""Two engines meet until each has computed so long and so often, but no more often."""
FAR_BEHIND = 1.5
"""So many times as long as the best, and one turn is enough."""


class Seat(Protocol):
    """Who leads sits here and is referred to from nowhere else, so that a loser's memory is free at once."""

    engine: Engine


@dataclass
class _Met:
    """Two engines at the same batches: seconds of the best turn of each, for so many tokens."""

    challenger: Engine
    num_tokens: int
    leader_seconds: float = float("inf")
    challenger_seconds: float = float("inf")


@dataclass
class Contest:
    """`batches` gives so many of the run's batches, over all lengths, as an engine takes them: so many of about one
    length together.

    `enter` opens a candidate's engine; what it raises puts the candidate out.
    """

    enter: Callable[[Candidate], Engine]
    batches: Callable[[Engine, int, int], Sequence[Batch]]
    tell: Callable[[str], object] = lambda _: None
    should_stop: Callable[[], bool] = lambda: False
    clock: Clock = time.perf_counter
    left_out: dict[Candidate, str] = field(default_factory=dict)
    lacked_memory: bool = False
    """Whether a candidate was put out by that: with more, or beside less, it may be the fastest."""
    _num_batches: int = field(default=0, init=False)
    _together: int = field(default=1, init=False)
    """What `batches` is asked for, the same of every engine: the first leader settles it."""

    def hold(self, seat: Seat, among: Sequence[Candidate]) -> Finding | None:
        """What was found; the fastest is on the seat then. None where it was asked to stop.

        Raises whatever the first leader raises at a batch of the run's.

        Of `among` the preferred come first. The first leader's speed is measured; the others' are told by how much
        they were faster or slower than who led then.
        """
        # A row that the model fails at would put out every challenger, were the leader not the first to meet it.
        self._size_turns(seat.engine)
        speeds: dict[Candidate, float] = {}
        for challenges in among:
            leads = candidate_of(seat.engine)
            if challenges == leads or challenges in speeds or challenges in self.left_out:
                continue
            if self.should_stop():
                return None
            self.tell(f"trying {challenges}")
            gc.collect()
            met = self._challenge(seat, challenges)
            if met is None:
                continue
            speeds.setdefault(leads, met.num_tokens / met.leader_seconds)
            speeds[challenges] = speeds[leads] * met.leader_seconds / met.challenger_seconds
            if fastest(speeds, preferred=among) == challenges:
                seat.engine = met.challenger
            del met
        gc.collect()
        alone = {} if speeds else {candidate_of(seat.engine): self._speed(seat.engine)}
        return Finding(speeds | alone, self.left_out)

    def _challenge(self, seat: Seat, challenges: Candidate) -> _Met | None:
        try:
            return self._meet(seat.engine, self.enter(challenges))
        except Exception as e:  # noqa: BLE001 — an engine that fails is not taken, whatever it raises.
            self.left_out[challenges] = first_line(e)
            self.lacked_memory |= began_with_memory(e)
            return None

    def _size_turns(self, engine: Engine) -> None:
        """Say how many batches a turn has; the engine has computed a turn of them then."""
        self._together = _fills(engine)
        least = LENGTHS * self._together
        self._num_batches = least
        self._turn(engine, self._drawn(engine)[: self._together])
        seconds = self._turn(engine, self._drawn(engine))
        times = max(1, round(TURN_SECONDS / max(seconds, 1e-6)))
        if times > 1:
            self._num_batches = min(max(least, MOST_BATCHES), times * least)
            self._turn(engine, self._drawn(engine))

    def _drawn(self, engine: Engine) -> Sequence[Batch]:
        return self.batches(engine, self._num_batches, self._together)

    def _meet(self, leader: Engine, challenger: Engine) -> _Met:
        ours, theirs = self._drawn(leader), self._drawn(challenger)
        self._turn(challenger, theirs[: self._together])
        met = _Met(challenger, sum(map(_num_tokens, ours)))
        spent, num_turns = 0.0, 0
        while num_turns < MIN_TURNS or (spent < ENOUGH_SECONDS and num_turns < MOST_TURNS):
            one, other = self._turn(leader, ours), self._turn(challenger, theirs)
            met.leader_seconds = min(met.leader_seconds, one)
            met.challenger_seconds = min(met.challenger_seconds, other)
            spent, num_turns = spent + min(one, other), num_turns + 1
            if met.challenger_seconds > FAR_BEHIND * met.leader_seconds:
                break
        return met

    def _speed(self, engine: Engine) -> float:
        batches = self._drawn(engine)
        return sum(map(_num_tokens, batches)) / min(self._turn(engine, batches) for _ in range(MIN_TURNS))

    def _turn(self, engine: Engine, batches: Sequence[Batch]) -> float:
        """Seconds for these batches."""
        started_at = self.clock()
        for _ in outputs_of_each(engine, batches):
            pass
        return self.clock() - started_at


def candidate_of(engine: Engine) -> Candidate:
    facts = engine.facts()
    return Candidate(facts["engine"], facts["dtype"])


def _fills(engine: Engine) -> int:
    """How many batches keep an engine busy: half of those that it takes at one time wait."""
    return max(1, engine.depth // 2)


def _num_tokens(batch: Batch) -> int:
    return int(batch[MASK].sum() if MASK in batch else batch[IDS].size)
