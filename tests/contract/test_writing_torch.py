"""Models that write, in torch, beside `model.generate` of one row at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.contract.writers import (
    DECODERS,
    ENCODER_DECODERS,
    ENDS,
    FAMILIES,
    MOST,
    NUM_POSITIONS,
    VOCABULARY,
    Writer,
    batch,
    ids_of,
    prompts,
    write,
)
from tests.processes import wait_until
from tests.tiny_writers import write_words
from tests.variants import variants
from tidemill import config as options
from tidemill.engines.writing.decoding.causal import CausalLoop
from tidemill.engines.writing.decoding.whole import WholeLoop
from tidemill.engines.writing.generation.settings import Sampling
from tidemill.engines.writing.generation.written import FAILED, LENGTH, STOP, answers_of
from tidemill.engines.writing.torch_writer import TorchWriter
from tidemill.errors import ConfigError, CostReached, ModelError, Stopped

QUICK = ("Bloom", "GPT2", "Gemma3Text", "Llama", "T5")
WITHOUT_A_LOOP = {"Bloom"}
"""Families whose positions are made of a mask that no loop gives."""


@pytest.mark.parametrize("family", variants(FAMILIES, QUICK))
def test_a_row_is_given_what_generate_gives_it_alone_whoever_is_in_its_batch(tmp_path: Path, family: str) -> None:
    # A T5's embeddings are its head's: it would say the same token over and over.
    said: dict[str, Any] = {"no_repeat_ngram_size": 1} if family == "T5" else {}
    writer = Writer(tmp_path, family, **said)
    engine = writer.open()
    rows = prompts()
    expected = [writer.alone(row) for row in rows]
    assert len({tuple(ids) for ids in expected}) > 4, "a model that writes the same of all shows nothing"
    assert len({len(ids) for ids in expected}) > 2
    assert isinstance(engine._loop, WholeLoop) == (family in WITHOUT_A_LOOP)
    if family in WITHOUT_A_LOOP:
        assert [ids_of(write(engine, [row]))[0] for row in rows] == expected
        return
    found = write(engine, rows)
    assert ids_of(found) == expected
    assert [each["num_new_tokens"] for each in found] == list(map(len, expected))
    assert [each["num_prompt_tokens"] for each in found] == list(map(len, rows))
    assert [each["finish"] for each in found] == [_finish(writer, ids) for ids in expected]
    turned = rows[::-1]
    for size in (1, 3, 5):
        assert ids_of(write(engine, turned, size=size)) == expected[::-1]


def _finish(writer: Writer, ids: Sequence[int]) -> int:
    forced = writer.settings().generation.forced_eos_token_id
    is_stopped = ids[-1] in ENDS and not (len(ids) == MOST and ids[-1] == forced)
    return STOP if is_stopped else LENGTH


@pytest.mark.parametrize("family", variants(["GPT2", "Llama", "T5", "Bart"], ["Llama"]))
@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 2},
        {"min_length": 9},
        {"min_new_tokens": 7},
        {"suppress_tokens": list(range(60, 110)), "begin_suppress_tokens": list(range(20, 60))},
        {"bad_words_ids": [[7], [40, 41], *([i] for i in range(90, 130))]},
        {"forced_bos_token_id": 5, "forced_eos_token_id": 2},
        {"encoder_repetition_penalty": 1.9, "encoder_no_repeat_ngram_size": 2},
        {"exponential_decay_length_penalty": (3, 2.0)},
        {"sequence_bias": [[[9], 8.0], [[9, 11], 30.0]]},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_checkpoints_settings_hold_for_each_row_as_for_the_row_alone(
    tmp_path: Path, family: str, settings: dict[str, Any]
) -> None:
    writer = Writer(tmp_path, family, **settings)
    rows = prompts(9)
    expected = [writer.alone(row) for row in rows]
    engine = writer.open()
    assert not isinstance(engine._loop, WholeLoop)
    assert ids_of(write(engine, rows)) == expected
    assert ids_of(write(engine, rows[::-1], size=4)) == expected[::-1]
    assert all(engine.facts()["generation"][name] is not None for name in settings)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Llama", "T5", "Bart", "Marian"])
def test_beams_are_those_of_the_row_alone(tmp_path: Path, family: str) -> None:
    writer = Writer(tmp_path, family, num_beams=3, length_penalty=1.3, no_repeat_ngram_size=3)
    engine = writer.open()
    rows = [row for row in prompts(24, longest=6, seed=1) if len(row) in (3, 4)]
    assert engine.company == "equal lengths"
    for length in (3, 4):
        same = [row for row in rows if len(row) == length]
        assert len(same) > 2
        found = write(engine, same)
        assert ids_of(found) == [writer.alone(row) for row in same]
        assert {each["finish"] for each in found} <= {STOP, LENGTH}


def test_a_forced_end_at_the_limit_is_of_length_and_no_stop(tmp_path: Path) -> None:
    engine = Writer(tmp_path, "Bart", forced_eos_token_id=2, suppress_tokens=ENDS[1:]).open(max_new_tokens=4)
    found = write(engine, prompts(5))
    assert {each["ids"][-1] for each in found} == {2}
    assert [each["finish"] for each in found] == [LENGTH if len(each["ids"]) == 4 else STOP for each in found]
    assert LENGTH in {each["finish"] for each in found}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Llama", "T5"])
def test_a_draw_follows_from_the_seed_and_the_prompt_alone(tmp_path: Path, family: str) -> None:
    writer = Writer(tmp_path, family)
    rows = prompts()
    temperature = 30.0 if family == "T5" else 0.8
    engine = writer.open(sampling=Sampling(seed=4, temperature=temperature, top_p=0.9, top_k=30))
    found = ids_of(write(engine, rows))
    assert found != [writer.alone(row) for row in rows]
    assert ids_of(write(engine, rows[::-1], size=3)) == found[::-1]
    assert [ids_of(write(engine, [row]))[0] for row in rows] == found
    other = writer.open(sampling=Sampling(seed=5, temperature=temperature, top_p=0.9, top_k=30))
    assert ids_of(write(other, rows)) != found


@pytest.mark.slow
def test_draws_are_as_probable_as_the_model_finds_them(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "Llama", suppress_tokens=list(range(4, VOCABULARY)))
    engine = writer.open(max_new_tokens=1, sampling=Sampling(seed=0, temperature=3.0))
    rows = [[*prefix, 7, 7, 7, 7, 7, 7] for prefix in prompts(400, longest=3, seed=5)]
    with torch.inference_mode():
        logits = torch.stack([writer.model(torch.tensor([row])).logits[0, -1, :4] for row in rows])
    expected = (logits / 3.0).softmax(dim=-1).mean(dim=0)
    drawn = np.bincount([ids[0] for ids in ids_of(write(engine, rows))], minlength=4) / len(rows)
    assert np.abs(drawn - expected.numpy()).max() < 0.07


def test_a_stop_string_is_found_across_tokens_and_ends_its_row_alone(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_words(tmp_path / "words")
    words = AutoTokenizer.from_pretrained(tmp_path / "words")
    writer = Writer(tmp_path / "model", "Llama", tokenizer=tmp_path / "words")
    rows = prompts()
    before = [writer.alone(row) for row in rows]
    texts = [words.decode(ids) for ids in before]
    longest = max(range(len(rows)), key=lambda i: len(before[i]))
    # Of two tokens the last character and the first one, as no token has them.
    stop = words.decode(before[longest][3:5])[-3:]
    found = write(writer.open(stop=(stop,)), rows)
    stopped = [i for i, text in enumerate(texts) if stop in text]
    assert longest in stopped
    assert len(stopped) < len(rows)
    for i, each in enumerate(found):
        if i in stopped:
            text = words.decode(each["ids"])
            assert each["finish"] == STOP
            assert stop in text
            assert stop not in words.decode(each["ids"][:-1])
            assert each["ids"] == before[i][: len(each["ids"])]
        else:
            assert each["ids"] == before[i]


def test_what_would_leave_the_context_ends_there(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "GPT2", suppress_tokens=ENDS)
    engine = writer.open()
    rows = [row * 40 for row in prompts(4, longest=3)]
    rows = [rows[0][: NUM_POSITIONS - 3], rows[1][:NUM_POSITIONS], rows[2][:9]]
    near, full, short = write(engine, rows)
    assert (near["num_new_tokens"], near["finish"]) == (3, LENGTH)
    assert near["ids"] == writer.alone(rows[0], max_new_tokens=3)
    assert full["finish"] == FAILED
    assert bytes(full["ids"]).decode() == "the prompt's 64 tokens fill the model's 64: nothing can be written"
    assert (short["num_new_tokens"], short["finish"]) == (MOST, LENGTH)


def test_a_row_whose_scores_are_no_numbers_fails_alone(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "GPT2")
    rows = prompts(6)
    expected = [writer.alone(row) for row in rows]
    engine = writer.open()
    bad = (set(range(3, VOCABULARY)) - {i for ids in [*rows, *expected] for i in ids}).pop()
    with torch.no_grad():
        engine.model.transformer.wte.weight[bad] = torch.nan
    found = write(engine, [*rows[:3], [bad, 5], *rows[3:]], size=4)
    assert bytes(found[3]["ids"]).decode() == "the model returned NaN"
    assert ids_of([*found[:3], *found[4:]]) == expected


@pytest.mark.slow
def test_a_row_that_rounding_might_decide_is_written_by_itself(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "Llama")
    with torch.no_grad():
        # Each even token's score is that of the odd one behind it.
        writer.model.lm_head.weight[1::2] = writer.model.lm_head.weight[0::2]
    writer.model.save_pretrained(tmp_path)
    engine = writer.open()
    rows = prompts()
    assert ids_of(write(engine, rows)) == [writer.alone(row) for row in rows]


@pytest.mark.slow
def test_it_is_asked_between_steps_whether_to_stop(tmp_path: Path) -> None:
    for family in ("Llama", "T5", "Bloom"):
        writer = Writer(tmp_path / family, family, suppress_tokens=ENDS)
        engine = writer.open(max_new_tokens=40)
        asked: list[int] = []
        rows = [[5, 6, 7], [8, 9, 10]]
        other = engine.submit(batch([[11, 12, 13]]))

        def fourth(asked: list[int] = asked) -> bool:
            asked.append(1)
            return len(asked) > 3

        answer = engine.submit(batch(rows), should_stop=fourth)
        with pytest.raises(Stopped):
            answer.result()
        assert len(asked) == 4
        assert answer.rows[0].num_new < 40
        assert other.result()[0, 0] == LENGTH
        assert ids_of(write(engine, rows)) == [writer.alone(row, max_new_tokens=40) for row in rows]


def test_after_an_error_every_batch_on_its_way_is_told_and_the_next_ones_are_written(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "Llama")
    engine = writer.open()
    rows = prompts(6)
    forward = engine.model.forward
    first, second = engine.submit(batch(rows[:3])), engine.submit(batch(rows[3:]))
    engine.model.forward = _out_of_memory
    for answer in (first, second):
        with pytest.raises(RuntimeError, match="out of memory"):
            answer.result()
    engine.model.forward = forward
    assert ids_of(write(engine, rows)) == [writer.alone(row) for row in rows]


def _out_of_memory(*args: object, **kwargs: object) -> None:
    raise RuntimeError("CUDA out of memory. Tried to allocate everything")


class OnlyEven:
    """A grammar of even tokens, three of them."""

    def matcher(self, tokenizer: Path, *, end_ids: object, num_logits: int, trust_remote_code: bool) -> OnlyEven:
        assert num_logits == VOCABULARY
        return self

    def new(self) -> Evens:
        return Evens()


class Evens:
    problem = None

    def __init__(self) -> None:
        self.num = 0

    def allowed(self) -> Any:
        allowed = np.zeros(VOCABULARY, dtype=bool)
        allowed[4::2] = True
        allowed[ENDS] = False
        return allowed

    def accept(self, token_id: int) -> None:
        assert token_id % 2 == 0
        self.num += 1

    @property
    def is_finished(self) -> bool:
        return self.num == 3


class Nothing(Evens):
    def allowed(self) -> Any:
        return np.zeros(VOCABULARY, dtype=bool)


@pytest.mark.parametrize("family", ["Llama", "T5"])
@pytest.mark.parametrize("sampling", [None, Sampling(seed=1)], ids=["greedy", "drawn"])
def test_a_grammar_holds_and_ends_each_row(tmp_path: Path, family: str, sampling: Sampling | None) -> None:
    engine = Writer(tmp_path, family).open(grammar=OnlyEven(), sampling=sampling)
    found = write(engine, prompts(), size=5)
    assert all(len(each["ids"]) == 3 and each["finish"] == STOP for each in found)
    assert all(i % 2 == 0 for each in found for i in each["ids"])
    assert len({tuple(each["ids"]) for each in found}) > 4


def test_a_grammar_that_leaves_nothing_fails_its_row(tmp_path: Path) -> None:
    grammar = OnlyEven()
    made = iter([Evens(), Nothing(), Evens()])
    grammar.new = lambda: next(made)  # type: ignore[method-assign]
    found = write(Writer(tmp_path, "Llama").open(grammar=grammar), [[5, 6], [7, 8], [9, 10]])
    assert [each["finish"] for each in found] == [STOP, FAILED, STOP]
    assert bytes(found[1]["ids"]).decode().startswith("no token may follow")


def test_slots_are_filled_again_while_others_write(tmp_path: Path) -> None:
    engine = Writer(tmp_path, "Llama").open()
    assert isinstance(engine._loop, CausalLoop)
    rows = prompts(40)
    seen: list[int] = []
    loop: Any = engine._loop
    forward = loop._forward

    def seeing() -> Any:
        seen.append(len(loop._active))
        return forward()

    loop._forward = seeing
    write(engine, rows, size=8)
    steps_of_batches_in_turn = 0
    for i in range(0, len(rows), 8):
        steps_of_batches_in_turn += max(len(ids) for ids in ids_of(write(engine, rows[i : i + 8])))
        del seen[-steps_of_batches_in_turn:]
    assert len(seen) < steps_of_batches_in_turn


def test_rows_for_which_there_is_no_memory_wait_for_the_slots_of_others(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "Llama")
    engine = writer.open()
    assert isinstance(engine._loop, CausalLoop)
    rows = prompts()
    engine._loop._most_of_memory = 3 * (max(map(len, rows)) + MOST)
    assert ids_of(write(engine, rows)) == [writer.alone(row) for row in rows]
    engine.submit(batch(rows))
    engine._take_arrived()
    engine._loop.step(lambda: False)
    assert len(engine._loop._active) <= 3


def test_rows_that_come_while_others_are_written_are_in_the_next_step_and_each_thread_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path, "Llama", suppress_tokens=ENDS)
    engine = writer.open()
    engine.make_room(8 * NUM_POSITIONS)
    rows = prompts(8)
    num_steps = 0
    step = engine._loop.step

    def counted(should_stop: Callable[[], bool]) -> None:
        nonlocal num_steps
        num_steps += 1
        step(should_stop)

    monkeypatch.setattr(engine._loop, "step", counted)

    def written(row: Sequence[int]) -> Any:
        return engine.submit(batch([row])).result()

    with ThreadPoolExecutor(len(rows)) as pool:
        with engine._lock:  # As if a step were taken, all the while that they come.
            answers = [pool.submit(written, row) for row in rows]
            wait_until(lambda: len(engine._arrived) == len(rows))
        found = [answer.result() for answer in answers]
    assert [ids_of(answers_of(each).to_pylist()) for each in found] == [[writer.alone(row)] for row in rows]
    assert num_steps == MOST


def _over() -> bool:
    raise CostReached("no more")


@pytest.mark.parametrize(("should_stop", "error"), [(lambda: True, Stopped), (_over, CostReached)])
def test_one_that_stops_while_another_thread_computes_leaves_and_the_others_are_written(
    tmp_path: Path, should_stop: Callable[[], bool], error: type[Exception]
) -> None:
    writer = Writer(tmp_path, "Llama", suppress_tokens=ENDS)
    engine = writer.open()
    rows = prompts(3)
    with ThreadPoolExecutor(3) as pool:
        with engine._lock:
            first = pool.submit(engine.submit(batch([rows[0]])).result)
            wait_until(lambda: engine._is_driven)
            leaves = pool.submit(engine.submit(batch([rows[1]]), should_stop=should_stop).result)
            last = pool.submit(engine.submit(batch([rows[2]])).result)
            wait_until(lambda: len(engine._waiting) == 2)
        with pytest.raises(error):
            leaves.result()
        found = [answers_of(answer.result()).to_pylist() for answer in (first, last)]
    assert [ids_of(each) for each in found] == [[writer.alone(rows[0])], [writer.alone(rows[2])]]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"guidance_scale": 2.0}, "guidance_scale = 2.0"),
        ({"prompt_lookup_num_tokens": 4}, "prompt_lookup_num_tokens = 4"),
        ({"penalty_alpha": 0.6}, "penalty_alpha = 0.6"),
    ],
)
def test_settings_that_would_be_left_out_are_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        Writer(tmp_path, "GPT2", **settings).open()


def test_beams_with_draws_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="num_beams = 3"):
        Writer(tmp_path, "GPT2", num_beams=3).open(sampling=Sampling())


def test_int8_is_refused_with_the_engine_that_has_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ctranslate2"):
        Writer(tmp_path, "GPT2").open(inference=options.Inference(device="cpu", dtype="int8"))


def test_bfloat16_is_computed_where_it_is_asked_for_and_said(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "Llama")
    engine = writer.open(inference=options.Inference(device="cpu", dtype="bfloat16"))
    assert engine.facts()["dtype"] == "bfloat16"
    found = write(engine, prompts())
    assert {each["finish"] for each in found} <= {STOP, LENGTH}
    assert isinstance(engine, TorchWriter)


def test_every_family_is_a_decoder_or_has_an_encoder() -> None:
    assert set(FAMILIES) == {*DECODERS, *ENCODER_DECODERS}
