"""What `auto` takes by measurement: tests/told_engines.py has engines of a known speed."""

from __future__ import annotations

import gc
import json

import numpy as np
import pytest

from tests.told_engines import AMONG, OV16, OV32, T16, T32, Field, TwoAtATime
from tidemill import places
from tidemill.config import Inference
from tidemill.engines.contest import candidates as choices
from tidemill.engines.contest import finding as findings
from tidemill.engines.contest import telling
from tidemill.engines.contest.candidates import Candidate, candidates, fastest, hopeless
from tidemill.engines.contest.finding import Finding, keep_finding, kept_finding
from tidemill.engines.contest.telling import is_question, known_of
from tidemill.engines.contest.trial import Contest
from tidemill.engines.rates import ProductRates
from tidemill.errors import ModelError
from tidemill.inference.choosing.choice import evenly


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch):
    """With all that a test process has loaded it takes longer than these tests."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


@pytest.mark.parametrize("leads", AMONG)
@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        ((11_900, 7_000, 6_900, 2_000), OV32),
        ((7_800, 4_000, 14_100, 9_000), OV16),
        ((1_000, 1_500, 900, 1_400), T32),
        ((1_000, 900, 1_200, 1_500), T16),
        ((1_000, 1_000, 1_000, 1_000), OV32),
        ((1_000, 1_010, 1_040, 1_045), OV32),
        ((1_000, 900, 1_060, 1_065), OV16),
        # Beside torch's float32 the win is too small, whoever led.
        ((1_000, 1_100, 1_140, 1_000), T32),
    ],
)
def test_the_fastest_is_taken_whoever_leads_and_a_tie_goes_to_the_more_exact(speeds, expected, leads):
    assert Field(dict(zip(AMONG, speeds, strict=True))).winner(leads) == expected


def test_no_choice_is_slower_than_float32():
    draw = np.random.default_rng(0)
    for _ in range(300):
        speeds = dict(zip(AMONG, draw.uniform(900, 1_100, 4), strict=True))
        taken = fastest(speeds, preferred=AMONG)
        assert taken is not None
        assert speeds[taken] * 1.02 >= max(speeds[OV32], speeds[T32])


def test_speeds_are_told_in_tokens_a_second_of_all_that_were_tried():
    _, (_, finding) = Field({OV32: 2_000, T32: 1_600, OV16: 2_500, T16: 2_400}).hold()

    assert finding.speeds == pytest.approx({OV32: 2_000, T32: 1_600, OV16: 2_500, T16: 2_400})
    assert str(finding) == (
        "openvino bfloat16 2,500 tokens/s, torch bfloat16 2,400 tokens/s, openvino float32 2,000 tokens/s, "
        "torch float32 1,600 tokens/s"
    )


def test_a_slow_time_of_the_machine_decides_nothing_since_the_best_turns_are_compared():
    disturbed = [100.0] * 7 + [2_000.0]

    assert Field({OV32: disturbed, T32: 1_900, OV16: 1_000, T16: 1_000}).winner() == OV32


def test_who_is_far_behind_has_one_turn_beside_the_warm_up():
    field = Field({OV32: 10_000, T32: 1_000, OV16: 9_000, T16: 100})
    field.hold()

    behind, close = ([each.num_batches for each in field.opened if each.candidate == which] for which in (T32, OV16))
    assert behind[0] < close[0] / 2


LONG_TO_SHORT = [{"input_ids": np.ones((2, width), np.int64)} for width in np.linspace(512, 8, 40).astype(int)]


class OfAllLengths(Field):
    """OpenVINO computes each batch on a CPU of its own, torch one batch after the other; batches take long."""

    def enter(self, candidate):
        engine = super().enter(candidate)
        return TwoAtATime(candidate, self.clock, engine.speeds) if candidate == OV32 else engine

    @staticmethod
    def batches(engine, count, together):
        return evenly(LONG_TO_SHORT, count, together=together)


@pytest.mark.parametrize("slower", [0.95, 0.8])
def test_an_engine_with_a_cpu_for_each_batch_is_not_told_slower_by_a_long_batch_beside_a_short_one(slower):
    assert OfAllLengths(dict.fromkeys(AMONG, 1.0) | {OV32: 1_000.0, T32: 1_000.0 * slower}).winner() == OV32


def test_a_turn_has_long_middling_and_short_batches_however_slow_an_engine_is():
    widths = set()

    class Watched(OfAllLengths):
        @staticmethod
        def batches(engine, count, together):
            few = OfAllLengths.batches(engine, count, together)
            widths.add(tuple(each["input_ids"].shape[1] for each in few))
            return few

    Watched(dict.fromkeys(AMONG, 100.0)).hold()

    assert widths == {(512, 499, 266, 253, 20, 8)}


def test_what_cannot_be_opened_or_fails_is_out_and_the_finding_says_why():
    contest, (engine, finding) = Field(
        {OV32: ModelError("It has no rule for aten::mystery. Set it."), T32: 1_000, OV16: RuntimeError(), T16: 900}
    ).hold(leads=T32)

    assert engine.candidate == T32
    assert finding.left_out == {OV32: "It has no rule for aten::mystery. Set it", OV16: "RuntimeError"}
    assert not contest.lacked_memory


class Fails(Field):
    """Whatever engine it is fails at the first batch of the contest's turns, and tells how many others it answered."""

    num_answered = 0

    @staticmethod
    def batches(engine, count, together):
        few = Field.batches(engine, count, together)
        bad = {"input_ids": np.zeros((4, 64), np.int64)}
        return [*few[:1], bad, *few[2:]]

    def enter(self, candidate):
        engine = super().enter(candidate)
        engine.submit = lambda inputs, **_: Watched(self, bool(inputs["input_ids"].all()))
        return engine


