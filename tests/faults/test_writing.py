"""A model that writes, through kills, changed files, bad rows and another prompt."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.pipelines import (
    assert_same_tables,
    make_pipeline,
    problems_of,
    quarantine_of,
    query,
    reviews,
    run,
    table_of,
    write_parquet,
)
from tests.prepared import Prepared
from tests.processes import Process, run_in_process
from tests.tiny_writers import write_gpt2
from tests.versions import compute_version
from tidemill.cli.comparison import comparison
from tidemill.config import Pipeline
from tidemill.lake import Lake
from tidemill.planning.backfill_plan import Selection, plan_backfill
from tidemill.reports.compare import compare_versions
from tidemill.results.promotion import promote

SEED = 11
NUM_ROWS, NUM_FILES = 8, 3
EMPTY_ROW = 2
NUM_NEW = 4
"""So few that some answers end by themselves and others there."""


def rows_of(file: int) -> pa.Table:
    """The first of them has a row without any text."""
    rows = reviews(30 * file, NUM_ROWS).to_pydict()
    rows["text"] = [" ".join(text.split()[:12]) for text in rows["text"]]
    if file == 0:
        rows["text"][EMPTY_ROW] = ""
    return pa.table(rows)


def writer(folder: Path, at: str = "one", *, prompt: str = "the {text}", **options: Any) -> Pipeline:
    return make_pipeline(
        folder / at,
        f"{folder}/data/*",
        model={
            "task": "text-generation",
            "path": f"{folder}/model",
            "options": {"prompt": prompt, "max_new_tokens": NUM_NEW, **options},
        },
        inference={"engine": "torch", "token_budget": "auto"},
        limits={"max_quarantine": 0.5},
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("written")
    write_gpt2(folder / "model")
    for i in range(NUM_FILES):
        write_parquet(folder / "data" / f"{i}.parquet", rows_of(i))
    run(writer(folder))
    return Prepared(folder)


@pytest.fixture
def folder(done: Prepared) -> Path:
    """Has files in `data`, and a lake, `one`, into which they were written."""
    return done.put_back()


def test_each_row_has_what_generate_writes_behind_its_prompt_alone_and_a_second_run_writes_nothing(folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pipeline = writer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    table = table_of(pipeline)
    assert len(table) == NUM_FILES * NUM_ROWS
    for (path, number), row in table.items():
        text = rows_of(int(Path(path).stem))["text"][number].as_py()
        prompt = tokenizer(f"the {text}", return_tensors="pt")["input_ids"]
        alone = model.generate(prompt, max_new_tokens=NUM_NEW, do_sample=False)[0, prompt.shape[1] :].tolist()
        assert row["text"] == tokenizer.decode(alone, skip_special_tokens=True)
        assert (row["num_prompt_tokens"], row["num_new_tokens"]) == (prompt.shape[1], len(alone))
    assert {row["finish_reason"] for row in table.values()} == {"stop", "length"}

    again = run(pipeline)
    assert (again.num_shards, again.num_tokens) == (0, 0)
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_of_a_changed_file_only_the_changed_row_is_written_again(folder):
    pipeline = writer(folder)
    before = table_of(pipeline)
    rows = rows_of(1).to_pydict()
    rows["text"][4] = "It was never there."
    write_parquet(folder / "data" / "1.parquet", pa.table(rows))

    result = run(pipeline)

    assert (result.num_rows, result.num_unchanged) == (NUM_ROWS, NUM_ROWS - 1)
    changed = {place for place, row in table_of(pipeline).items() if row["text"] != before[place]["text"]}
    assert [number for _, number in changed] == [4]
    fresh = writer(folder, "fresh")
    run(fresh)
    assert_same_tables(pipeline, fresh)


@pytest.mark.slow
def test_a_row_without_a_prompt_is_in_quarantine_alone_and_computed_once_it_has_one(folder):
    pipeline = writer(folder, "bare", prompt="{text}")
    run(pipeline)
    assert [(number, stage) for (_, number), (stage, _) in quarantine_of(pipeline).items()] == [(EMPTY_ROW, "tokenize")]

    rows = rows_of(0).to_pydict()
    rows["text"][EMPTY_ROW] = "the dog"
    write_parquet(folder / "data" / "0.parquet", pa.table(rows))
    result = run(pipeline)

    assert (result.num_quarantined, result.num_unchanged) == (0, NUM_ROWS - 1)
    assert quarantine_of(pipeline) == {}
    assert problems_of(pipeline) == []


def test_tokens_that_were_counted_under_another_prompt_are_not_taken_for_this_one_s(folder):
    same = writer(folder, max_new_tokens=NUM_NEW - 1)
    longer = writer(folder, prompt="the king of the house of the king of the house, {text}")
    with Lake(same.lake, read_only=True) as lake:
        counted = query(same.lake, "SELECT sum(num_tokens)::BIGINT FROM _ledger")[0][0]
        tokens = [plan_backfill(each, lake, Selection()).estimate.num_tokens for each in (same, longer)]
    assert tokens[0] == counted
    assert tokens[1] != counted


@pytest.mark.slow
def test_another_prompt_is_another_version_and_both_are_shown_side_by_side(folder):
    pipeline = writer(folder)
    other = writer(folder, prompt="the king, {text}")
    first = query(pipeline.lake, "SELECT version FROM _versions")
    second = compute_version(other)
    assert [(second,)] != first
    with Lake(pipeline.lake, read_only=True) as lake:
        compared = compare_versions(lake, pipeline.name, first[0][0], second)
    texts = compared["texts"]["text"]
    assert texts["same"] + texts["different"] == NUM_FILES * NUM_ROWS
    assert texts["different"] > 0
    assert f"text {first[0][0]}" in comparison(compared)
    before = table_of(pipeline)
    with Lake(pipeline.lake) as lake:
        promote(lake, other.name, second)
    assert table_of(pipeline) != before
    with Lake(pipeline.lake) as lake:
        promote(lake, other.name, first[0][0])
    assert table_of(pipeline) == before


@pytest.mark.parametrize("num_kills", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_a_run_killed_while_a_model_writes_is_completed_by_the_next(folder, num_kills):
    expected = writer(folder)
    draw = random.Random(SEED)
    started = time.monotonic()
    Process(run_in_process, writer(folder, "timed"), folder / "home").result()
    duration = time.monotonic() - started
    for attempt in range(num_kills):
        disturbed = writer(folder, f"disturbed-{attempt}")
        process = Process(run_in_process, disturbed, folder / "home")
        time.sleep(draw.uniform(0.0, duration))
        process.kill()
        assert Process(run_in_process, disturbed, folder / "home").result()["state"] == "done"
        assert problems_of(disturbed) == []
        assert_same_tables(disturbed, expected)
