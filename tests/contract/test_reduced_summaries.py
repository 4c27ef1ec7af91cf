"""Long texts whose windows' summaries are summarised again, beside `model.generate` of one window at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.encoder_decoders import write_encoder_decoder
from tests.pipelines import make_pipeline, problems_of, quarantine_of, query, reviews, run, table_of
from tests.services import serving
from tidemill.app.trying import Trying
from tidemill.config import Pipeline
from tidemill.errors import CostReached, ModelError, Stopped
from tidemill.inference.opening import load_decoder, load_preparer, load_runner
from tidemill.inference.rounds import predict_in_rounds
from tidemill.inference.work import Predictions
from tidemill.planning.cost_limit import CostLimit
from tidemill.planning.plan import make_plan
from tidemill.reports.bottleneck import find_bottleneck
from tidemill.reports.sample import sample

NUM_NEW, MAX_LENGTH = 3, 24
TEXTS = [" ".join(reviews(20 * i, 5)["text"].to_pylist())[:length] for i, length in enumerate((15, 60, 120, 250, 450))]
"""The first fits; the last has some twenty windows, so that their summaries have several again."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reduced")
    write_encoder_decoder(folder / "model", "t5")
    (folder / "data").mkdir()
    pq.write_table(pa.table({"text": [*TEXTS, ""]}), folder / "data" / "texts.parquet")
    return folder


def summaries(folder: Path, at: str, *, max_new_tokens: int = NUM_NEW, **sections: Any) -> Pipeline:
    return make_pipeline(
        folder / at,
        f"{folder}/data/*",
        dataset={"key": [], "keep": []},
        model={
            "task": "summarization",
            "path": f"{folder}/model",
            "options": {"reduce": True, "max_new_tokens": max_new_tokens},
        },
        tokenizer={"max_length": MAX_LENGTH, "long_text": "windows"},
        inference={"engine": "torch", "token_budget": MAX_LENGTH + max_new_tokens},
        limits={"max_quarantine": 1.0},
        cost={"per_hour": 3600.0},
        **sections,
    )


