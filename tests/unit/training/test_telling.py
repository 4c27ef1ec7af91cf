"""What a training takes is estimated by its first steps, and it stops before it costs more than it may."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tidemill.training.given.file import Cost
from tidemill.training.loop.telling import FIRST_STEPS, Telling, Told, interval


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def stepped(
    cost: Cost, seconds: list[float], *, max_steps: int, spent_seconds: float = 0.0, seconds_before: float = 0.0
) -> tuple[Told, Any, list[str]]:
    told, lines, clock = Told(seconds_before=seconds_before), list[str](), Clock()
    telling = Telling(told, cost, lines.append, spent_seconds=spent_seconds, clock=clock)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    telling.on_train_begin(None, None, control)
    for step, taken in enumerate(seconds, 1):
        clock.now += taken
        telling.on_step_end(None, SimpleNamespace(global_step=step, max_steps=max_steps), control)
        if control.should_training_stop:
            break
    return told, control, lines


def test_the_first_steps_give_an_interval_of_time_and_cost():
    told, _, lines = stepped(Cost(per_hour=3600.0), [9.0, 1.0, 1.2, 0.8, 1.0, 1.0], max_steps=106)

    low, high = told.estimated_seconds or (0, 0)
    assert low < 14 + 100 < high
    assert high - low < 60
    assert f"by the first {FIRST_STEPS} steps" in lines[0]
    assert "cost" in lines[0]


def test_it_stops_and_saves_before_the_step_that_would_pass_the_cost():
    told, control, _ = stepped(Cost(per_hour=3600.0, max_cost=4.5), [1.0] * 10, max_steps=10)

    assert told.is_cost_reached
    assert control.should_save
    assert told.seconds == 4.0


def test_what_other_trials_and_earlier_processes_spent_counts_in_the_cost():
    told, control, _ = stepped(
        Cost(per_hour=3600.0, max_cost=8.5), [1.0] * 10, max_steps=10, spent_seconds=3.0, seconds_before=2.0
    )

    assert told.is_cost_reached
    assert control.should_training_stop
    assert told.seconds == 5.0, "of this trial alone, with what was spent on it before"


def test_a_stop_by_cost_neither_evaluates_nor_saves_again_in_the_middle_of_an_epoch():
    """What was stopped would go on with another best step, and another state of chance, than what was not."""
    for max_cost, expected in ((0.0, False), (None, True)):
        control, clock = SimpleNamespace(should_save=False, should_training_stop=False), Clock()
        telling = Telling(Told(), Cost(per_hour=3600.0, max_cost=max_cost), print, clock=clock)
        clock.now = 1.0
        telling.on_step_end(None, SimpleNamespace(global_step=1, max_steps=10), control)

        control.should_evaluate = control.should_save = True  # As the loop sets them where an epoch ends.
        telling.on_epoch_end(None, SimpleNamespace(), control)

        assert (control.should_evaluate, control.should_save) == (expected, expected)


def test_how_long_is_left_is_told_now_and_then():
    _, _, lines = stepped(Cost(), [1.0] * 12, max_steps=20)

    assert any("step 9 of 20" in line and "about 11 s left" in line for line in lines)


def test_steps_that_vary_give_a_wider_interval():
    even, uneven = interval([1.0, 1.0, 1.0]), interval([0.5, 1.0, 1.5])

    assert even[1] - even[0] < uneven[1] - uneven[0]