class Watched:
    def __init__(self, field, is_good):
        self.field, self.is_good = field, is_good

    def result(self):
        self.field.clock.now += 0.01
        if not self.is_good:
            raise ValueError("such a row")
        self.field.num_answered += 1


def test_a_row_that_the_model_fails_at_is_the_leaders_and_puts_no_challenger_out():
    field = Fails(dict.fromkeys(AMONG, 1_000))

    with pytest.raises(ValueError, match="such a row"):
        field.hold()

    assert len(field.opened) == 1


def test_batches_on_their_way_are_waited_for_when_one_fails():
    field = Fails(dict.fromkeys(AMONG, 1_000))
    engine = field.enter(OV32)

    with pytest.raises(ValueError, match="such a row"):
        Contest(field.enter, field.batches)._turn(engine, field.batches(engine, 4, 1))

    assert field.num_answered == 3


def test_who_wants_for_memory_is_out_this_time_only():
    told = ModelError("OpenVINO cannot take the model: memory ran out.")
    told.__cause__ = MemoryError()
    for error in (MemoryError(), told):
        contest, _ = Field({OV32: 1_000, T32: error, OV16: 900, T16: 900}).hold()
        assert contest.lacked_memory


def test_where_all_others_are_out_the_leader_has_its_speed():
    gone = ModelError("gone")
    _, (engine, finding) = Field({OV32: 1_000, T32: gone, OV16: gone, T16: gone}).hold()

    assert (engine.candidate, finding.speeds) == (OV32, {OV32: pytest.approx(1_000)})


def test_a_run_that_is_to_stop_stops_before_the_next_candidate():
    field = Field({OV32: 1_000, T32: 1_000, OV16: 1_000, T16: 1_000})

    _, held = field.hold(should_stop=lambda: len(field.opened) > 1)

    assert held is None
    assert len(field.opened) == 2


@pytest.mark.parametrize(
    ("inference", "expected"),
    [
        ({}, AMONG),
        ({"engine": "torch"}, (T32, T16)),
        ({"dtype": "bfloat16"}, (OV16, T16)),
        ({"dtype": "float16"}, (Candidate("openvino", "float16"), Candidate("torch", "float16"))),
        ({"engine": "openvino", "dtype": "float32"}, (OV32,)),
        ({"dtype": "int8"}, ()),
    ],
)
def test_only_what_is_left_open_is_tried(inference, expected):
    assert candidates(Inference(**inference)) == expected


def test_what_is_not_installed_and_what_a_model_does_not_stand_is_not_tried(monkeypatch):
    assert candidates(Inference(), refused={"bfloat16": "a regression"}) == (OV32, T32)
    monkeypatch.setattr(choices, "_is_installed", lambda name: name == "torch")
    assert candidates(Inference()) == (T32, T16)


@pytest.mark.parametrize(
    ("bfloat16", "why"),
    [(None, "the processor has no products in bfloat16"), (10.0, "its products are 0.10 times as fast as those in"),
     (60.0, None)],
)  # fmt: skip
def test_a_dtype_whose_products_are_hopeless_is_not_tried(bfloat16, why):
    found = hopeless(AMONG, ProductRates(100.0, bfloat16, None))

    assert set(found) == ({OV16, T16} if why else set())
    assert all(each.startswith(why or "") for each in found.values())


FINDING = Finding({OV32: 11_900.0, T32: 7_000.0, OV16: 6_900.0}, {T16: "it failed"})


def model(folder, **config):
    folder.mkdir(exist_ok=True)
    facts = {"model_type": "bert", "hidden_size": 8, "id2label": {"0": "a", "1": "b"}, **config}
    (folder / "config.json").write_text(json.dumps(facts))
    return folder


