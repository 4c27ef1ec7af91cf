"""Files to table through a server that fails as it is told to."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.chat_server import CUT, RESET, Asked, ChatServer, Fails, completion
from tests.pipelines import make_pipeline, problems_of, quarantine_of, query, reviews, run, table_of, write_parquet
from tests.unit.test_endpoint import FakeClock
from tests.versions import compute_version
from tidemill.config import Pipeline
from tidemill.engines.writing.endpoint import writer
from tidemill.engines.writing.endpoint.pace import Pace
from tidemill.errors import RunFailed
from tidemill.lake import Lake
from tidemill.planning.backfill_plan import Selection
from tidemill.planning.plan import make_plan
from tidemill.reports.compare import compare_versions
from tidemill.reports.status import pipeline_status
from tidemill.results.promotion import promote

KEY = "sk-very-secret-0123456789"
NUM_ROWS = 30
HERE = {"engine": "endpoint", "dtype": "auto", "token_budget": "auto"}


@pytest.fixture(autouse=True)
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr(writer, "Pace", functools.partial(Pace, clock=clock, sleep=clock.sleep))


def over(
    server: ChatServer, folder: Path, *, model: str = "tiny", options: dict[str, Any] | None = None, **endpoint: Any
) -> Pipeline:
    if not (folder / "data").exists():
        for i in range(2):
            write_parquet(folder / "data" / f"{i}.parquet", reviews(100 * i, NUM_ROWS))
    return make_pipeline(
        folder,
        f"{folder}/data/*.parquet",
        model={"task": "text-generation", "path": model, "options": options or {}},
        inference=HERE | {"endpoint": {"base_url": server.url, "concurrency": 4, **endpoint}},
        limits={"max_quarantine": 0.5},
    )


def texts() -> list[str]:
    return [*reviews(0, NUM_ROWS)["text"].to_pylist(), *reviews(100, NUM_ROWS)["text"].to_pylist()]


def backwards(text: str) -> str:
    return " ".join(reversed(text.split()))


def written(pipeline: Pipeline) -> list[str]:
    return [row["text"] for _, row in sorted(table_of(pipeline).items())]


def now_and_then(asked: Asked) -> Fails | None:
    """Of each three prompts two fail once or twice, each kind in its turn."""
    kinds = [Fails(429, {"Retry-After": "3"}), Fails(500), CUT, RESET, Fails(503), Fails(408)]
    turn = sum(asked.prompt.encode())
    return kinds[(turn + asked.times) % len(kinds)] if asked.method == "POST" and asked.times <= turn % 3 else None


def test_no_row_is_lost_or_doubled_by_a_server_that_fails_now_and_then(tmp_path):
    with ChatServer(fails=now_and_then) as server:
        pipeline = over(server, tmp_path)
        assert run(pipeline).state == "done"
        assert len(server.prompts) > 2 * NUM_ROWS * 1.5
    assert written(pipeline) == [backwards(text) for text in texts()]
    assert quarantine_of(pipeline) == {}
    assert problems_of(pipeline) == []


def test_a_row_that_the_server_refuses_is_quarantined_and_tried_again_alone(tmp_path):
    refused = texts()[7]
    with ChatServer() as server:
        server.fails = lambda asked: Fails(400, message="too long") if asked.prompt == refused else None
        pipeline = over(server, tmp_path)
        result = run(pipeline)
        assert (result.num_rows, result.num_quarantined) == (2 * NUM_ROWS - 1, 1)
        ((_, row), (stage, reason)), *_ = quarantine_of(pipeline).items()
        assert (row, stage, reason) == (7, "infer", "the server refused it: it answered 400: too long")
        server.fails = lambda _: None
        server.asked.clear()
        compute_version(pipeline, Selection(quarantined=True))
        assert server.prompts == [refused]
    assert written(pipeline) == [backwards(text) for text in texts()]


@pytest.mark.slow
def test_a_second_run_asks_nothing_and_another_model_of_the_server_is_another_version(tmp_path):
    with ChatServer(models=("tiny", "other")) as server:
        pipeline = over(server, tmp_path)
        first = run(pipeline).version
        server.asked.clear()
        assert run(pipeline).num_rows == 0
        assert server.asked == []
        told = over(server, tmp_path, model="other", options={"system_prompt": "Be brief."})
        second = compute_version(told)
        posted = [asked.body for asked in server.asked if asked.method == "POST"]
        assert {(body["model"], body["messages"][0]["content"]) for body in posted} == {("other", "Be brief.")}
        with Lake(told.lake) as lake:
            compared = compare_versions(lake, told.name, first, second)
            assert promote(lake, told.name, second).state == "promoted"
        assert compared["rows"]["compared"] == 2 * NUM_ROWS
        assert "model: served:tiny → served:other" in compared["differences"]
        assert run(told).num_rows == 0
        assert pipeline_status(told)["promoted_version"] == second
    found = query(told.lake, "SELECT resolved->>'engine', resolved->'served'->>'root' FROM _ledger ORDER BY ALL")
    assert found == [("endpoint", "/models/other")] * 2 + [("endpoint", "/models/tiny")] * 2


def test_a_key_that_is_refused_in_mid_run_ends_it_and_stands_nowhere(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TIDEMILL_TEST_KEY", f"{KEY}\n")
    second = set(texts()[NUM_ROWS:])
    with ChatServer(key=KEY) as server:
        server.fails = lambda asked: Fails(401, message=f"No: {asked.key}") if asked.prompt in second else None
        pipeline = over(server, tmp_path, api_key="$TIDEMILL_TEST_KEY")
        with pytest.raises(RunFailed, match="Set the key in TIDEMILL_TEST_KEY"):
            run(pipeline)
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in content for content in kept)
    assert KEY not in caplog.text


@pytest.mark.slow
def test_a_server_that_keeps_to_no_schema_fills_no_column_with_what_is_not_of_it(tmp_path):
    schema = {"type": "object", "properties": {"stars": {"type": "integer", "maximum": 5}}, "required": ["stars"]}

    def judged(asked: Asked) -> Mapping[str, Any]:
        return completion(json.dumps({"stars": texts().index(asked.prompt) % 8}), chat=False)

    with ChatServer(answer=judged) as server:
        pipeline = over(server, tmp_path, options={"json_schema": schema})
        result = run(pipeline)
    counted = query(pipeline.lake, "SELECT stars, count(*) FROM reviews GROUP BY ALL ORDER BY ALL")
    assert counted == [(stars, 8 if stars < 4 else 7) for stars in range(6)]
    assert result.num_quarantined == 2 * NUM_ROWS - sum(number for _, number in counted)
    assert {reason.partition(" at ")[0] for _, reason in quarantine_of(pipeline).values()} == {
        "the answer is not as model.options.json_schema says"
    }


@pytest.mark.slow
def test_what_a_server_writes_around_a_choice_is_counted_and_planned(tmp_path):
    # As llama.cpp writes it: of 23 tokens, 2 are the choice.
    around = '{\n\n"answer"\n\n:\n\n"negative"\n\n}'
    said = completion(around, chat=False) | {"usage": {"prompt_tokens": 55, "completion_tokens": 23}}
    with ChatServer(answer=lambda _: said) as server:
        options = {"choices": ["positive", "negative"], "max_new_tokens": 4}
        pipeline = over(server, tmp_path, options=options)
        before = make_plan(pipeline, None)[0].to_json()
        result = run(pipeline)
        assert (result.num_rows, result.num_new_tokens) == (2 * NUM_ROWS, 2 * NUM_ROWS * 23)
        assert sorted(server.prompts) == sorted(texts())
        most = max(asked.body["max_tokens"] for asked in server.asked if asked.method == "POST")
        write_parquet(tmp_path / "data" / "2.parquet", reviews(200, NUM_ROWS))
        with Lake(pipeline.lake, read_only=True) as lake:
            told = make_plan(pipeline, lake)[0].to_json()
    assert {(row["text"], row["num_new_tokens"]) for row in table_of(pipeline).values()} == {("negative", 23)}
    assert before["new_tokens_high"] == 2 * NUM_ROWS * most
    assert told["new_tokens_low"] <= told["new_tokens"] == NUM_ROWS * 23 <= told["new_tokens_high"] <= NUM_ROWS * most
