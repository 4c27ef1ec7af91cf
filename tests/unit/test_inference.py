from __future__ import annotations

import dataclasses
import logging
import threading

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.checkpoints import NUM_POSITIONS, reviews, save_checkpoint
from tests.opened import module_of, task_of
from tidemill.checkpoints.loading import load_config
from tidemill.config import Inference, Pipeline
from tidemill.encoding.items import prepared_rows
from tidemill.encoding.tokenizer import TextTokenizer
from tidemill.engines.torch_engine import TorchEngine
from tidemill.errors import ConfigError, RunFailed, SequenceTooLong, Stopped
from tidemill.inference.opening import load_runner
from tidemill.inference.runner import ModelRunner
from tidemill.planning.versions import declared

CULPRIT = 77


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("bert"), "bert", "five labels")


@pytest.fixture(scope="module")
def token_ids(folder):
    return TextTokenizer.load(folder).encode(pa.array(reviews(60), pa.string())).token_ids


@pytest.fixture(scope="module")
def undisturbed(folder, token_ids):
    return load(folder).predict(prepared_rows(token_ids))


def load(folder, **inference):
    inference = {"device": "cpu", "engine": "torch", "dtype": "float32", "token_budget": 512, **inference}
    return ModelRunner.load(folder, task="text-classification", inference=Inference(**inference), all_scores=True)


def disturbed(folder, disturbance, *, num_streams=1, **inference):
    """The real model, behind `disturbance`, which sees each batch before it and its logits after it."""
    config = load_config(folder)
    model = module_of(folder)
    inference = {"token_budget": 512, **inference}
    engine = TorchEngine(disturbance(model), torch.device("cpu"), num_streams=num_streams)
    return ModelRunner(engine, config, task=task_of(folder, all_scores=True), inference=Inference(**inference))


class Disturbance(torch.nn.Module):  # type: ignore[misc]  # torch is Any here
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.shapes = []

    def forward(self, input_ids, attention_mask):
        self.shapes.append(tuple(input_ids.shape))
        self.before(input_ids)
        output = self.model(input_ids=input_ids, attention_mask=attention_mask)
        self.after(input_ids, output.logits)
        return output

    def before(self, input_ids):
        pass

    def after(self, input_ids, logits):
        pass


GPU_OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def out_of_memory_above(num_tokens, error=GPU_OUT_OF_MEMORY):
    class OutOfMemory(Disturbance):
        def before(self, input_ids):
            if input_ids.numel() > num_tokens:
                raise error

    return OutOfMemory


class FailsOnCulprit(Disturbance):
    def before(self, input_ids):
        if (input_ids == CULPRIT).any():
            raise ValueError("a token that this model cannot stand\nand more")


def with_culprit(token_ids, *rows):
    lists = token_ids.to_pylist()
    for row in rows:
        lists[row] = [2, CULPRIT, row + 100, 3]
    others = [[5 if token == CULPRIT and i not in rows else token for token in ids] for i, ids in enumerate(lists)]
    return pa.array(others, pa.list_(pa.int32()))


def assert_same(ours, theirs, rows=None, drift=1e-5):
    rows = list(range(ours.columns.num_rows)) if rows is None else list(rows)
    ours, theirs = ours.columns.take(rows), theirs.columns.take(rows)
    assert ours["label"] == theirs["label"]
    np.testing.assert_allclose(ours["score"].to_numpy(), theirs["score"].to_numpy(), atol=drift)


def test_every_row_gets_its_label_score_and_all_scores(undisturbed, token_ids):
    columns = undisturbed.columns

    assert columns.num_rows == len(token_ids)
    assert columns.schema == pa.schema(
        [("label", pa.string()), ("score", pa.float32()), ("scores", pa.map_(pa.string(), pa.float32()))]
    )
    for row in columns.to_pylist():
        scores = dict(row["scores"])
        assert row["label"] == max(scores, key=scores.__getitem__)
        assert row["score"] == scores[row["label"]]
        assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
    assert undisturbed.reason.null_count == len(token_ids)


def test_predictions_do_not_depend_on_the_order_of_rows(folder, token_ids, undisturbed):
    order = np.random.default_rng(0).permutation(len(token_ids))

    shuffled = load(folder).predict(prepared_rows(token_ids.take(pa.array(order))))

    assert_same(shuffled, type(undisturbed)(undisturbed.columns.take(pa.array(order)), undisturbed.reason, None))


