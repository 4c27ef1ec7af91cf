"""A page of a pipeline's history, the same keys whatever there is to tell; and the history itself, in SQL."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.commands import answer, tidemill, write_toml
from tests.pipelines import ROOT, make_pipeline, query, reviews, run, write_parquet
from tests.versions import compute_version
from tidemill.config import Pipeline
from tidemill.lake import Lake
from tidemill.lake.runs import RunRecord, record_run
from tidemill.planning.backfill_plan import Selection, plan_backfill, request_backfill, tranches
from tidemill.reports.status import pipeline_status
from tidemill.results.promotion import promote
from tidemill.running.backfill_run import BackfillRun

PAGE = (ROOT / "docs" / "commands" / "status.md").read_text()
QUERIES = re.findall(r"^```sql\n(.*?)^```", (ROOT / "docs" / "history.md").read_text(), flags=re.MULTILINE | re.DOTALL)
ROWS = 30


def make_files(folder: Path) -> None:
    for i in range(3):
        table = reviews(100 * i, ROWS)
        texts = pa.array([None, *table["text"].to_pylist()[1:]] if i == 0 else table["text"].to_pylist(), pa.string())
        write_parquet(folder / f"{i}.parquet", table.set_column(table.column_names.index("text"), "text", texts))


@pytest.fixture(scope="module")
def lived(tmp_path_factory) -> Pipeline:
    """A lake in which much has happened; the last backfill is open, with one of three shards done."""
    folder = tmp_path_factory.mktemp("lived")
    make_files(folder / "data")
    pipeline = make_pipeline(folder, f"{folder}/data/*", cost={"per_hour": 2.0})
    run(pipeline)
    write_parquet(folder / "data" / "2.parquet", reviews(700, ROWS))
    run(pipeline)
    shorter = make_pipeline(folder, f"{folder}/data/*", cost={"per_hour": 2.0}, tokenizer={"max_length": 8})
    version = compute_version(shorter)
    with Lake(pipeline.lake) as lake:
        promote(lake, "reviews", version)
        promote(lake, "reviews", run_version(pipeline))
        record_run(lake, RunRecord("killed", "reviews", kind="run", why="nightly"))
        backfill_id = request_backfill(lake, plan_backfill(pipeline, lake, Selection()), max_cost=5.0)
        [first, *_] = tranches(lake, backfill_id, 1)
    BackfillRun(pipeline, backfill_id, shards=first).execute()
    return pipeline


def run_version(pipeline: Pipeline) -> str:
    return str(query(pipeline.lake, "SELECT version FROM _versions ORDER BY created_at LIMIT 1")[0][0])


def toml_of(pipeline: Pipeline) -> tuple[Path, Path]:
    folder = Path(pipeline.store.path).parent
    path = write_toml(folder, pipeline.dataset.path)
    path.write_text(
        path.read_text()
        + f'\n[lake]\ncatalog = "{pipeline.lake.catalog}"\ndata = "{pipeline.lake.data}"\n[alerts]\nmax_age = 0.001\n'
    )
    return path, folder / "home"


def test_it_tells_what_is_done_open_and_in_quarantine(lived):
    status = pipeline_status(lived)
    assert status["shards"] == {"done": 3, "pending": 0, "outdated": 0, "unread_files": 0}
    assert (status["rows"], status["rows_quarantined"]) == (3 * ROWS - 1, 1)
    assert [reason["rows"] for reason in status["quarantine"]] == [1]
    assert [request["shards"] for request in status["open_requests"]] == [2]
    [backfill] = status["backfills"]
    assert backfill["backfill_id"] == status["open_requests"][0]["backfill_id"]
    assert (backfill["shards_done"], backfill["shards"], backfill["max_cost"]) == (1, 3, 5.0)
    assert backfill["cost"] > 0
    assert backfill["estimated_seconds_low"] < backfill["estimated_seconds"] < backfill["estimated_seconds_high"]


def test_it_tells_each_version_and_how_complete_it_is(lived):
    first, second = pipeline_status(lived)["versions"]
    assert (first["promoted"], second["promoted"]) == (True, False)
    assert (first["complete"], second["complete"], first["rows"]) == (True, True, 3 * ROWS - 1)


def test_throughput_and_padding_are_those_of_the_ledger(lived):
    [throughput] = pipeline_status(lived)["throughput"]
    [by_hand] = query(
        lived.lake,
        "SELECT device, sum(num_tokens) / sum(tokenize_seconds + infer_seconds), "
        "1 - sum(num_computed_tokens) / sum(num_padded_tokens) FROM _ledger l "
        "JOIN _pipelines p ON p.pipeline = l.pipeline AND p.promoted_version = l.version GROUP BY ALL",
    )
    assert [throughput[key] for key in ("device", "tokens_per_second", "padding_waste")] == pytest.approx(by_hand)


def test_it_tells_the_last_runs_and_which_of_them_were_killed(lived):
    runs = pipeline_status(lived)["runs"]
    assert [(r["kind"], r["state"], r["alive"]) for r in runs] == [
        ("backfill", "done", None),
        ("run", "running", False),
        ("promote", "done", None),
        ("promote", "done", None),
        ("backfill", "done", None),
    ]
    assert runs[0]["seconds"] > 0
    assert runs[0]["estimated_seconds"] > 0
    assert runs[0]["cost"] == pytest.approx(runs[0]["seconds"] / 3600 * 2.0)


def test_its_keys_are_the_same_without_a_lake_and_all_are_described(lived, tmp_path):
    nothing, full = pipeline_status(make_pipeline(tmp_path, "nowhere/*")), pipeline_status(lived)
    assert keys(nothing) == {key for key in keys(full) if "." not in key or nested(key, nothing)}
    described = set(re.findall(r"^\| `([a-z_.]+)`", PAGE, flags=re.MULTILINE))
    assert keys(full) <= described


def keys(facts: dict[str, Any]) -> set[str]:
    """The keys of a status; those of its lists' items and sections behind a dot. Runs have `_runs`' columns."""
    found = set(facts)
    for key, value in facts.items():
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict) and key != "runs":
            found |= {f"{key}.{name}" for name in inner}
    return found


def nested(key: str, facts: dict[str, Any]) -> bool:
    return isinstance(facts[key.partition(".")[0]], dict)


def test_the_command_answers_in_words_and_in_json(lived):
    toml, home = toml_of(lived)
    told = tidemill("status", toml, home=home)
    assert told.returncode == 0, told.stderr
    for said in ("3 done", "complete, promoted", "1/3 shards", "again, backfill", "killed", "% padding", "USD"):
        assert said in told.stdout, said
    assert "alerts.max_age" in told.stdout
    facts = answer("status", toml, home=home)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["freshness"]["age_seconds"] > facts["freshness"]["max_age_seconds"]


def test_without_a_lake_it_says_that_there_is_no_table_yet(tmp_path):
    told = tidemill("status", write_toml(tmp_path, "nowhere/*"), home=tmp_path / "home")
    assert (told.returncode, "no table yet. `tidemill run` makes it." in told.stdout) == (0, True)


@pytest.mark.parametrize("statement", QUERIES, ids=lambda statement: statement.splitlines()[0].removeprefix("-- "))
def test_a_query_of_the_history_page_has_an_answer(lived, statement):
    assert query(lived.lake, statement)
