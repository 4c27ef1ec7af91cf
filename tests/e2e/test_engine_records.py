"""What an engine could not do is in the run's record, and never silently other numbers."""

from __future__ import annotations

import json

import pytest

from tests.pipelines import make_pipeline, reviews, run, table_of, write_parquet
from tidemill.cli import render
from tidemill.engines.contest import trial
from tidemill.errors import LimitExceeded
from tidemill.inference import runner
from tidemill.lake import Lake
from tidemill.planning.plan import make_plan


@pytest.fixture
def dataset(tmp_path):
    write_parquet(tmp_path / "data" / "a.parquet", reviews(0, 40))
    write_parquet(tmp_path / "data" / "b.parquet", reviews(40, 40))
    return f"{tmp_path}/data/*.parquet"


def ask(pipeline, query):
    with Lake(pipeline.lake, read_only=True) as lake:
        return lake.cursor().execute(query).fetchall()


@pytest.mark.slow
def test_a_fallback_to_torch_is_in_the_runs_message_and_in_the_ledger(tmp_path, dataset, monkeypatch):
    def convert_model(*_, **__):
        raise RuntimeError("No conversion rule for aten::mystery")

    monkeypatch.setattr("tidemill.engines.openvino_engine.ov.convert_model", convert_model)
    pipeline = make_pipeline(tmp_path, dataset, inference={"engine": "auto", "token_budget": 2_000})

    result = run(pipeline)

    assert result.state == "done"
    [note] = result.notes
    assert note.startswith("OpenVINO cannot take the model, so torch computes it: No conversion rule")
    assert ask(pipeline, "SELECT message FROM _runs") == [(note,)]
    assert ask(pipeline, "SELECT DISTINCT resolved->>'engine', resolved->>'fallback' FROM _ledger") == [("torch", note)]


def test_a_contest_is_in_the_runs_message_and_what_it_found_with_every_shard_of_later_runs_too(
    tmp_path, dataset, monkeypatch
):
    monkeypatch.setattr(runner, "WORTH_A_CONTEST_TOKENS", 1)
    monkeypatch.setattr(trial, "ENOUGH_SECONDS", 0.0)
    # A budget of its own, so that no runner of another test is taken for it.
    inference = {"engine": "auto", "dtype": "float32", "token_budget": 2_001}
    pipeline = make_pipeline(tmp_path, dataset, inference=inference)

    [note] = run(pipeline).notes
    write_parquet(tmp_path / "data" / "c.parquet", reviews(80, 10))
    with Lake(pipeline.lake, read_only=True) as lake:
        planned = make_plan(pipeline, lake)[0].to_json()
    assert run(pipeline).notes == []

    assert [message for (message,) in ask(pipeline, "SELECT message FROM _runs ORDER BY started_at")] == [note, None]
    found = "SELECT resolved->>'engine', resolved->'auto'->>'tokens_per_second' FROM _ledger"
    [first, *others] = ask(pipeline, found)
    assert others == [first, first]
    assert f"{first[0]} float32 computes." in note
    speeds = json.loads(first[1])
    assert set(speeds) == {"openvino float32", "torch float32"}
    assert planned["auto"]["tokens_per_second"] == speeds
    assert f"auto takes {first[0]} float32, by trial: " in render.plan(planned)


@pytest.mark.soak
def test_int8_within_its_bound_has_its_drift_in_the_ledger(tmp_path, dataset):
    exact = make_pipeline(tmp_path / "exact", dataset)
    pipeline = make_pipeline(
        tmp_path / "int8", dataset, inference={"engine": "auto", "dtype": "int8", "max_drift": 0.9}
    )

    assert run(pipeline).state == run(exact).state == "done"

    [(drift, same_label)] = ask(
        pipeline,
        "SELECT DISTINCT CAST(resolved->'int8'->>'drift_p99' AS DOUBLE), "
        "CAST(resolved->'int8'->>'same_label' AS DOUBLE) FROM _ledger",
    )
    quantized, true = table_of(pipeline), table_of(exact)
    differences = [abs(row["score"] - true[place]["score"]) for place, row in quantized.items()]
    assert max(differences) > 0
    assert 0 < drift < 0.9
    assert 0.5 < same_label <= 1


@pytest.mark.slow
def test_int8_beyond_its_bound_ends_the_run_before_a_row_is_kept(tmp_path, dataset):
    pipeline = make_pipeline(tmp_path, dataset, inference={"engine": "auto", "dtype": "int8", "max_drift": 1e-6})

    with pytest.raises(LimitExceeded, match="scores drift by"):
        run(pipeline)

    assert ask(pipeline, "SELECT count(*) FROM _ledger") == [(0,)]
    [(state, message)] = ask(pipeline, "SELECT state, message FROM _runs")
    assert state == "failed"
    assert "more than inference.max_drift = 1e-06" in message
