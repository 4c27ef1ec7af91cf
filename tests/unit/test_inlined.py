"""Structs in the catalog of a lake of layout 2 come back as they were kept, or their shards are computed again."""

from __future__ import annotations

import datetime
from typing import Any

import pyarrow as pa
import pytest

from tests.lakes import PIPELINE, TABLE, commit_rows, kept_rows, lake_at, take_back_to_layout_2
from tidemill import config
from tidemill.lake import Lake
from tidemill.lake.ducklake.connection import CATALOG
from tidemill.results.migration.inlined import Undetermined, literal
from tidemill.results.migration.layouts import migrate
from tidemill.results.verify import verify_pipeline

PERSON = pa.struct(
    [
        ("name", pa.string()),
        ("day", pa.date32()),
        ("x", pa.float64()),
        ("raw", pa.binary()),
        ("tags", pa.list_(pa.string())),
        ("in's", pa.struct([("at", pa.timestamp("us", "UTC"))])),
        ("by", pa.map_(pa.string(), pa.float64())),
    ]
)
NOON = datetime.datetime(2020, 1, 2, 12, tzinfo=datetime.UTC)
PEOPLE: list[dict[str, Any] | None] = [
    {
        "name": 'O\'Brien \\ "q"',
        "day": datetime.date(2020, 1, 2),
        "x": float("nan"),
        "raw": b"\x00'\xff\\",
        "tags": ["a'b\\", "x]", None, ""],
        "in's": {"at": NOON},
        "by": [("k'1", -0.0)],
    },
    {"name": None, "day": None, "x": -0.0, "raw": b"", "tags": [], "in's": None, "by": None},
    None,
    {
        "name": "a\0b",
        "day": datetime.date(1, 1, 1),
        "x": float("-inf"),
        "raw": None,
        "tags": None,
        "in's": None,
        "by": [],
    },
]


def make_old_lake(spec: config.Lake, kept: pa.Table, sizes: list[int]) -> None:
    commit_rows(spec, kept, sizes, inlined=True)
    take_back_to_layout_2(spec)


@pytest.mark.slow
@pytest.mark.parametrize("catalog", ["sqlite", "postgres"])
def test_migrate_restores_what_the_catalog_holds(tmp_path, request, catalog):
    address = request.getfixturevalue("postgres_catalog") if catalog == "postgres" else None
    spec = lake_at(tmp_path, address)
    kept = pa.table({"who": pa.array(PEOPLE, PERSON), "id": list("wxyz"), "words": [["O'B"], None, [], ["\\"]]})
    make_old_lake(spec, kept, [2, 2])

    changes = migrate(spec).changes

    assert f"{TABLE}: restored the nested values of 4 rows from the catalog" in changes
    assert repr(kept_rows(spec, kept.column_names).to_pylist()) == repr(
        kept.cast(kept_rows(spec, kept.column_names).schema).to_pylist()
    )
    with Lake(spec, read_only=True) as lake:
        found = verify_pipeline(lake, PIPELINE)
        assert (found.problems, found.notes) == ([], [])
        inlined = f"SELECT count(*) FROM {CATALOG}.ducklake_inlined_data_tables JOIN {CATALOG}.ducklake_table t "
        assert lake.cursor().execute(f"{inlined} USING (table_id) WHERE t.table_name = '{TABLE}'").fetchall() != []


def test_a_shard_whose_values_the_text_does_not_tell_is_computed_again(tmp_path):
    spec = lake_at(tmp_path)
    said = pa.list_(pa.struct([("content", pa.string())]))
    kept = pa.table({"said": pa.array([[{"content": "a}b'"}], [{"content": "plain"}]], said)})
    shards = commit_rows(spec, kept, [1, 1], inlined=True)
    take_back_to_layout_2(spec)

    changes = migrate(spec).changes

    [taken_out] = [change for change in changes if "took out" in change]
    assert shards[0].shard_id in taken_out
    assert "tidemill run" in taken_out
    assert kept_rows(spec, ["said"]).to_pylist() == [{"said": [{"content": "plain"}]}]
    with Lake(spec, read_only=True) as lake:
        found = verify_pipeline(lake, PIPELINE)
        assert found.problems == []
        assert "shards pending: 1," in found.notes[0]


@pytest.mark.slow
def test_what_was_moved_into_a_file_is_lost_and_computed_again(tmp_path):
    spec = lake_at(tmp_path)
    kept = pa.table({"who": [{"name": "O'Brien"}] * 80})
    shards = commit_rows(spec, kept, [20, 60], inlined=True)
    with Lake(spec) as lake:
        flush = f"CALL ducklake_flush_inlined_data('lake', table_name => '{TABLE}')"
        lake.write(lambda cursor: cursor.execute(flush), message="flush")
    take_back_to_layout_2(spec)

    [taken_out] = [change for change in migrate(spec).changes if "took out" in change]

    assert shards[0].shard_id in taken_out
    assert kept_rows(spec, ["who"]).to_pylist() == [{"who": {"name": "O'Brien"}}] * 60


@pytest.mark.parametrize(
    "text", ["{'name': 'x'", "{'name': 'x'}}", "{'other': 'x'}", "{'name': }", "{'name': x('y')}", "x"]
)
def test_a_text_that_ducklake_does_not_write_means_nothing(text):
    with pytest.raises(Undetermined):
        literal(text, "STRUCT(name VARCHAR)")


@pytest.mark.slow
def test_new_rows_of_any_number_stay_out_of_the_catalog(tmp_path):
    """Also those of tables that are renamed or made beside, for the limit is the lake's own."""
    spec = lake_at(tmp_path)
    commit_rows(spec, pa.table({"who": pa.array(PEOPLE, PERSON)}), [1, 3])

    def body(cursor: Any) -> None:
        cursor.execute(f"CREATE TABLE {TABLE}__anew AS FROM {TABLE}")
        cursor.execute(f"ALTER TABLE {TABLE}__anew RENAME TO renamed")
        cursor.execute("INSERT INTO renamed SELECT * FROM renamed LIMIT 1")
        cursor.execute("UPDATE renamed SET label = 'x' WHERE row_number = 0")

    with Lake(spec) as lake:
        lake.write(body, message="make tables")
        tables = lake.cursor().execute(
            f"SELECT t.table_name, i.table_name FROM {CATALOG}.ducklake_inlined_data_tables i "
            f"JOIN {CATALOG}.ducklake_table t USING (table_id) WHERE NOT starts_with(t.table_name, '_')"
        )
        held = {
            table: lake.cursor().execute(f"SELECT count(*) FROM {CATALOG}.{name}").fetchall()
            for table, name in tables.fetchall()
        }
        assert all(count == [(0,)] for count in held.values()), held
        assert lake.cursor().execute("SELECT count(*) FROM renamed").fetchall() == [(5,)]
