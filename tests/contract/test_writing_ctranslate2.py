"""What encoder-decoders write in CTranslate2 is what `generate` writes of each row alone, under all that it holds."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.contract.writers import MOST, Writer, make_model
from tests.encoder_decoders import END, FAMILIES, LANGUAGE, MANY_ENDS, VOCABULARY, write_encoder_decoder
from tests.variants import variants
from tidemill.checkpoints.loading import load_config, silence
from tidemill.config import Inference
from tidemill.encoding.batching import EQUAL_LENGTHS
from tidemill.encoding.items import IDS, MASK, prepared_rows
from tidemill.engines.writing import open_writer
from tidemill.engines.writing.converted import conversion
from tidemill.engines.writing.generation.settings import Settings
from tidemill.engines.writing.generation.written import LENGTH, STOP, answers_of
from tidemill.errors import ConfigError, LimitExceeded, ModelError, Stopped
from tidemill.inference.runner import ModelRunner
from tidemill.models.tasks import find_task, task_options
from tidemill.places import home

pytest.importorskip("ctranslate2", reason='CTranslate2 is not installed: pip install "tidemill[ctranslate2]"')

TASK = "text2text-generation"
LIMIT = 16


def drawn_rows(*lengths):
    draw = np.random.default_rng(7)
    return [draw.integers(20, VOCABULARY, length).tolist() for length in lengths]


ROWS = [*drawn_rows(1, 30, 3, 60, 11), [END], [END, 9]]


def task_of(folder, **said):
    return find_task(TASK)(load_config(folder), task_options(TASK, {"max_new_tokens": LIMIT, **said}))


def opened(folder, *, said=None, **inference):
    task = task_of(folder, **(said or {}))
    return open_writer(
        folder,
        load=partial(task.load, folder, trust_remote_code=False),
        settings=task.settings,
        inference=Inference(device="cpu", **inference),
        tokenizer=folder,
    )


def batch_of(rows):
    ids, mask = (np.zeros((len(rows), max(map(len, rows))), dtype=np.int64) for _ in range(2))
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return {IDS: ids} if mask.all() else {IDS: ids, MASK: mask}


def written(engine, rows):
    return answers_of(engine.submit(batch_of(rows)).result()).to_pylist()


def generated(folder, rows, **said):
    """What `generate` writes of each row alone: without the decoder's start."""
    import torch

    task = task_of(folder, **said)
    model = task.load(folder, dtype=torch.float32, trust_remote_code=False)
    with torch.inference_mode(), silence():
        found = [
            model.generate(torch.tensor([row]), generation_config=task.settings.generation, use_cache=True)[0, 1:]
            for row in rows
        ]
    return [each.tolist() for each in found]


def ids_of(answers):
    return [answer["ids"] for answer in answers]


