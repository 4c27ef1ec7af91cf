"""A lake, its store and its data as an earlier Tidemill left them: nothing is computed again, or named otherwise."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines import ROOT, make_pipeline, problems_of, query, reviews, run, write_parquet
from tidemill.config import Pipeline
from tidemill.planning.plan import make_plan
from tidemill.results.migration.layouts import migrate

LEFT = ROOT / "tests" / "earlier" / "layout-4.tar.gz"
MODEL = ROOT / "data" / "models" / "tiny-sentiment"
COLUMNS = ("id", "domain", "rating", "label", "score", "num_tokens")


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """The folder into which it was unpacked, which is not where it was made."""
    with tarfile.open(LEFT) as archive:
        archive.extractall(tmp_path, filter="data")
    migrate(over(tmp_path, tmp_path).lake)
    return tmp_path


def over(left: Path, folder: Path, **sections: Any) -> Pipeline:
    return make_pipeline(folder, f"{left}/data/*.parquet", model={"path": str(MODEL)}, **sections)


def expected(left: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((left / "expected.json").read_text())
    return found


def test_a_run_computes_nothing_and_the_rows_are_the_same(left):
    pipeline = over(left, left)
    assert problems_of(pipeline) == []
    assert run(pipeline).num_shards == 0
    rows = query(pipeline.lake, f"SELECT {', '.join(COLUMNS)} FROM reviews ORDER BY id")
    assert [dict(zip(COLUMNS, row, strict=True)) for row in rows] == expected(left)["rows"]
    assert problems_of(pipeline) == []


def test_a_revision_with_one_changed_file_costs_that_file(left):
    pipeline = over(left, left)
    write_parquet(left / "data" / "1.parquet", reviews(500, 15))
    result = run(pipeline)
    assert (result.num_shards, result.num_rows, result.num_rows_removed) == (1, 15, 20)
    assert problems_of(pipeline) == []


def test_the_version_has_its_name_where_no_lake_remembers_it(left, tmp_path):
    plan, _ = make_plan(over(left, tmp_path / "elsewhere"), None)
    assert plan.version == expected(left)["version"]


def test_a_new_lake_on_the_old_store_tokenizes_nothing_again(left, tmp_path):
    tokens = left / "store" / "tokens"
    before = {path.name: path.stat().st_mtime_ns for path in tokens.iterdir()}
    pipeline = over(left, tmp_path / "elsewhere", store={"path": str(left / "store")})
    assert run(pipeline).num_shards == 3
    assert {path.name: path.stat().st_mtime_ns for path in tokens.iterdir()} == before
    assert sorted(before) == expected(left)["tokens"]
