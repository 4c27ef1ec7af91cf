"""A ledger row vouches for the values of its shard's rows: what changed them behind it is found by reading them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tests.lakes import PIPELINE, RESULTS, TABLE, VERSION, commit_rows, lake_at
from tests.prepared import Prepared
from tidemill import config
from tidemill.errors import InvariantBroken
from tidemill.lake import Lake, ResultTable
from tidemill.lake.checksums import METHOD, checksum_of_rows, fill_checksums, refuse_changed_rows
from tidemill.lake.data_files import note_files
from tidemill.lake.pipelines import Target
from tidemill.results.rewrite import finish_rewrite, start_rewrite
from tidemill.results.verify import CHANGED, Verification, verify_pipeline

KEPT = pa.table(
    {
        "name": ["a", "b", "c", "d"],
        "tags": pa.array([["x"], [], None, ["y", None]], pa.list_(pa.string())),
        "seen": pa.array([{"v": 1.5}, {"v": None}, None, {"v": -2.0}]),
    }
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, config.Lake]:
    folder = tmp_path_factory.mktemp("lake") / "made"
    folder.mkdir()
    spec = lake_at(folder)
    commit_rows(spec, KEPT, [2, 2])
    with Lake(spec) as lake:
        note_files(lake)
    return Prepared(folder), spec


@pytest.fixture
def spec(made: tuple[Prepared, config.Lake]) -> config.Lake:
    prepared, spec = made
    prepared.put_back()
    return spec


def write(spec: config.Lake, *statements: str) -> None:
    def body(cursor: Any) -> None:
        for statement in statements:
            cursor.execute(statement)

    with Lake(spec) as lake:
        lake.write(body, message="behind the ledger")


def verified(spec: config.Lake) -> Verification:
    with Lake(spec, read_only=True) as lake:
        return verify_pipeline(lake, PIPELINE)


def test_what_was_committed_is_vouched_for(spec):
    found = verified(spec)
    assert (found.problems, found.num_rows, found.num_shards) == ([], 4, 2)


@pytest.mark.parametrize(
    "change",
    [
        "name = 'z'",
        "tags = []",
        "seen = {'v': 1.25}",
        "seen = NULL",
        "score = score / 2",
        "label = 'b'",
        "truncated = true",
    ],
)
def test_a_value_that_changed_is_found_whatever_its_type(spec, change):
    write(spec, f"UPDATE {TABLE} SET {change} WHERE name = 'a'")
    found = verified(spec)
    [problem] = found.problems
    assert CHANGED in problem
    assert len(found.wrong_shards[VERSION]) == 1


@pytest.mark.slow
def test_values_that_were_exchanged_or_doubled_are_found(spec):
    exchange = f"UPDATE {TABLE} SET name = CASE name WHEN 'a' THEN 'b' WHEN 'b' THEN 'a' ELSE name END"
    write(spec, exchange)
    assert CHANGED in verified(spec).problems[0]
    write(spec, exchange, *2 * [f"INSERT INTO {TABLE} SELECT * FROM {TABLE} WHERE name = 'a'"])
    assert any(CHANGED in problem for problem in verified(spec).problems)


def test_rows_that_changed_are_not_taken_over_elsewhere(spec):
    write(spec, f"UPDATE {TABLE} SET name = 'z' WHERE name = 'a'")
    [wrong] = verified(spec).wrong_shards[VERSION]
    with Lake(spec) as lake, pytest.raises(InvariantBroken, match=f"{wrong}.*tidemill repair"):
        refuse_changed_rows(lake.cursor(), PIPELINE, VERSION, wrong)


def test_rows_that_changed_are_not_vouched_for_by_a_rewrite_that_could_not_read_them_anew(spec):
    write(spec, f"UPDATE {TABLE} SET name = 'z' WHERE name = 'a'")
    table = ResultTable(PIPELINE, VERSION, (("name", "VARCHAR"),), RESULTS)
    target = Target(PIPELINE, VERSION, "r1", "made-up", table, "other columns")
    with Lake(spec) as lake:
        unread = [shard_id for (shard_id,) in lake.cursor().execute("SELECT shard_id FROM _ledger").fetchall()]
        staging = start_rewrite(lake, target)
        with pytest.raises(InvariantBroken, match="tidemill repair"):
            finish_rewrite(lake, target, staging, [], unread)


@pytest.mark.slow
def test_a_checksum_of_another_release_of_duckdb_is_no_problem_and_can_be_made_anew(spec):
    write(spec, "UPDATE _ledger SET checksum = 1, checksum_by = 'duckdb 0.1.0'")
    found = verified(spec)
    assert found.problems == []
    assert any("2 shards without a checksum" in note for note in found.notes)
    with Lake(spec) as lake:
        assert lake.write(lambda cursor: fill_checksums(cursor, PIPELINE, VERSION), message="fill") == 2
        assert lake.write(lambda cursor: fill_checksums(cursor, PIPELINE, VERSION), message="fill") == 0
        assert lake.cursor().execute("SELECT DISTINCT checksum_by FROM _ledger").fetchall() == [(METHOD,)]
    assert (verified(spec).problems, verified(spec).notes) == ([], [])


def test_the_order_of_rows_does_not_matter(spec):
    columns = (("name", "VARCHAR"), ("tags", "VARCHAR[]"), ("seen", "STRUCT(v DOUBLE)"))
    with Lake(spec) as lake:
        cursor = lake.cursor()
        backwards = KEPT.take([3, 2, 1, 0])
        assert checksum_of_rows(cursor, columns, backwards) == checksum_of_rows(cursor, columns, KEPT)
        assert checksum_of_rows(cursor, columns, KEPT.slice(0, 0)) == 0
