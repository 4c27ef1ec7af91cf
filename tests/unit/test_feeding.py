from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tidemill.engines.feeding import outputs_of_each


@dataclass
class Counting:
    """Answers with a batch's number, and says how many are on their way at one time; fails at one."""

    depth: int = 3
    fails_at: int | None = None
    on_their_way: int = 0
    most: int = 0
    given: list[int] = field(default_factory=list)

    def submit(self, inputs, **_):
        self.given.append(int(inputs["input_ids"][0, 0]))
        self.on_their_way += 1
        self.most = max(self.most, self.on_their_way)
        return Answer(self, self.given[-1])


@dataclass
class Answer:
    engine: Counting
    number: int

    def result(self):
        self.engine.on_their_way -= 1
        if self.number == self.engine.fails_at:
            raise RuntimeError(f"batch {self.number}")
        return np.full((1, 2), self.number, np.float32)


def batches(count):
    return [{"input_ids": np.full((1, 4), number, np.int32)} for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 3, 10])
def test_outputs_come_in_the_order_of_the_batches_with_the_engine_filled(count):
    engine: Any = Counting()

    found = [float(outputs[0, 0]) for outputs in outputs_of_each(engine, batches(count))]

    assert found == list(range(count))
    assert engine.most == min(count, engine.depth)


def test_of_batches_after_one_that_fails_none_is_left_on_its_way():
    engine: Any = Counting(fails_at=4)

    with pytest.raises(RuntimeError, match="batch 4"):
        list(outputs_of_each(engine, batches(10)))

    assert engine.on_their_way == 0
    assert engine.given == [0, 1, 2, 3, 4, 5, 6]


def test_of_batches_that_nobody_wants_any_more_none_is_left_on_its_way():
    engine: Any = Counting()
    outputs = outputs_of_each(engine, batches(10))
    next(outputs)

    outputs.close()  # type: ignore[attr-defined]

    assert engine.on_their_way == 0