def by_generate(folder: Path, text: str) -> tuple[str, int, int, int]:
    """The last summary, the tokens that were read and written, and in how many rounds."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForSeq2SeqLM.from_pretrained(folder / "model").eval()
    num_read = num_written = num_rounds = 0
    while True:
        num_rounds += 1
        ids = tokenizer(text, max_length=MAX_LENGTH, truncation=True, return_overflowing_tokens=True)["input_ids"]
        answers = []
        for window in ids:
            made = model.generate(tensor(window), max_new_tokens=NUM_NEW, do_sample=False)[0, 1:].tolist()
            answers.append(tokenizer.decode(made, skip_special_tokens=True))
            num_read, num_written = num_read + len(window), num_written + len(made)
        text = "\n".join(answers)
        if len(ids) == 1:
            return text, num_read, num_written, num_rounds


def tensor(ids: list[int]) -> Any:
    import torch

    return torch.tensor([ids])


def of_table(pipeline: Pipeline) -> list[tuple[str, int, int]]:
    names = ("summary_text", "num_prompt_tokens", "num_new_tokens")
    return [tuple(row[name] for name in names) for _, row in sorted(table_of(pipeline).items())]


@pytest.fixture(scope="module")
def wanted(folder: Path) -> list[tuple[str, int, int, int]]:
    return [by_generate(folder, text) for text in TEXTS]


@pytest.fixture(scope="module")
def summarised(folder: Path) -> tuple[Pipeline, Any]:
    pipeline = summaries(folder, "one")
    return pipeline, run(pipeline)


def test_the_windows_summaries_are_summarised_until_one_is_left(summarised, wanted):
    pipeline, result = summarised
    assert of_table(pipeline) == [each[:3] for each in wanted]
    assert {rounds for *_, rounds in wanted} >= {1, 2, 3}
    assert {number: reason for (_, number), reason in quarantine_of(pipeline).items()} == {
        len(TEXTS): ("tokenize", "the text is empty")
    }
    assert result.num_new_tokens == sum(each[2] for each in wanted)
    assert query(pipeline.lake, "SELECT sum(num_new_tokens)::BIGINT FROM _ledger") == [(result.num_new_tokens,)]
    assert problems_of(pipeline) == []
    assert run(pipeline).num_shards == 0


@pytest.mark.slow
def test_a_sample_a_typed_row_and_the_service_answer_as_the_table(summarised, wanted):
    pipeline, _ = summarised
    spec = make_plan(pipeline, None)[0].spec
    expected = [each[0] for each in wanted]
    assert [row["summary_text"] for row in sample(pipeline, len(TEXTS))] == expected
    assert [Trying(pipeline).row(spec, {"text": text}).results["summary_text"] for text in TEXTS] == expected
    with serving(pipeline) as served:
        assert [row["summary_text"] for row in served.predict(TEXTS)] == expected


@pytest.mark.slow
def test_bench_measures_what_the_model_reads_in_all_rounds(summarised, wanted):
    facts = find_bottleneck(summarised[0], num_rows=len(TEXTS))
    infer = next(stage for stage in facts["stages"] if stage["stage"] == "infer")
    assert infer["tokens_per_second"] * infer["seconds"] == pytest.approx(sum(each[1] for each in wanted))
    assert infer["tokens_per_second"] * infer["seconds"] > facts["num_tokens"]


def test_a_first_round_is_never_taken_for_the_answers(opened):
    _, preparer, runner = opened
    prepared = preparer.prepare(pa.table({"text": TEXTS}))
    with pytest.raises(TypeError, match="give its preparer"):
        runner.predict(prepared)


def test_a_run_that_was_stopped_between_rounds_goes_on_and_answers_the_same(folder, monkeypatch):
    expected, disturbed = summaries(folder, "undisturbed"), summaries(folder, "disturbed")
    asked: list[int] = []
    most = 10**9

    def reach(limit: CostLimit) -> None:
        asked.append(1)
        if len(asked) > most:
            raise CostReached("no more")

    with monkeypatch.context() as patch:
        patch.setattr(CostLimit, "check_spent", reach)
        whole = run(expected, max_cost=1000.0)
        most = len(asked) * 9 // 10  # when the windows of the first round are written
        asked.clear()
        assert run(disturbed, max_cost=1000.0).state == "stopped"
    gone_on = run(disturbed)
    assert of_table(disturbed) == of_table(expected)
    tokens = "SELECT sum(num_computed_tokens)::BIGINT FROM _ledger"
    assert query(disturbed.lake, tokens) < query(expected.lake, tokens)
    assert gone_on.num_rows == whole.num_rows


@pytest.fixture(scope="module")
def opened(folder: Path) -> tuple[Any, Any, Any]:
    plan, _ = make_plan(summaries(folder, "opened"), None)
    return load_decoder(plan.spec), load_preparer(plan.spec), load_runner(plan.spec, summaries(folder, "x").inference)


@pytest.mark.slow
@pytest.mark.parametrize("num_calls", [0, 1, 2])
def test_what_was_kept_before_a_stop_is_all_that_the_next_attempt_need_not_write(opened, num_calls):
    task, preparer, runner = opened
    prepared = preparer.prepare(pa.table({"text": TEXTS}))
    kept: list[Predictions] = []
    calls: list[int] = []

    def predict(rows: pa.Table, keep: Any) -> Predictions:
        if len(calls) == num_calls:
            raise Stopped("enough")
        calls.append(rows.num_rows)
        return runner.predict_round(rows)

    def attempt(most: int, begun: pa.Array | None) -> Predictions:
        nonlocal num_calls
        num_calls = most
        return predict_in_rounds(
            prepared, lambda: task, preparer=preparer, predict=predict, begun=begun, keep=kept.append
        )

    with pytest.raises(Stopped):
        attempt(num_calls, None)
    first = list(calls)
    begun = together(kept, prepared.num_rows)
    calls.clear()
    resumed = attempt(99, begun)
    second = list(calls)
    calls.clear()
    whole = attempt(99, None)
    assert resumed.columns == whole.columns
    assert resumed.written == whole.written
    assert first + second == calls


def together(kept: list[Predictions], num_rows: int) -> pa.Array | None:
    """As the store has it: of each row what was kept last."""
    last: list[Any] = [None] * num_rows
    written = [each.written for each in kept if each.written is not None]
    for each in written:
        last = [new or old for new, old in zip(each.to_pylist(), last, strict=True)]
    return pa.array(last, written[0].type) if written else None


@pytest.mark.slow
def test_a_text_whose_summaries_get_no_shorter_is_in_quarantine_and_says_what_to_change(folder):
    pipeline = summaries(folder, "long", max_new_tokens=40)
    run(pipeline)
    reasons = {number: reason for (_, number), (_, reason) in quarantine_of(pipeline).items()}
    assert 4 in reasons
    assert "lower model.options.max_new_tokens, or raise tokenizer.max_length" in reasons[4]
    assert problems_of(pipeline) == []


def test_summaries_of_summaries_are_of_texts_in_windows(folder):
    pipeline = summaries(folder, "cut")
    pipeline = pipeline.model_copy(
        update={"tokenizer": pipeline.tokenizer.model_copy(update={"long_text": "truncate"})}
    )
    with pytest.raises(ModelError, match=r'Set tokenizer\.long_text = "windows", or leave it out'):
        make_plan(pipeline, None)
