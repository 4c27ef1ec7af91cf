"""Long e-mails, read in windows: from the pipeline file to the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.commands import answer, tidemill, write_toml
from tests.pipelines import ROOT, make_pipeline, problems_of, quarantine_of, query, run, table_of, write_parquet
from tests.versions import compute_version
from tidemill.config import Pipeline
from tidemill.lake import Lake
from tidemill.planning.backfill_plan import Selection, plan_backfill
from tidemill.planning.plan import make_plan
from tidemill.reports.compare import compare_versions
from tidemill.reports.sample import sample
from tidemill.results.promotion import promote

EMAILS = sorted((ROOT / "data" / "emails").glob("*.parquet"))
WINDOWS = {"max_length": 64, "long_text": "windows", "overlap": 8}
ROOM, STEP = 62, 54


def write_emails(path: Path, start: int, num_rows: int) -> None:
    """Real e-mails, long and short; one has no text."""
    table = pq.read_table(EMAILS[0]).slice(start, num_rows)
    texts = [text[:2000] for text in table["text"].to_pylist()]
    table = table.set_column(2, "text", [[*texts[:-1], None]])
    write_parquet(path, table)


def emails(folder: Path, *, keep: Sequence[str] = ("subject",), **tokenizer: object) -> Pipeline:
    return make_pipeline(
        folder,
        f"{folder}/data/*.parquet",
        dataset={"keep": list(keep)},
        tokenizer={**WINDOWS, **tokenizer},
        limits={"max_quarantine": 0.5},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_emails(tmp_path / "data" / "a.parquet", 0, 8)
    return tmp_path


def ledger(pipeline: Pipeline, version: str) -> list[tuple[Any, ...]]:
    return query(
        pipeline.lake,
        f"SELECT num_tokens, num_computed_tokens, tokenize_seconds FROM _ledger WHERE version = '{version}'",
    )


@pytest.mark.slow
def test_the_table_says_in_how_many_windows_a_text_was_read(folder):
    pipeline = emails(folder)

    result = run(pipeline)

    rows = table_of(pipeline).values()
    assert [list(row)[-3:] for row in rows] == [["num_windows", "num_tokens", "truncated"]] * 7
    for row in rows:
        num_text = row["num_tokens"] - 2
        assert row["num_windows"] == 1 + max(0, -(-(num_text - ROOM) // STEP))
        assert row["truncated"] is False
    assert max(row["num_windows"] for row in rows) > 5
    assert min(row["num_windows"] for row in rows) < 5
    read = sum(row["num_tokens"] + (row["num_windows"] - 1) * (2 + 8) for row in rows)
    assert ledger(pipeline, result.version)[0][:2] == (read, read)
    assert result.num_tokens == read
    assert list(quarantine_of(pipeline).values()) == [("ingest", "text is null")]
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_another_aggregate_is_another_version_that_tokenizes_nothing(folder):
    pipeline, largest = emails(folder), emails(folder, aggregate="max")
    first = run(pipeline).version
    tokens = {path: path.stat().st_mtime_ns for path in (folder / "store" / "tokens").iterdir()}
    with Lake(pipeline.lake) as lake:
        planned = plan_backfill(largest, lake, Selection()).estimate

    second = compute_version(largest)

    assert second != first
    assert {path: path.stat().st_mtime_ns for path in (folder / "store" / "tokens").iterdir()} == tokens
    assert ledger(pipeline, second)[0][:2] == ledger(pipeline, first)[0][:2]
    assert (ledger(pipeline, first)[0][2] > 0, ledger(pipeline, second)[0][2]) == (True, 0.0)
    assert planned.num_tokens == ledger(pipeline, first)[0][0]
    with Lake(pipeline.lake) as lake:
        compared = compare_versions(lake, "reviews", first, second)
        assert promote(lake, "reviews", second).state == "promoted"
    assert compared["differences"] == ["aggregate: mean → max"]
    assert compared["rows"]["compared"] == 7
    mean, most = compared["scores"]["score"]["signed"]["min"], compared["scores"]["score"]["signed"]["max"]
    assert mean >= 0 < most
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_versions_of_other_windows_are_compared_by_labels_and_scores_alone(folder):
    pipeline, wider = emails(folder), emails(folder, max_length=128)
    versions = run(pipeline).version, compute_version(wider)

    with Lake(pipeline.lake) as lake:
        compared = compare_versions(lake, "reviews", *versions)

    assert set(compared["labels"]) == {"label"}
    assert compared["differences"] == ["max_length: 64 → 128"]


@pytest.mark.slow
def test_a_table_without_windows_can_be_followed_by_one_with_them_and_back(folder):
    plain, pipeline = emails(folder, long_text="truncate", overlap="auto"), emails(folder)
    first = run(plain).version
    assert "num_windows" not in next(iter(table_of(plain).values()))

    with Lake(pipeline.lake) as lake:
        planned = plan_backfill(pipeline, lake, Selection()).estimate.num_tokens
    second = compute_version(pipeline)
    # What truncation left of the texts says nothing of their windows.
    assert planned > 2 * ledger(plain, first)[0][0]
    assert planned == pytest.approx(ledger(plain, second)[0][0], rel=0.5)
    with Lake(pipeline.lake) as lake:
        promote(lake, "reviews", second)
    assert "num_windows" in next(iter(table_of(plain).values()))
    kept = emails(folder, keep=["subject", "label as is"])
    assert run(kept).num_rewritten == 1
    assert all(row["num_windows"] and row["is"] for row in table_of(kept).values())
    assert problems_of(kept) == []
    with Lake(pipeline.lake) as lake:
        promote(lake, "reviews", first)
    assert "num_windows" not in next(iter(table_of(plain).values()))


@pytest.mark.slow
def test_a_plan_counts_the_tokens_of_windows_once_a_shard_was_measured(folder):
    pipeline = emails(folder)
    run(pipeline)
    write_emails(folder / "data" / "b.parquet", 8, 8)
    with Lake(pipeline.lake) as lake:
        planned = make_plan(pipeline, lake)[0].estimate.num_tokens

    assert planned == pytest.approx(run(pipeline).num_tokens, rel=0.35)


def test_a_pipeline_with_windows_is_tried_on_a_few_rows(folder):
    rows = sample(emails(folder), 3)

    assert [row["truncated"] for row in rows] == [False] * 3
    assert max(row["num_windows"] for row in rows) > 1
    assert all(row["label"] for row in rows)


def test_the_command_line_runs_and_asks_a_pipeline_with_windows(folder):
    toml, home = write_toml(folder, f"{folder}/data/*.parquet"), folder / "home"
    text = toml.read_text().replace('keep = ["rating"]', "")
    windows = '[tokenizer]\nlong_text = "windows"\nmax_length = 64\n[limits]\nmax_quarantine = 0.5\n'
    toml.write_text(text + windows)

    assert answer("run", toml, "--direct", home=home)["state"] == "done"
    found = answer("sql", toml, "SELECT num_windows, num_tokens, truncated FROM reviews", home=home)
    assert answer("verify", toml, home=home)["problems"] == []

    # Left to itself, the overlap is an eighth of 62 tokens: 7.
    assert [row["num_windows"] for row in found] == [1 + max(0, -(-(row["num_tokens"] - 64) // 55)) for row in found]
    refused = tidemill("plan", toml, "--set", "tokenizer.long_text=truncate", "--set", "tokenizer.overlap=4", home=home)
    assert refused.returncode == 2
    assert "tokenizer.overlap = 4: counts only with tokenizer.long_text" in refused.stderr