def test_predictions_do_not_depend_on_the_token_budget(folder, token_ids, undisturbed):
    for token_budget in (NUM_POSITIONS, 4_096):
        assert_same(load(folder, token_budget=token_budget).predict(prepared_rows(token_ids)), undisturbed)


def test_slices_and_chunks_of_a_column_are_predicted_as_such(folder, token_ids, undisturbed):
    chunked = pa.chunked_array([token_ids.slice(0, 7), token_ids.slice(7)])

    assert_same(load(folder).predict(prepared_rows(chunked)), undisturbed)
    part = load(folder).predict(prepared_rows(token_ids.slice(3, 9)))
    assert part.columns["label"].to_pylist() == undisturbed.columns["label"].to_pylist()[3:12]


def test_rows_without_token_ids_stay_null_and_have_no_reason(folder, token_ids, undisturbed):
    with_null = pa.array([None, *token_ids.to_pylist()[:5], None], pa.list_(pa.int32()))

    predictions = load(folder).predict(prepared_rows(with_null))

    assert predictions.columns["label"].is_null().to_pylist() == [True, *[False] * 5, True]
    assert predictions.columns["label"].to_pylist()[1:6] == undisturbed.columns["label"].to_pylist()[:5]
    assert predictions.reason.null_count == 7


def test_no_rows_give_columns_of_the_right_types(folder):
    predictions = load(folder).predict(prepared_rows(pa.array([], pa.list_(pa.int32()))))

    assert predictions.columns.schema == load(folder).result_schema
    assert predictions.columns.num_rows == len(predictions.reason) == 0


def test_identical_rows_are_computed_once_and_all_get_the_result(folder, token_ids, undisturbed):
    tripled = pa.concat_arrays([token_ids] * 3)
    runner = disturbed(folder, Disturbance)

    predictions = runner.predict(prepared_rows(tripled))

    assert predictions.stats.num_rows == 3 * len(token_ids)
    assert predictions.stats.num_distinct == len(set(map(tuple, token_ids.to_pylist())))
    assert sum(rows for rows, _ in runner.engine.model.shapes) == predictions.stats.num_distinct
    for start in range(0, len(tripled), len(token_ids)):
        part = type(undisturbed)(predictions.columns.slice(start, len(token_ids)), undisturbed.reason, None)
        assert_same(part, undisturbed)


def test_without_deduplication_every_row_is_computed(folder, token_ids):
    predictions = load(folder, deduplicate=False).predict(prepared_rows(pa.concat_arrays([token_ids] * 2)))

    assert predictions.stats.num_distinct == 2 * len(token_ids)
    assert predictions.stats.num_tokens == 2 * len(token_ids.values)


def test_stats_count_tokens_with_and_without_padding(folder, token_ids):
    runner = disturbed(folder, Disturbance, deduplicate=False)

    stats = runner.predict(prepared_rows(token_ids)).stats

    assert stats.num_tokens == len(token_ids.values)
    assert stats.num_padded_tokens == sum(rows * width for rows, width in runner.engine.model.shapes)
    assert stats.seconds > 0
    assert stats.oom_halvings == 0


def test_out_of_memory_halves_the_budget_says_so_and_goes_on(folder, token_ids, undisturbed, caplog):
    runner = disturbed(folder, out_of_memory_above(200))

    with caplog.at_level(logging.WARNING, logger="tidemill"):
        predictions = runner.predict(prepared_rows(token_ids))

    assert_same(predictions, undisturbed)
    assert predictions.reason.null_count == len(token_ids)
    assert runner.resolved["token_budget"] <= 256
    assert [record.name for record in caplog.records] == ["tidemill"] * predictions.stats.oom_halvings
    assert "inference.token_budget is now" in caplog.text


def test_batches_that_run_out_of_memory_side_by_side_lower_the_budget_once(folder, token_ids, undisturbed):
    runner = disturbed(folder, out_of_memory_above(300), num_streams=4)

    predictions = runner.predict(prepared_rows(token_ids))

    assert_same(predictions, undisturbed)
    assert (runner.token_budget, predictions.stats.oom_halvings) == (pytest.approx(256, abs=30), 1)


