"""What leaves the versions that nobody looks at: shards that the target revision does not list any more."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tests.lakes import PIPELINE, TABLE, VERSION, ask_for_rows, lake_at
from tidemill.lake import Lake
from tidemill.results.commit import commit_shards
from tidemill.results.retirement import retire_elsewhere

OTHER = "9f8e7d6c"
LEFT = f"SELECT (SELECT list(path ORDER BY path) FROM _ledger WHERE version = ?), (SELECT count(*) FROM {TABLE})"


@pytest.mark.parametrize("working", [OTHER, VERSION])
def test_only_versions_that_are_neither_promoted_nor_worked_on_lose_what_is_not_listed_any_more(tmp_path, working):
    """The version of the lake's rows is promoted; the other one has the same shards, of which one is listed no more."""
    with Lake(lake_at(tmp_path)) as lake:
        target, items = ask_for_rows(lake, pa.table({"id": pa.array(range(4), pa.int64())}), [2, 2])
        commit_shards(lake, target, items)

        def body(cursor):
            cursor.execute(f"CREATE TABLE {PIPELINE}__{OTHER} AS FROM {TABLE}")
            cursor.execute(f"INSERT INTO _ledger SELECT * REPLACE ('{OTHER}' AS version) FROM _ledger")
            for listed in ("_files", "_shards"):
                cursor.execute(f"UPDATE {listed} SET until = since + 1 WHERE path = 'part-1'")
            retire_elsewhere(cursor, PIPELINE, working)

        lake.write(body, message="another version")
        stays = ["part-0", "part-1"] if working == OTHER else ["part-0"]
        assert lake.cursor().execute(LEFT, [OTHER]).fetchall() == [(stays, 4)]
        assert lake.cursor().execute(LEFT, [VERSION]).fetchall() == [(["part-0", "part-1"], 4)]
