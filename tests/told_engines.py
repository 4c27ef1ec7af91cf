"""Engines that compute at a told speed, by a clock that they move themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tidemill.encoding.batching import ANY_LENGTHS
from tidemill.engines.contest.candidates import Candidate
from tidemill.engines.contest.trial import Contest

OV32, T32 = Candidate("openvino", "float32"), Candidate("torch", "float32")
OV16, T16 = Candidate("openvino", "bfloat16"), Candidate("torch", "bfloat16")
AMONG = (OV32, T32, OV16, T16)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self):
        return self.now


@dataclass
class Answer:
    engine: Engine
    num_tokens: int

    def result(self):
        self.engine.clock.now += self.num_tokens / self.engine.speed()
        return np.zeros((1, 2), np.float32)


@dataclass
class Engine:
    """Computes so many tokens a second; a list of speeds is taken batch by batch, the last one for ever."""

    candidate: Candidate
    clock: Clock
    speeds: list[float]
    name, depth, rounds_widths, pads, reference = "told", 4, False, True, None
    company = ANY_LENGTHS
    num_batches: int = 0

    def speed(self):
        self.num_batches += 1
        return self.speeds[min(self.num_batches, len(self.speeds)) - 1]

    def submit(self, inputs, **_):
        ids_BT = inputs["input_ids"]
        return Answer(self, ids_BT.size)

    def facts(self):
        return {"engine": self.candidate.engine, "dtype": self.candidate.dtype, "device": "cpu"}

    def release_memory(self):
        pass


@dataclass
class AnswerAt:
    clock: Clock
    seconds: float

    def result(self):
        self.clock.now = max(self.clock.now, self.seconds)
        return np.zeros((1, 2), np.float32)


@dataclass
class TwoAtATime(Engine):
    """Each batch has one of two CPUs to itself, each of half the speed, and takes the one that is idle first."""

    idle_from: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def submit(self, inputs, **_):
        self.idle_from.sort()
        begins = max(self.idle_from[0], self.clock.now)
        self.idle_from[0] = begins + inputs["input_ids"].size / (self.speed() / 2)
        return AnswerAt(self.clock, self.idle_from[0])


@dataclass
class Seat:
    engine: Any


@dataclass
class Field:
    """Candidates at told speeds; what is not a number is raised when it is opened."""

    told: dict[Candidate, float | list[float] | Exception]
    clock: Clock = field(default_factory=Clock)
    opened: list[Engine] = field(default_factory=list)

    def enter(self, candidate):
        told = self.told[candidate]
        if isinstance(told, Exception):
            raise told
        engine = Engine(candidate, self.clock, told if isinstance(told, list) else [told])
        self.opened.append(engine)
        return engine

    def hold(self, leads=OV32, **options):
        contest, seat = Contest(self.enter, self.batches, clock=self.clock, **options), Seat(self.enter(leads))
        finding = contest.hold(seat, AMONG)
        return contest, (None if finding is None else (seat.engine, finding))

    def winner(self, leads=OV32):
        _, (engine, finding) = self.hold(leads)
        assert finding.taken(AMONG) == engine.candidate
        return engine.candidate

    @staticmethod
    def batches(engine, count, together):
        return [{"input_ids": np.ones((4, 64), np.int64)}] * count