def test_a_row_that_does_not_fit_beside_others_is_tried_alone(folder, token_ids, undisturbed):
    runner = disturbed(folder, Disturbance, num_streams=4)
    longest, on_their_way, submit = max(map(len, token_ids.to_pylist())), [], runner.engine.submit

    class Counted:
        def __init__(self, answer, num_tokens):
            self.answer, self.num_tokens = answer, num_tokens
            on_their_way.append(num_tokens)

        def result(self):
            on_their_way.remove(self.num_tokens)
            return self.answer.result()

    def submit_if_it_fits(inputs, **_):
        num_tokens = inputs["input_ids"].size
        if sum(on_their_way) + num_tokens > longest:
            raise GPU_OUT_OF_MEMORY
        return Counted(submit(inputs), num_tokens)

    runner.engine.submit = submit_if_it_fits
    predictions = runner.predict(prepared_rows(token_ids))

    assert predictions.reason.null_count == len(token_ids)
    assert_same(predictions, undisturbed)


def test_what_an_engine_does_not_pad_is_not_counted_as_padded(folder, token_ids):
    runner = load(folder, deduplicate=False)
    runner.engine.__class__ = type("Packing", (type(runner.engine),), {"pads": False})

    stats = runner.predict(prepared_rows(token_ids)).stats

    assert stats.num_padded_tokens == stats.num_tokens == len(token_ids.values)


def test_a_lowered_budget_holds_for_the_next_shards(folder, token_ids):
    runner = disturbed(folder, out_of_memory_above(200))
    runner.predict(prepared_rows(token_ids))
    runner.engine.model.shapes.clear()

    assert runner.predict(prepared_rows(token_ids)).stats.oom_halvings == 0
    assert max(rows * width for rows, width in runner.engine.model.shapes) <= 200


def test_batches_computed_before_out_of_memory_are_not_computed_again(folder, token_ids):
    class OutOfMemoryOnce(Disturbance):
        def before(self, _):
            if len(self.shapes) == 3:
                raise torch.OutOfMemoryError("out of memory")

    runner = disturbed(folder, OutOfMemoryOnce, deduplicate=False)
    predictions = runner.predict(prepared_rows(token_ids))

    failed = runner.engine.model.shapes.pop(2)
    assert failed[0] > 1
    assert sum(rows for rows, _ in runner.engine.model.shapes) == len(token_ids) == predictions.columns.num_rows


def test_the_cpus_allocator_running_dry_is_out_of_memory_too(folder, token_ids, undisturbed):
    error = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    predictions = disturbed(folder, out_of_memory_above(200, error)).predict(prepared_rows(token_ids))

    assert_same(predictions, undisturbed)
    assert predictions.stats.oom_halvings > 0


def test_a_row_that_does_not_fit_the_device_even_alone_gets_a_reason(folder, token_ids, undisturbed):
    lengths = [len(ids) for ids in token_ids.to_pylist()]
    limit = sorted(lengths)[-3] - 1

    predictions = disturbed(folder, out_of_memory_above(limit)).predict(prepared_rows(token_ids))

    too_long = [i for i, length in enumerate(lengths) if length > limit]
    reasons = predictions.reason.to_pylist()
    assert [i for i, reason in enumerate(reasons) if reason] == too_long
    assert all(reasons[i] == f"out of memory: its {lengths[i]} tokens alone do not fit the device" for i in too_long)
    assert_same(predictions, undisturbed, set(range(len(lengths))) - set(too_long))


def test_a_row_that_fails_takes_no_other_row_with_it(folder, token_ids):
    token_ids = with_culprit(token_ids, 4, 17)

    predictions = disturbed(folder, FailsOnCulprit).predict(prepared_rows(token_ids))

    reasons = predictions.reason.to_pylist()
    assert {i: reason for i, reason in enumerate(reasons) if reason} == dict.fromkeys(
        (4, 17), "the model failed: a token that this model cannot stand"
    )
    assert predictions.columns["label"].is_null().to_pylist() == [i in (4, 17) for i in range(len(token_ids))]
    assert_same(predictions, load(folder).predict(prepared_rows(token_ids)), set(range(len(token_ids))) - {4, 17})


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_logits_that_are_no_numbers_give_a_reason_and_no_prediction(folder, token_ids, value, word):
    class Overflows(Disturbance):
        def after(self, input_ids, logits):
            logits[(input_ids == CULPRIT).any(dim=1), 1] = value

    predictions = disturbed(folder, Overflows).predict(prepared_rows(with_culprit(token_ids, 9)))

    assert predictions.reason.to_pylist() == [f"the model returned {word}" if i == 9 else None for i in range(60)]
    assert predictions.columns["score"].is_null().to_pylist() == [i == 9 for i in range(60)]
    assert np.isfinite(predictions.columns["score"].drop_null().to_numpy()).all()