@pytest.fixture(scope="module", params=variants(FAMILIES, ["t5", "marian"]))
def folder(request, tmp_path_factory):
    return write_encoder_decoder(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    return write_encoder_decoder(tmp_path_factory.mktemp("model"), "bart")


def test_each_row_is_what_generate_writes_of_it_alone_in_any_company(folder):
    engine = opened(folder)
    expected = generated(folder, ROWS)

    assert engine.facts()["engine"] == "ctranslate2", engine.facts().get("fallback")
    assert ids_of(written(engine, ROWS)) == expected
    assert [ids_of(written(engine, [row]))[0] for row in ROWS] == expected
    assert ids_of(written(engine, ROWS[::-1][:3])) == expected[::-1][:3]
    assert len(set(map(tuple, expected))) > 1, "a model that writes the same of all rows shows nothing"


def test_an_answer_ends_by_an_end_token_or_at_the_limit_and_counts_every_token(bart):
    answers = written(opened(bart), ROWS)

    assert {answer["finish"] for answer in answers} <= {STOP, LENGTH}
    assert [answer["num_prompt_tokens"] for answer in answers] == list(map(len, ROWS))
    for answer in answers:
        assert answer["num_new_tokens"] == len(answer["ids"])
        assert (answer["finish"] == LENGTH) == (answer["ids"][-1] not in MANY_ENDS)


HELD: dict[str, tuple[str, dict[str, Any]]] = {
    "a penalty": ("marian", {"repetition_penalty": 1.7}),
    "no repetition of pairs": ("bart", {"no_repeat_ngram_size": 2}),
    "a least number of new tokens": ("t5", {"min_new_tokens": 9}),
    "a least length, which counts the start": ("t5", {"min_length": 9}),
    "words that are forbidden": ("pegasus", {"bad_words_ids": [[30], [40, 41], [2]]}),
    "tokens that are forbidden": ("t5", {"suppress_tokens": list(range(100, 200))}),
    "a first token": ("m2m_100", {"forced_bos_token_id": LANGUAGE}),
    "a last token": ("bart", {"forced_eos_token_id": 2, "forced_bos_token_id": 0}),
    "one end token": ("mbart", {"ends": 2}),
    "beams": ("t5 1.1", {"ends": 170, "num_beams": 3, "early_stopping": True, "length_penalty": 0.6}),
    "beams that forbid": (
        "t5",
        {
            "ends": 170,
            "num_beams": 4,
            "early_stopping": True,
            "renormalize_logits": True,
            "min_length": 5,
            "bad_words_ids": [[30]],
        },
    ),
}


QUICK = ("a penalty", "a first token", "one end token")


@pytest.mark.parametrize("held", variants(HELD, QUICK))
def test_a_setting_of_the_checkpoint_holds(tmp_path, held):
    family, said = HELD[held]
    folder = write_encoder_decoder(tmp_path, family, **said)
    engine = opened(folder)

    assert engine.facts()["engine"] == "ctranslate2", engine.facts().get("fallback")
    assert ids_of(written(engine, ROWS)) == generated(folder, ROWS)


def test_a_forced_last_token_is_the_limit_and_no_end(tmp_path):
    folder = write_encoder_decoder(tmp_path, "bart", forced_eos_token_id=2, ends=2)

    answers = written(opened(folder), ROWS)

    full = [answer for answer in answers if len(answer["ids"]) == LIMIT]
    assert full
    assert {(answer["ids"][-1], answer["finish"]) for answer in full} == {(2, LENGTH)}


@pytest.mark.slow
def test_neither_input_nor_answer_is_cut_where_ctranslate2_does_unless_told(tmp_path):
    folder, said = write_encoder_decoder(tmp_path, "t5", ends=2), {"max_new_tokens": 300}
    [row] = drawn_rows(1_500)

    found = ids_of(written(opened(folder, said=said), [row]))

    assert found == generated(folder, [row], **said)
    assert len(found[0]) == 300
    assert found[0][:9] != generated(folder, [row[:1_024]], max_new_tokens=9)[0]


@pytest.mark.parametrize(
    ("generation", "said", "words"),
    [
        ({}, {"stop": ["the"]}, "model.options.stop"),
        ({}, {"do_sample": True}, "do_sample"),
        ({"encoder_no_repeat_ngram_size": 3}, {}, "encoder_no_repeat_ngram_size = 3"),
        ({"num_beams": 2, "ends": 2}, {}, "early_stopping"),
        ({"num_beams": 2, "early_stopping": True}, {}, "names 80"),
        ({"num_beams": 2, "ends": 2, "early_stopping": True, "forced_bos_token_id": 5}, {}, "forced tokens"),
        ({"num_beams": 2, "ends": 2, "early_stopping": True, "no_repeat_ngram_size": 2}, {}, "what is forbidden"),
        ({"repetition_penalty": 1.5, "decoder_start_token_id": 2}, {}, "penalties"),
    ],
)
def test_a_setting_that_it_does_not_hold_is_torchs_and_an_error_where_it_is_asked_for(
    tmp_path, generation, said, words
):
    folder = write_encoder_decoder(tmp_path, "t5", **generation)

    engine = opened(folder, said=said)
    with pytest.raises(ModelError, match=rf'{words}.*Set inference\.engine = "torch"'):
        opened(folder, said=said, engine="ctranslate2")

    assert engine.facts()["engine"] == "torch"
    assert words in engine.facts()["fallback"]


@pytest.mark.slow
def test_a_conversion_that_writes_otherwise_is_not_used_nor_asked_again(tmp_path, monkeypatch):
    folder = write_encoder_decoder(tmp_path, "m2m_100")
    with monkeypatch.context() as mistaken:
        mistaken.setattr(conversion, "_set_counted_positions", set_from_the_first)
        fallbacks = [opened(folder).facts()["fallback"]]
    fallbacks += [opened(folder).facts()["fallback"]]

    assert [why.endswith("it does not write what it writes in torch") for why in fallbacks] == [True, True]


def set_from_the_first(spec, module):
    """Positions as they would be counted if padding had none."""
    spec.encodings = module.weights


def test_a_model_is_converted_once_and_again_where_its_conversion_is_damaged(tmp_path, monkeypatch):
    folder = write_encoder_decoder(tmp_path / "model", "marian")
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))
    expected = ids_of(written(opened(folder), ROWS))
    [kept] = (home() / "conversions").iterdir()
    whole = (kept / "model.bin").read_bytes()

    # When it was last used is the folder's time: its file is the one that it was.
    files = [(kept / "model.bin").stat().st_ino, (opened(folder), (kept / "model.bin").stat().st_ino)[1]]
    (kept / "model.bin").write_bytes(whole[: len(whole) // 2])
    again = ids_of(written(opened(folder), ROWS))

    assert files[0] == files[1]
    assert again == expected
    assert (kept / "model.bin").read_bytes() == whole
    assert [path.name for path in (home() / "conversions").iterdir()] == [kept.name]


def test_a_run_that_is_stopped_waits_for_no_batch(bart):
    engine = opened(bart)
    answer = engine.submit(batch_of(ROWS * 50), should_stop=lambda: True)

    with pytest.raises(Stopped):
        answer.result()


def test_a_longer_answer_than_the_model_has_positions_for_is_torchs(tmp_path):
    folder = write_encoder_decoder(tmp_path, "bart")

    assert "64 positions" in opened(folder, said={"max_new_tokens": 65}).facts()["fallback"]


def runner_of(folder, *, task=TASK, **inference):
    options = {"max_new_tokens": LIMIT}
    return ModelRunner.load(folder, task=task, inference=Inference(device="cpu", **inference), task_options=options)


def prepared(rows):
    return prepared_rows(pa.array(rows, pa.list_(pa.int32())))


def test_in_int8_the_share_of_rows_with_the_same_text_is_measured_and_recorded(bart):
    runner = runner_of(bart, dtype="int8", max_drift=1.0)
    engine = runner.engine
    assert engine.reference is not None
    pairs = zip(ids_of(written(engine, ROWS)), ids_of(written(engine.reference, ROWS)), strict=True)
    same = [ours == theirs for ours, theirs in pairs]

    found = runner.predict(prepared(ROWS))

    measured = runner.resolved["int8"]
    assert (measured["num_rows"], measured["same_text"]) == (len(ROWS), sum(same) / len(ROWS))
    assert (runner.resolved["engine"], runner.resolved["dtype"]) == ("ctranslate2", "int8")
    assert found.columns["num_new_tokens"].to_pylist() == list(map(len, ids_of(written(engine, ROWS))))


def test_int8_that_changes_more_texts_than_the_bound_fails_before_a_row_is_kept(bart):
    runner = runner_of(bart, dtype="int8", max_drift=1e-9)
    # Of random weights int8 changes some answers, and of these rows surely one.
    rows = drawn_rows(*range(1, 41))

    with pytest.raises(LimitExceeded, match=r"writes another text .* more than inference\.max_drift = 1e-09"):
        runner.predict(prepared(rows))


def test_int8_of_a_model_that_writes_is_not_torchs(bart):
    with pytest.raises(ConfigError, match=r'Set inference\.engine = "ctranslate2", or another dtype'):
        opened(bart, engine="torch", dtype="int8")


@pytest.mark.parametrize("family", ["GPT2", "Llama", "Qwen2", "Qwen3"])
def test_a_decoder_is_computed_where_it_is_asked_for_as_generate_writes_it(tmp_path, family):
    writer = Writer(tmp_path, family)
    rows = [[min(id_, 150) for id_ in row] for row in drawn_rows(1, 9, 9, 30)]
    settings = Settings.of(tmp_path, writer.model.config, max_new_tokens=MOST)

    engine = open_writer(
        tmp_path,
        load=lambda *, dtype: make_model(family).to(dtype).eval(),
        settings=settings,
        inference=Inference(device="cpu", engine="ctranslate2"),
        tokenizer=tmp_path,
    )

    assert engine.company == EQUAL_LENGTHS
    assert [ids_of(written(engine, [row]))[0] for row in rows] == [writer.alone(row) for row in rows]
    assert ids_of(written(engine, rows[1:3])) == [writer.alone(row) for row in rows[1:3]]


def test_a_decoder_that_penalizes_what_its_prompt_says_is_not_ctranslate2s(tmp_path):
    writer = Writer(tmp_path, "GPT2", repetition_penalty=1.5)

    with pytest.raises(ModelError, match="of a decoder it does not hold repetition_penalty"):
        open_writer(
            tmp_path,
            load=lambda *, dtype: writer.model,
            settings=Settings.of(tmp_path, writer.model.config, max_new_tokens=MOST),
            inference=Inference(device="cpu", engine="ctranslate2"),
            tokenizer=tmp_path,
        )