def test_a_finding_is_kept_for_models_of_the_same_shape_whatever_their_names(tmp_path):
    keep_finding(FINDING, model(tmp_path / "one"), AMONG)

    named = model(tmp_path / "other", _name_or_path="me/other", id2label={"0": "x", "1": "y"})
    assert kept_finding(named, AMONG) == FINDING
    assert kept_finding(named, AMONG[:2]) is None
    for other in ({"hidden_size": 16}, {"id2label": {"0": "x"}}):
        assert kept_finding(model(tmp_path / "other", **other), AMONG) is None


def test_with_other_libraries_or_on_another_processor_it_is_tried_anew(tmp_path, monkeypatch):
    folder = model(tmp_path / "one")
    keep_finding(FINDING, folder, AMONG)
    with monkeypatch.context() as patched:
        patched.setattr(findings, "library_versions", lambda: ["torch 99"])
        assert kept_finding(folder, AMONG) is None
    with monkeypatch.context() as patched:
        patched.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        assert kept_finding(folder, AMONG) is None
    assert kept_finding(folder, AMONG) == FINDING


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"tokens_per_second": {}, "left_out": {}}',
        '{"tokens_per_second": {"openvino float32": "fast"}, "left_out": {}}',
        '{"tokens_per_second": {"openvino float32": -1}, "left_out": {}}',
        '{"tokens_per_second": {"openvino float32": Infinity}, "left_out": {}}',
        pytest.param(f'{{"tokens_per_second": {{"openvino float32": {10**400}}}, "left_out": {{}}}}', id="many digits"),
        '{"tokens_per_second": {"abacus float32": 1}, "left_out": {}}',
        '{"tokens_per_second": {"openvino float32": 1}, "left_out": []}',
        "\0",
    ],
)
def test_a_kept_finding_that_is_damaged_is_none(tmp_path, content):
    folder = model(tmp_path / "one")
    keep_finding(FINDING, folder, AMONG)
    [kept] = (places.home() / "calibrations").iterdir()
    kept.write_text(content)

    assert kept_finding(folder, AMONG) is None


def test_before_a_run_it_is_known_what_was_found_here(tmp_path, monkeypatch):
    monkeypatch.setattr(telling, "NVIDIA", tmp_path / "none")
    folder = model(tmp_path / "one")
    assert known_of(folder, Inference()) is None
    keep_finding(FINDING, folder, AMONG)

    known = known_of(folder, Inference())

    assert known is not None
    assert str(known) == (
        "openvino float32, by trial: openvino float32 11,900 tokens/s, torch float32 7,000 tokens/s, "
        "openvino bfloat16 6,900 tokens/s"
    )
    assert known.to_json()["tokens_per_second"]["openvino bfloat16"] == 6_900
    assert known_of(folder, Inference(device="cuda")) is None
    assert known_of(folder, Inference(engine="torch")) is None
    monkeypatch.setattr(telling, "NVIDIA", folder)
    assert known_of(folder, Inference()) is None
    assert known_of(folder, Inference(device="cpu")) == known


@pytest.mark.parametrize(
    ("inference", "without_openvino", "expected"),
    [
        ({}, False, True),
        ({}, True, True),
        ({"dtype": "float32"}, False, True),
        ({"dtype": "float32"}, True, False),
        ({"dtype": "int8"}, False, False),
        ({"engine": "torch", "dtype": "float32"}, False, False),
    ],
)
def test_a_trial_is_promised_only_where_there_is_more_than_one_to_try(
    monkeypatch, inference, without_openvino, expected
):
    if without_openvino:
        monkeypatch.setattr(choices, "_is_installed", lambda name: name == "torch")

    assert is_question(Inference(device="cpu", **inference)) == expected


def test_what_was_found_of_a_model_that_does_not_stand_bfloat16_is_known_too(tmp_path):
    folder, found = model(tmp_path / "one"), Finding({OV32: 11_900.0, T32: 7_000.0})
    keep_finding(found, folder, (OV32, T32))

    known = known_of(folder, Inference(device="cpu"))

    assert known is not None
    assert known.finding == found


@pytest.mark.parametrize(
    ("bfloat16", "said"),
    [
        (210.0, "bfloat16, for products in bfloat16 are 2.1 times as fast as float32's here"),
        (53.0, "float32, for products in bfloat16 are 0.5 times as fast as float32's here"),
        (None, "float32, for products in bfloat16 do not exist here"),
    ],
)
def test_where_nothing_was_tried_it_is_known_what_products_say(tmp_path, monkeypatch, bfloat16, said):
    monkeypatch.setattr(telling, "kept_rates", lambda: ProductRates(100.0, bfloat16, None))

    assert str(known_of(None, Inference(device="cpu"))) == said
    assert known_of(None, Inference(device="cpu", dtype="float32")) is None