def test_token_ids_outside_of_the_vocabulary_never_reach_the_model(folder):
    rows = pa.array([[2, 5, 3], [2, 10_000, 3], []], pa.list_(pa.int32()))
    runner = disturbed(folder, Disturbance)

    reasons = runner.predict(prepared_rows(rows)).reason.to_pylist()

    assert reasons[0] is None
    assert reasons[1].startswith("token id 10000 is outside of the model's vocabulary of ")
    assert reasons[2] == "there are no tokens"
    assert runner.engine.model.shapes == [(1, 3)]


def test_rows_longer_than_the_models_positions_never_reach_the_model(folder):
    rows = pa.array([[2, 5, 3], [5] * (NUM_POSITIONS + 1)], pa.list_(pa.int32()))

    reasons = load(folder).predict(prepared_rows(rows)).reason.to_pylist()

    assert reasons == [None, f"{NUM_POSITIONS + 1} tokens exceed the model's {NUM_POSITIONS}"]


def test_a_row_over_the_declared_budget_is_an_error_of_the_pipeline_file(folder, token_ids):
    with pytest.raises(SequenceTooLong, match=r"Raise inference\.token_budget to at least"):
        load(folder, token_budget=10).predict(prepared_rows(token_ids))


def test_a_broken_device_fails_the_run_and_blames_no_row(folder, token_ids):
    error = RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RunFailed, match="in a new process"):
        disturbed(folder, out_of_memory_above(0, error)).predict(prepared_rows(token_ids))


def test_stopping_happens_between_batches_and_leaves_the_runner_usable(folder, token_ids, undisturbed):
    runner = disturbed(folder, Disturbance)
    shapes = runner.engine.model.shapes

    with pytest.raises(Stopped):
        runner.predict(prepared_rows(token_ids), should_stop=lambda: len(shapes) == 2)

    assert len(shapes) == 2
    assert_same(runner.predict(prepared_rows(token_ids)), undisturbed)


def test_threads_that_share_a_runner_compute_one_shard_at_a_time(folder, token_ids):
    class Alone(Disturbance):
        inside = 0

        def before(self, _):
            self.inside += 1
            assert self.inside == 1

        def after(self, *_):
            self.inside -= 1

    runner = disturbed(folder, Alone)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(runner.predict(prepared_rows(token_ids)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [result.reason.null_count for result in results] == [len(token_ids)] * 4


@pytest.mark.slow
def test_a_process_loads_a_model_once_for_the_same_files_and_options(folder):
    pipeline = Pipeline.model_validate(
        {"name": "p", "dataset": {"path": "x", "text": "text"}, "model": {"path": str(folder)}}
    )
    spec, inference = declared(pipeline), Inference(device="cpu")
    loaded = []
    threads = [threading.Thread(target=lambda: loaded.append(load_runner(spec, inference))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(map(id, loaded))) == 1
    (folder / "config.json").touch()
    assert load_runner(spec, inference) is not loaded[0]
    with_all = dataclasses.replace(spec, all_scores=True)
    assert load_runner(with_all, inference).result_schema.names == ["label", "score", "scores"]


def test_lineage_tells_what_auto_came_to(folder):
    resolved = load(folder, device="auto", dtype="auto", token_budget="auto").resolved

    assert set(resolved) - {"auto"} == {
        "engine",
        "rewritten",
        "device",
        "device_name",
        "dtype",
        "token_budget",
        "torch",
    }
    assert resolved["dtype"] in ("float32", "bfloat16")
    assert "auto" not in resolved.values()


def test_a_device_that_is_not_there_is_named_with_those_that_are(folder):
    for device in ("cuda:99", "abacus"):
        with pytest.raises(ConfigError, match=rf'inference\.device = "{device}" .* Here: cpu'):
            load(folder, device=device)
