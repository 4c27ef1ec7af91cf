"""A lake, its store and its data as an earlier Tidemill left them: nothing is computed again, or named otherwise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.earlier import ARCHIVES, expected, pipeline_over, quarantined, rows_of, unpack
from tests.pipelines import problems_of, reviews, run, write_parquet
from tests.prepared import Prepared
from tests.variants import variants
from tidemill.planning.plan import make_plan
from tidemill.results.migration.layouts import migrate


@pytest.fixture(
    scope="module",
    params=variants(ARCHIVES, ARCHIVES[:1]),
    ids=[archive.name.partition(".")[0] for archive in ARCHIVES],
)
def migrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("left")
    unpack(request.param, folder)
    migrate(pipeline_over(folder, folder, "reviews").lake)
    return Prepared(folder)


@pytest.fixture
def left(migrated: Prepared) -> Path:
    """The folder into which it was unpacked, which is not where it was made."""
    return migrated.put_back()


def test_a_run_computes_nothing_and_the_rows_are_the_same(left):
    for name, told in expected(left)["pipelines"].items():
        pipeline = pipeline_over(left, left, name)
        assert problems_of(pipeline) == [], name
        result = run(pipeline)
        assert (result.state, result.num_shards, result.version) == ("done", 0, told["version"])
        assert rows_of(pipeline, told["rows"][0]) == told["rows"], name
        assert quarantined(pipeline) == told.get("quarantine", []), name
        assert problems_of(pipeline) == [], name


@pytest.mark.slow
def test_a_revision_with_one_changed_file_costs_that_file(left):
    pipeline = pipeline_over(left, left, "reviews")
    before = len(rows_of(pipeline, ["id"]))
    write_parquet(left / "data" / "1.parquet", reviews(500, 15))
    result = run(pipeline)
    assert (result.num_shards, result.num_rows) == (1, 15)
    assert len(rows_of(pipeline, ["id"])) == before + 15 - result.num_rows_removed
    assert problems_of(pipeline) == []


def test_the_versions_have_their_names_where_no_lake_remembers_them(left, tmp_path):
    for name, told in expected(left)["pipelines"].items():
        plan, _ = make_plan(pipeline_over(left, tmp_path / "elsewhere", name), None)
        assert plan.version == told["version"], name


@pytest.mark.slow
def test_a_new_lake_on_the_old_store_reads_and_tokenizes_nothing_again_and_gives_the_same_rows(left, tmp_path):
    before = modified(left / "store")
    for name, told in expected(left)["pipelines"].items():
        pipeline = pipeline_over(left, tmp_path / "elsewhere", name, store={"path": str(left / "store")})
        assert run(pipeline).num_shards > 0
        assert same(rows_of(pipeline, told["rows"][0]), told["rows"]), name
        assert quarantined(pipeline) == told.get("quarantine", []), name
    assert modified(left / "store") == before
    assert sorted(name for kind, name in before if kind == "tokens") == expected(left)["tokens"]


def modified(store: Path) -> dict[tuple[str, str], int]:
    """When its files were written, but for predictions, which go when they are committed."""
    paths = [path for kind in ("rows", "tokens") for path in (store / kind).iterdir()]
    return {(path.parent.name, path.name): path.stat().st_mtime_ns for path in paths}


def same(found: Any, told: Any) -> bool:
    """Values within values, scores up to how another processor rounds them."""
    if isinstance(told, float):
        return math.isclose(found, told, abs_tol=1e-4)
    if isinstance(told, list):
        return len(found) == len(told) and all(map(same, found, told))
    if isinstance(told, dict):
        return found.keys() == told.keys() and all(same(found[name], value) for name, value in told.items())
    return bool(found == told)
