from __future__ import annotations

import numpy as np
import pytest
from transformers import BertConfig

from tidemill import places
from tidemill.encoding.batching import ANY_LENGTHS, EQUAL_LENGTHS, Company
from tidemill.inference.choosing import calibration
from tidemill.inference.choosing.calibration import calibrated_budget

CONFIG = BertConfig()
TAKE_TIME = calibration._speed


class Engine:
    """Tokens a second by budget, as told; a speed of 0 runs out of memory."""

    name, depth, rounds_widths, pads, reference = "told", 1, False, False, None
    company: Company = ANY_LENGTHS

    def __init__(self, *speeds, device="cpu"):
        self.speeds = dict(zip(calibration.CANDIDATES[device], speeds, strict=False))
        self.device, self.tried, self.released = device, [], False

    def submit(self, inputs, **_):
        raise NotImplementedError

    def facts(self):
        return {"device": self.device}

    def release_memory(self):
        self.released = True


@pytest.fixture(autouse=True)
def _told_speeds(monkeypatch):
    def speed(engine, inputs, *, num_rows, width):
        engine.tried.append(num_rows * width)
        if engine.speeds[num_rows * width] == 0:
            raise MemoryError
        return engine.speeds[num_rows * width]

    monkeypatch.setattr(calibration, "_speed", speed)


def test_the_smallest_budget_that_is_about_as_fast_as_the_best_is_taken():
    assert calibrated_budget(Engine(10, 98, 100, 90), CONFIG, longest=512) == 2_048


def test_two_slower_budgets_in_a_row_end_the_trial():
    engine = Engine(100, 90, 80, 500)

    assert calibrated_budget(engine, CONFIG, longest=512) == 1_024
    assert engine.tried == [1_024, 2_048, 4_096]


def test_what_was_found_is_kept_for_the_next_process():
    calibrated_budget(Engine(10, 30, 20, 10), CONFIG, longest=512)
    later = Engine()

    assert calibrated_budget(later, CONFIG, longest=512) == 2_048
    assert later.tried == []
    other_device = Engine(50, 60, device="cuda")
    calibrated_budget(Engine(50, 0, device="cuda"), CONFIG, longest=512)
    assert other_device.tried == []


def test_another_model_is_tried_anew():
    calibrated_budget(Engine(10, 30, 20, 10), CONFIG, longest=512)
    other = Engine(30, 20, 10)

    assert calibrated_budget(other, BertConfig(num_hidden_layers=3), longest=512) == 1_024


def test_out_of_memory_ends_the_trial_with_what_fitted():
    engine = Engine(10, 20, 0)

    assert calibrated_budget(engine, CONFIG, longest=512) == 2_048
    assert engine.released


def test_a_device_on_which_nothing_fits_leaves_the_default_and_is_tried_by_the_next_process():
    assert calibrated_budget(Engine(0), CONFIG, longest=512) is None
    assert calibrated_budget(Engine(10, 30, 20, 10), CONFIG, longest=512) == 2_048


class Picky(Engine):
    """Raises what it is told to at ids that are no text, as models do that want a token of the end."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def submit(self, inputs, **_):
        raise self.error


def test_a_model_that_fails_at_ids_of_no_text_keeps_its_budget(monkeypatch, caplog):
    monkeypatch.setattr(calibration, "_speed", TAKE_TIME)
    picky = Picky(ValueError("Each example must contain at least one <eos> token."))

    assert calibrated_budget(picky, CONFIG, longest=512) is None

    assert "No other token budget was tried: Each example must contain at least one <eos> token." in caplog.text
    assert list(places.home().glob("calibrations/*")) == []


def test_a_device_that_fails_at_the_trial_ends_the_run(monkeypatch):
    monkeypatch.setattr(calibration, "_speed", TAKE_TIME)

    with pytest.raises(RuntimeError, match="CUDA error"):
        calibrated_budget(Picky(RuntimeError("CUDA error: device-side assert triggered")), CONFIG, longest=512)


class Answers(Engine):
    masks: list[object]

    def submit(self, inputs, **_):
        mask_BT = inputs.get("attention_mask")
        self.masks = [*getattr(self, "masks", []), mask_BT]
        return self

    def result(self):
        return np.zeros((1, 2), np.float32)


@pytest.mark.parametrize(("company", "is_padded"), [(ANY_LENGTHS, True), (EQUAL_LENGTHS, False)])
def test_a_trial_pads_a_row_where_the_runs_own_batches_may_have_some(monkeypatch, company, is_padded):
    monkeypatch.setattr(calibration, "ENOUGH_SECONDS", 0.0)
    engine = Answers()
    engine.company = company

    TAKE_TIME(engine, ("input_ids", "attention_mask"), num_rows=2, width=8)

    assert {mask_BT is not None for mask_BT in engine.masks} == {is_padded}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"tokens_per_second": {"many": 1}}',
        '{"tokens_per_second": {"-1024": 1}}',
        '{"tokens_per_second": {"999999999": 1}}',
        '{"tokens_per_second": {"2048": NaN}}',
        f'{{"tokens_per_second": {{"2048": {10**400}}}}}',
        "[" * 100_000,
        "\0",
    ],
    ids=["empty", "list", "words", "negative", "no candidate", "NaN", "many digits", "deep", "zero"],
)
def test_a_kept_file_that_is_not_whole_is_made_again(content):
    calibrated_budget(Engine(10, 30, 20, 10), CONFIG, longest=512)
    [kept] = (places.home() / "calibrations").iterdir()
    kept.write_text(content)
    engine = Engine(40, 20, 10)

    assert calibrated_budget(engine, CONFIG, longest=512) == 1_024
    assert calibrated_budget(Engine(), CONFIG, longest=512) == 1_024


def test_a_home_that_cannot_be_written_costs_only_the_next_trial(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "file"))

    assert calibrated_budget(Engine(10, 30, 20, 10), CONFIG, longest=512) == 2_048


def test_what_cannot_be_published_leaves_nothing_behind():
    calibrated_budget(Engine(10, 30, 20, 10), CONFIG, longest=512)
    [kept] = (places.home() / "calibrations").iterdir()
    kept.unlink()
    (kept / "inner").mkdir(parents=True)

    assert calibrated_budget(Engine(40, 20, 10), CONFIG, longest=512) == 1_024
    assert list(kept.parent.iterdir()) == [kept]
