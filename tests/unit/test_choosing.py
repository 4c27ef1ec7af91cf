from __future__ import annotations

import gc
import json
import weakref

import pyarrow as pa
import pytest
import transformers

from tests.checkpoints import reviews, save_checkpoint
from tests.told_engines import OV16, OV32, T16, T32, Answer, Field, Seat
from tidemill.config import Inference
from tidemill.encoding.batching import ONE_ROW
from tidemill.encoding.items import prepared_rows
from tidemill.encoding.tokenizer import TextTokenizer
from tidemill.engines.contest import trial
from tidemill.engines.contest.candidates import Candidate
from tidemill.engines.rates import ProductRates
from tidemill.errors import ModelError
from tidemill.inference import runner
from tidemill.inference.choosing import choice as choosing
from tidemill.inference.choosing.choice import Choice, evenly
from tidemill.inference.runner import ModelRunner
from tidemill.models.tasks.text_classification import TextClassification

GONE = ModelError("OpenVINO cannot take the model in a folder: it has no rule. Set it.")


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch):
    """With all that a test process has loaded it takes longer than these tests."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


@pytest.fixture(autouse=True)
def _fast_products(monkeypatch):
    rates = ProductRates(100.0, 200.0, None)
    monkeypatch.setattr(choosing, "product_rates", lambda: rates)
    monkeypatch.setattr(choosing, "kept_rates", lambda: rates)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return tmp_path


class Opened(Field):
    """As `open_engine` would: `auto` is OpenVINO in bfloat16, and torch where OpenVINO fails."""

    asked: list[tuple[str, str]]

    def __call__(self, *, inference):
        self.asked = [*getattr(self, "asked", []), (inference.engine, inference.dtype)]
        dtype = "bfloat16" if inference.dtype == "auto" else inference.dtype
        if inference.engine != "auto":
            return self.enter(Candidate(inference.engine, dtype))
        try:
            return self.enter(Candidate("openvino", dtype))
        except ModelError as e:
            engine = self.enter(Candidate("torch", dtype))
            told = {**engine.facts(), "fallback": str(e)}
            engine.facts = lambda: told
            return engine


def choice(folder, field, refused=(), **inference):
    return Choice(folder, Inference(device="cpu", **inference), field, refused=refused, clock=field.clock)


def settled(chosen, engine):
    seat = Seat(engine)
    chosen.settle(seat, Field.batches, tell=lambda _: None, should_stop=lambda: False)
    return seat.engine


def test_a_first_run_opens_what_products_say_and_a_contest_finds_better_for_it_and_all_later_ones(folder):
    field = Opened({OV32: 12_000, T32: 7_000, OV16: 7_000, T16: 2_000})
    first = choice(folder, field)
    engine = first.open()
    assert first.is_open
    assert first.facts() == {"auto": {"products_times_float32": {"bfloat16": 2.0}}}

    winner = settled(first, engine)

    later = choice(folder, field)
    assert (engine.candidate, winner.candidate, later.open().candidate) == (OV16, OV32, OV32)
    assert not first.is_open
    assert not later.is_open
    assert field.asked[0] == ("auto", "auto")
    assert field.asked[-1] == ("openvino", "float32")
    assert later.facts() == first.facts()
    assert later.facts()["auto"]["tokens_per_second"]["openvino float32"] == pytest.approx(12_000, rel=0.01)


@pytest.mark.slow
def test_an_engine_that_did_not_take_the_model_is_asked_again_since_other_weights_may_convert(folder):
    first = choice(folder, Opened({OV32: GONE, T32: 7_000, OV16: GONE, T16: 9_000}))
    assert settled(first, first.open()).candidate == T16
    assert set(first.facts()["auto"]["left_out"]) == {"openvino float32", "openvino bfloat16"}

    again, converts = (
        Opened({OV32: GONE, T32: 7_000, OV16: GONE, T16: 9_000}),
        Opened({OV32: 12_000, T32: 7_000, OV16: 20_000, T16: 9_000}),
    )
    same, other = choice(folder, again), choice(folder, converts)

    assert "fallback" in same.open().facts()
    assert again.asked == [("auto", "bfloat16")]
    assert not same.is_open
    assert other.open().candidate == OV16
    assert other.is_open


@pytest.mark.slow
def test_where_the_winner_cannot_be_opened_any_more_the_question_is_open_again(folder, caplog):
    first = choice(folder, Opened({OV32: 1_000, T32: 7_000, OV16: 700, T16: 900}))
    settled(first, first.open())

    later = choice(folder, Opened({OV32: 1_000, T32: GONE, OV16: 700, T16: 900}))

    assert later.open().candidate == OV16
    assert later.is_open
    assert "torch float32, cannot be opened: OpenVINO cannot take" in caplog.text


def test_what_memory_kept_from_being_tried_is_tried_by_the_next_run(folder):
    first = choice(folder, Opened({OV32: 1_000, T32: MemoryError(), OV16: 700, T16: 900}))
    assert settled(first, first.open()).candidate == OV32

    later = choice(folder, Opened({OV32: 1_000, T32: 2_000, OV16: 700, T16: 900}))
    later.open()

    assert later.is_open


@pytest.mark.parametrize(
    ("num_bytes", "config"), [(30, {}), (15, {"dtype": "bfloat16"}), (15, {"torch_dtype": "float16"})]
)
def test_where_a_second_model_has_no_room_nothing_is_tried(folder, monkeypatch, num_bytes, config):
    monkeypatch.setattr(choosing, "memory_bytes", lambda: (100, 100))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
    (folder / "model.safetensors").write_bytes(b"0" * num_bytes)
    field = Opened({OV32: 1_000, T32: 9_000, OV16: 700, T16: 900})
    chosen = choice(folder, field)
    engine = chosen.open()

    assert settled(chosen, engine) is engine
    assert len(field.opened) == 1


def test_an_engine_that_lost_is_gone_before_the_next_is_opened_the_first_one_too(folder):
    alive: set[int] = set()
    most = []

    class Counted(Opened):
        def enter(self, candidate):
            engine = super().enter(candidate)
            self.opened.clear()
            alive.add(id(engine))
            weakref.finalize(engine, alive.discard, id(engine))
            most.append(len(alive))
            return engine

    chosen = choice(folder, Counted({OV32: 1_000, T32: 2_000, OV16: 500, T16: 4_000}))
    seat = Seat(chosen.open())
    chosen.settle(seat, Field.batches, tell=lambda _: None, should_stop=lambda: False)

    assert seat.engine.candidate == T16
    assert most == [1, 2, 2, 2]


def test_a_run_that_stops_meanwhile_leaves_the_question_open(folder):
    chosen = choice(folder, Opened({OV32: 1_000, T32: 9_000, OV16: 700, T16: 900}))
    seat = Seat(chosen.open())
    chosen.settle(seat, Field.batches, tell=lambda _: None, should_stop=lambda: True)

    assert seat.engine.candidate == OV16
    assert chosen.is_open


def test_a_dtype_that_the_model_does_not_stand_is_not_tried(folder):
    field = Opened({OV32: 1_000, T32: 900, OV16: 5_000, T16: 5_000})
    chosen = choice(folder, field, refused={"bfloat16", "float16"})
    engine = field(inference=Inference(engine="openvino", dtype="float32"))

    assert settled(chosen, engine).candidate == OV32
    assert field.asked == [("openvino", "float32"), ("torch", "float32")]


def test_what_is_found_of_a_model_that_turns_out_not_to_stand_a_dtype_is_kept_for_its_like_alone(folder):
    """Another of the same shape may stand it."""

    class Drifts(Opened):
        def __call__(self, *, inference):
            refused.add("bfloat16")
            if inference.dtype == "bfloat16":
                raise ModelError("bfloat16 moves scores by 0.9.")
            return super().__call__(inference=inference.model_copy(update={"dtype": "float32"}))

    def opened(field, *refuses):
        chosen = choice(folder, field, refused=refuses[0] if refuses else ())
        return chosen, chosen.open()

    speeds: dict[Candidate, float | list[float] | Exception] = {OV32: 1_000, T32: 2_000, OV16: 5_000, T16: 4_000}
    refused: set[str] = set()
    first, engine = opened(Drifts(speeds), refused)
    assert settled(first, engine).candidate == T32
    refused = set()

    drifts = Drifts(speeds)
    again, engine = opened(drifts, refused)
    assert (again.is_open, engine.candidate) == (False, T32)
    assert [each.candidate for each in drifts.opened] == [OV32, T32]
    drifts = Drifts(speeds)
    again, engine = opened(drifts, refused)
    assert (again.is_open, engine.candidate) == (False, T32)
    assert [each.candidate for each in drifts.opened] == [T32], "what is refused is known"
    other, engine = opened(Opened(speeds))
    assert (other.is_open, engine.candidate) == (True, OV16)


def test_where_a_dtype_is_refused_while_the_model_is_opened_what_was_found_of_the_others_is_opened_once(folder):
    speeds: dict[Candidate, float | list[float] | Exception] = {OV32: 3_000, T32: 2_000}
    told = Opened(speeds)
    first = choice(folder, told, refused={"bfloat16"})
    settled(first, told.enter(OV32))
    refused: set[str] = set()
    field = Opened(speeds)

    def drifts(*, inference):
        refused.add("bfloat16")
        return field(inference=inference.model_copy(update={"dtype": "float32"}))

    later = Choice(folder, Inference(device="cpu"), drifts, refused=refused)

    assert trial.candidate_of(later.open()) == OV32
    assert (later.is_open, later.facts()) == (False, first.facts())
    assert len(field.opened) == 1


@pytest.mark.parametrize(
    ("count", "together", "expected"),
    [
        (1, 1, [0]),
        (4, 1, [0, 3, 6, 9]),
        (99, 1, list(range(10))),
        (6, 2, [0, 1, 4, 5, 8, 9]),
        (9, 3, [0, 1, 2, 4, 5, 6, 7, 8, 9]),
        (7, 3, [0, 1, 2, 7, 8, 9]),
        (2, 4, [0, 1, 2, 3]),
        (10, 4, list(range(10))),
    ],
)
def test_batches_of_a_contest_are_of_all_lengths_with_neighbours_of_about_theirs(count, together, expected):
    assert evenly(range(10), count, together=together) == expected
    assert evenly([], count, together=together) == []


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("bert"), "bert", "five labels")


@pytest.fixture(scope="module")
def token_ids(bert):
    return TextTokenizer.load(bert).encode(pa.array(reviews(60), pa.string())).token_ids


def load(folder, **inference):
    return ModelRunner.load(
        folder, task="text-classification", inference=Inference(device="cpu", **inference), all_scores=True
    )


def test_a_shard_that_is_worth_it_is_tried_in_every_engine_and_answers_are_the_same(bert, token_ids, monkeypatch):
    monkeypatch.setattr(runner, "WORTH_A_CONTEST_TOKENS", 1)
    monkeypatch.setattr(trial, "ENOUGH_SECONDS", 0.0)
    tried = load(bert, dtype="float32", token_budget=256)

    predictions = tried.predict(prepared_rows(token_ids))

    assert set(tried.resolved["auto"]["tokens_per_second"]) == {"openvino float32", "torch float32"}
    [note] = predictions.notes
    assert note.startswith("auto was tried on this run's rows: ")
    assert note.endswith(f"; {tried.resolved['engine']} float32 computes.")
    assert tried.predict(prepared_rows(token_ids)).notes == ()
    expected = load(bert, engine="torch", dtype="float32").predict(prepared_rows(token_ids))
    assert predictions.columns["label"] == expected.columns["label"]
    again = load(bert, dtype="float32")
    assert {**again.resolved, "token_budget": 256} == tried.resolved


@pytest.mark.slow
def test_small_work_is_tried_in_nothing_until_it_has_taken_long(bert, token_ids, monkeypatch):
    monkeypatch.setattr(trial, "ENOUGH_SECONDS", 0.0)
    tried = load(bert, dtype="float32", token_budget=256)
    assert tried.predict(prepared_rows(token_ids)).notes == ()
    assert "auto" not in tried.resolved

    monkeypatch.setattr(runner, "WORTH_A_CONTEST_SECONDS", 1e-9)
    assert tried.predict(prepared_rows(token_ids)).notes == ()
    monkeypatch.setattr(runner, "LEAST_CONTEST_TOKENS", 100)

    assert len(tried.predict(prepared_rows(token_ids)).notes) == 1


@pytest.mark.slow
def test_a_model_that_fails_at_the_rows_of_the_contest_fails_at_those_rows_alone(bert, token_ids, monkeypatch, caplog):
    monkeypatch.setattr(runner, "WORTH_A_CONTEST_TOKENS", 1)
    tried = load(bert, dtype="float32", token_budget=256)
    submit = tried.engine.submit
    failed: list[object] = []

    def fails_once(*inputs, **how):
        if not failed:
            failed.append(inputs)
            raise ValueError("such a row")
        return submit(*inputs, **how)

    monkeypatch.setattr(tried.engine, "submit", fails_once)

    assert tried.predict(prepared_rows(token_ids)).reason.null_count == len(token_ids)
    assert "No other engine or dtype was tried: such a row" in caplog.text


def test_predictions_say_what_they_were_computed_by_though_another_thread_changes_the_engine_meanwhile():
    field = Field({OV32: 1_000, T32: 9_000})

    class Swapped(Answer):
        def result(self):
            shared.engine = field.enter(T32)
            return super().result()

    first = field.enter(OV32)
    first.submit = lambda inputs, **_: Swapped(first, inputs["input_ids"].size)
    config = transformers.BertConfig(num_labels=2)
    shared = ModelRunner(first, config, task=TextClassification(config), inference=Inference(token_budget=64))

    predictions = shared.predict(prepared_rows(pa.array([[5, 6, 7]], pa.list_(pa.int32()))))

    assert (predictions.resolved["engine"], shared.resolved["engine"]) == ("openvino", "torch")


def wins(choice, monkeypatch, engine):
    monkeypatch.setattr(choice, "settle", lambda seat, *_, **__: setattr(seat, "engine", engine))


@pytest.mark.slow
def test_whoever_wins_a_contest_finds_a_token_budget_of_its_own(bert, token_ids, monkeypatch):
    calibrated: list[str] = []
    monkeypatch.setattr(runner, "WORTH_CALIBRATING", {"cpu": 0})
    monkeypatch.setattr(runner, "calibrated_budget", lambda engine, *_, **__: calibrated.append(engine.name))
    tried, other = load(bert, dtype="float32"), load(bert, dtype="float32", engine="torch")
    tried.predict(prepared_rows(token_ids))
    tried.predict(prepared_rows(token_ids))
    monkeypatch.setattr(runner, "WORTH_A_CONTEST_TOKENS", 1)
    wins(tried._choice, monkeypatch, other.engine)

    tried.predict(prepared_rows(token_ids))
    tried.predict(prepared_rows(token_ids))

    assert calibrated == ["openvino", "torch"]


def test_rows_that_are_computed_one_by_one_have_no_budget_to_find(bert, token_ids, monkeypatch):
    monkeypatch.setattr(runner, "WORTH_CALIBRATING", {"cpu": 0})
    monkeypatch.setattr(runner, "calibrated_budget", lambda *_, **__: pytest.fail("tried"))
    alone = load(bert, dtype="float32", engine="torch")
    alone.engine.company = ONE_ROW

    assert alone.predict(prepared_rows(token_ids)).reason.null_count == len(token_ids)


def test_why_openvino_did_not_take_the_model_is_told_whichever_dtype_of_torch_wins(bert):
    winner = load(bert, engine="torch", dtype="float32")

    winner._succeed({**winner.engine.facts(), "dtype": "bfloat16", "fallback": "OpenVINO cannot take the model"})

    assert winner.resolved["fallback"] == "OpenVINO cannot take the model"
