"""Every model task answers as `transformers.pipeline` does, and refuses what it cannot do before any work."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers

from tests.checkpoints import NUM_POSITIONS, TINY_SENTIMENT, reviews, save_checkpoint, save_tokenizer
from tests.contract.conftest import CHECKPOINTS
from tests.opened import module_of, task_of
from tidemill.checkpoints.loading import load_config, max_positions, usual_length
from tidemill.config import Inference
from tidemill.encoding.items import prepared_rows
from tidemill.encoding.tokenizer import TextTokenizer
from tidemill.engines.calibration_texts import calibration_texts
from tidemill.errors import ConfigError, ModelError
from tidemill.inference.runner import ModelRunner
from tidemill.models.tasks import MODEL_TASKS, find_task

TEXTS = [*reviews(30), "", "a", "naïve café 電影 😀", "the film " * 300]


@functools.cache
def answers_of(task, folder, **options):
    return ask_pipeline(task, folder, TEXTS, **options)


def ask_pipeline(task, folder, texts, **options):
    # One by one unless asked otherwise: the oracle pads nothing.
    pipeline = transformers.pipeline(task, model=str(folder), dtype=torch.float32, device="cpu")
    length = max_positions(pipeline.model.config)
    return pipeline(texts, truncation=True, max_length=length, **options)


def ask_tidemill(task, folder, texts, *, dtype="float32", engine="torch", all_scores=False, **options):
    config = load_config(folder)
    tokenizer = TextTokenizer.load(folder, model_max_length=max_positions(config))
    inference = Inference(device="cpu", engine=engine, dtype=dtype)
    runner = ModelRunner.load(folder, task=task, inference=inference, all_scores=all_scores, **options)
    predictions = runner.predict(tokenizer.prepare(pa.table({"text": pa.array(texts, pa.string())})))
    assert predictions.reason.null_count == len(texts)
    return predictions.columns


def test_every_model_task_has_checkpoints_in_this_suite():
    """Or a suite of its own, where its answers are no labels and scores; those that write have one of each engine."""
    own = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert set(CHECKPOINTS) <= set(MODEL_TASKS)
    assert {"writing_torch", "writing_ctranslate2"} <= own
    scored = {tag for tag, task in MODEL_TASKS.items() if not task.writes}
    assert {tag for tag in scored if tag.replace("-", "_") not in own} == set(CHECKPOINTS)


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_labels_and_scores_are_those_of_the_pipeline(checkpoint, engine):
    task, folder = checkpoint
    answers = answers_of(task, folder)

    ours = ask_tidemill(task, folder, TEXTS, engine=engine)

    assert ours["label"].to_pylist() == [answer["label"] for answer in answers]
    np.testing.assert_allclose(ours["score"].to_numpy(), [answer["score"] for answer in answers], atol=1e-4)


def test_all_scores_are_those_of_the_pipeline(checkpoint):
    task, folder = checkpoint
    answers = answers_of(task, folder, top_k=None)

    ours = ask_tidemill(task, folder, TEXTS, all_scores=True)

    for scores, answer in zip(ours["scores"].to_pylist(), answers, strict=True):
        assert dict(scores) == pytest.approx({one["label"]: one["score"] for one in answer}, abs=1e-4)


def test_the_columns_are_those_of_the_result_schema(checkpoint):
    task, folder = checkpoint
    config = load_config(folder)

    for all_scores in (False, True):
        schema = find_task(task)(config, all_scores=all_scores).schema
        assert ask_tidemill(task, folder, TEXTS[:2], all_scores=all_scores).schema == schema


def test_weights_that_do_not_cover_the_model_are_refused_and_never_random(checkpoint):
    task, folder = checkpoint
    headless = folder.with_name(folder.name + "-headless")
    transformers.AutoModel.from_pretrained(folder).save_pretrained(headless)
    (headless / "config.json").write_text((folder / "config.json").read_text())

    with pytest.raises(ModelError, match="would stay random"):
        module_of(headless, task)


def test_a_model_of_another_task_is_refused_before_its_weights_are_read(checkpoint):
    task, folder = checkpoint
    config = load_config(folder)
    config.architectures = ["BertForMaskedLM"]

    with pytest.raises(ModelError, match=r"is a BertForMaskedLM.*Set model\.path"):
        find_task(task)(config)


def test_pickled_weights_are_refused_with_the_way_out(checkpoint):
    task, folder = checkpoint
    pickled = folder.with_name(folder.name + "-pickled")
    pickled.mkdir()
    (pickled / "config.json").write_text((folder / "config.json").read_text())
    torch.save({}, pickled / "pytorch_model.bin")

    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*Set model\.revision"):
        module_of(pickled, task)


@pytest.mark.slow
def test_bfloat16_answers_as_the_float32_pipeline_on_real_reviews():
    texts = sorted(reviews(200), key=len)
    answers = ask_pipeline("text-classification", TINY_SENTIMENT, texts, batch_size=32)

    ours = ask_tidemill("text-classification", TINY_SENTIMENT, texts, dtype="bfloat16")

    agree = np.array(ours["label"].to_pylist()) == [answer["label"] for answer in answers]
    drift = np.abs(ours["score"].to_numpy() - [answer["score"] for answer in answers])
    assert agree.mean() >= 0.995
    assert np.quantile(drift, 0.99) <= 0.02


@pytest.mark.slow
def test_int8_answers_as_the_float32_pipeline_on_real_reviews():
    texts = sorted(reviews(100), key=len)
    answers = ask_pipeline("text-classification", TINY_SENTIMENT, texts, batch_size=32)
    tokenizer = TextTokenizer.load(TINY_SENTIMENT)
    sample = tokenizer.prepare(pa.table({"text": calibration_texts()}))

    ours = ask_tidemill(
        "text-classification", TINY_SENTIMENT, texts, engine="auto", dtype="int8", calibration=lambda: sample
    )

    agree = np.array(ours["label"].to_pylist()) == [answer["label"] for answer in answers]
    drift = np.abs(ours["score"].to_numpy() - [answer["score"] for answer in answers])
    assert agree.mean() >= 0.99
    assert 0 < np.quantile(drift, 0.99) <= 0.05


@pytest.mark.parametrize("name", ["text-classificaton", "Text-Classification"])
def test_a_misspelt_model_task_is_answered_with_the_nearest(name):
    with pytest.raises(ConfigError, match='Did you mean "text-classification"'):
        find_task(name)


def test_an_unknown_model_task_is_answered_with_those_that_are_known():
    with pytest.raises(ConfigError, match=r"Known: text-classification, token-classification, "):
        find_task("object-detection")


@pytest.fixture
def bert(tmp_path):
    return save_checkpoint(tmp_path, "bert", "two labels")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_without_a_model_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ModelError, match=r"no config\.json in .* Set model\.path"):
            load_config(folder)


def test_a_configuration_that_is_not_json_is_refused(bert):
    (bert / "config.json").write_text('{"model_type": "bert"')

    with pytest.raises(ModelError, match="cannot be read"):
        load_config(bert)


def test_an_architecture_that_transformers_does_not_know_is_refused(bert):
    edit_config(bert, model_type="abacus")

    with pytest.raises(ModelError, match=r"cannot be loaded: .*abacus"):
        load_config(bert)


def test_a_model_with_its_own_code_is_refused_and_its_code_is_not_run(bert):
    (bert / "configuration_abacus.py").write_text("raise SystemExit('ran')")
    edit_config(bert, model_type="abacus", auto_map={"AutoConfig": "configuration_abacus.AbacusConfig"})

    with pytest.raises(ModelError, match=r"set model\.trust_remote_code = true"):
        load_config(bert)


def test_weights_of_another_shape_are_refused(bert):
    edit_config(bert, intermediate_size=128)

    with pytest.raises(ModelError, match=r"of other shapes than config\.json says"):
        module_of(bert)


def test_a_folder_without_weights_is_refused(bert):
    (bert / "model.safetensors").unlink()

    with pytest.raises(ModelError, match="no weights"):
        module_of(bert)


def test_labels_that_do_not_name_every_output_are_refused(bert):
    edit_config(bert, id2label={"0": "good", "2": "bad"})

    with pytest.raises(ModelError, match="Correct id2label"):
        task_of(bert)


def test_outputs_that_share_a_label_are_answered_as_by_the_pipeline(tmp_path):
    folder = save_checkpoint(tmp_path, "bert", "five labels")
    edit_config(folder, id2label=dict(enumerate(["bad", "bad", "fair", "good", "good"])))
    answers = ask_pipeline("text-classification", folder, TEXTS)

    ours = ask_tidemill("text-classification", folder, TEXTS)

    assert ours["label"].to_pylist() == [answer["label"] for answer in answers]
    np.testing.assert_allclose(ours["score"].to_numpy(), [answer["score"] for answer in answers], atol=1e-4)


def test_a_map_of_all_scores_is_refused_where_outputs_share_a_label(bert):
    edit_config(bert, id2label={"0": "good", "1": "good"})

    with pytest.raises(ModelError, match=r"Outputs 0, 1 .* one label, 'good', and model\.all_scores = true"):
        _ = task_of(bert, all_scores=True).schema


@pytest.mark.parametrize("in_config", [None, -1, 999_999])
@pytest.mark.parametrize("in_pipeline_file", [None, 1])
def test_a_model_that_reads_the_last_token_is_answered_whether_it_names_a_padding_token_or_not(
    tmp_path, in_config, in_pipeline_file
):
    folder = save_checkpoint(tmp_path, "gpt2", "five labels")
    edit_config(folder, pad_token_id=in_config)
    answers = ask_pipeline("text-classification", folder, TEXTS)

    ours = ask_tidemill("text-classification", folder, TEXTS, pad_token_id=in_pipeline_file)

    assert ours["label"].to_pylist() == [answer["label"] for answer in answers]
    np.testing.assert_allclose(ours["score"].to_numpy(), [answer["score"] for answer in answers], atol=1e-4)


def test_rows_of_a_model_without_a_padding_token_are_computed_with_others_of_their_length_alone(tmp_path):
    folder = save_checkpoint(tmp_path, "gpt2", "five labels")
    edit_config(folder, pad_token_id=None)

    def resolved(**options):
        inference = Inference(device="cpu", engine="torch", dtype="float32")
        return ModelRunner.load(folder, task="text-classification", inference=inference, **options).resolved

    assert resolved()["rows"].startswith("of equal length in a batch")
    assert "rows" not in resolved(pad_token_id=1)


def test_a_padding_token_outside_of_the_vocabulary_is_refused(tmp_path):
    folder = save_checkpoint(tmp_path, "gpt2", "five labels")

    with pytest.raises(ModelError, match=r"model\.pad_token_id = 999999 is outside of the model's vocabulary of 600"):
        load_config(folder, pad_token_id=999_999)


def test_a_model_that_knows_distances_alone_takes_texts_longer_than_its_config_states(tmp_path):
    tokenizer = save_tokenizer(tmp_path, "wordpiece", model_max_length=int(1e30))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    relative = {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]}
    config = transformers.AutoConfig.for_model(
        "deberta-v2",
        vocab_size=len(tokenizer),
        max_position_embeddings=NUM_POSITIONS,
        position_buckets=16,
        initializer_range=0.3,
        **sizes,
        **relative,
    )
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    texts = ["the film " * 60, "a film"]
    usual = usual_length(load_config(tmp_path))

    token_ids = TextTokenizer.load(tmp_path, max_length=100, usual_length=usual).encode(pa.array(texts)).token_ids
    inference = Inference(device="cpu", engine="torch", dtype="float32")
    ours = (
        ModelRunner.load(tmp_path, task="text-classification", inference=inference)
        .predict(prepared_rows(token_ids))
        .columns
    )

    pipeline = transformers.pipeline("text-classification", model=str(tmp_path), dtype=torch.float32, device="cpu")
    answers = pipeline(texts, truncation=True, max_length=100)
    assert len(token_ids[0]) == 100
    np.testing.assert_allclose(ours["score"].to_numpy(), [answer["score"] for answer in answers], atol=1e-4)
    assert TextTokenizer.load(tmp_path, usual_length=usual).max_length == NUM_POSITIONS


@pytest.mark.parametrize(
    ("model_type", "options", "bound"),
    [
        ("deberta-v2", {"relative_attention": True, "position_biased_input": False}, None),
        ("deberta-v2", {"relative_attention": True, "position_biased_input": True}, 64),
        ("deberta-v2", {"relative_attention": False, "position_biased_input": False}, 64),
        ("deberta", {"relative_attention": True, "position_biased_input": False}, None),
        ("esm", {"position_embedding_type": "rotary", "pad_token_id": 1}, None),
        ("esm", {"position_embedding_type": "absolute", "pad_token_id": 1}, 62),
    ],
)
def test_positions_bound_a_text_only_where_the_model_looks_them_up(model_type, options, bound):
    config = transformers.AutoConfig.for_model(model_type, max_position_embeddings=64, **options)

    assert max_positions(config) == bound


def test_a_dtype_is_what_was_asked_for_whatever_the_checkpoint_was_saved_in():
    assert json.loads((TINY_SENTIMENT / "config.json").read_text())["dtype"] == "float16"

    model = module_of(TINY_SENTIMENT)

    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training


def test_positions_bound_what_the_tokenizer_gives(bert):
    assert max_positions(load_config(bert)) == NUM_POSITIONS
