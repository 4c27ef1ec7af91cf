"""Results as files: every format has the rows and columns of one snapshot, and replaces what was there whole."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from tests.lakes import PIPELINE, TABLE, commit_rows, lake_at
from tests.pipelines import MODEL
from tidemill.config import Pipeline
from tidemill.errors import ConfigError, InputError, LakeError
from tidemill.lake import Lake
from tidemill.publishing.export import export
from tidemill.results.promotion import existing_state

VIEW = f'"{PIPELINE}"'
KEPT = pa.table(
    {
        "id": ["a", "b", 'c "quoted", with a comma'],
        "domain": ["books", "films", "books"],
        "tags": [["x", "y"], [], None],
        "moment": pa.array([0, 1, None], pa.timestamp("us", "UTC")),
    }
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("lake")
    spec = lake_at(folder)
    commit_rows(spec, KEPT, [2, 1])
    with Lake(spec) as lake:
        lake.write(lambda cursor: cursor.execute(f"CREATE OR REPLACE VIEW {VIEW} AS FROM {TABLE}"), message="view")
    return Pipeline.model_validate(
        {
            "name": PIPELINE,
            "lake": spec.model_dump(),
            "dataset": {"path": "x.csv", "text": "text"},
            "model": {"path": str(MODEL)},
        }
    )


def read(file: Path) -> list[tuple[object, ...]]:
    with duckdb.connect() as reader:
        return reader.execute(f"SELECT id, domain, label FROM '{file}' ORDER BY id").fetchall()


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_file_of_each_format_has_the_rows_of_the_table(pipeline, tmp_path, suffix):
    file = tmp_path / f"values.{suffix}"
    done = export(pipeline, file)

    assert read(file) == [(row["id"], row["domain"], "POSITIVE") for row in KEPT.to_pylist()]
    assert (done.num_rows, done.num_files, done.num_bytes) == (3, 1, file.stat().st_size)
    assert list(tmp_path.iterdir()) == [file]


def test_parquet_keeps_types_and_csv_has_lists_as_json(pipeline, tmp_path):
    for suffix in ("parquet", "csv"):
        export(pipeline, tmp_path / f"v.{suffix}", query=f"SELECT id, tags, moment FROM {VIEW} ORDER BY id")

    schema = pq.read_schema(tmp_path / "v.parquet")
    assert (str(schema.field("tags").type), str(schema.field("moment").type)) == (
        "list<element: string>",
        "timestamp[us, tz=UTC]",
    )
    assert (tmp_path / "v.csv").read_text().splitlines()[1].startswith('a,"[""x"",""y""]",')


def test_a_database_has_a_table_of_the_pipelines_name(pipeline, tmp_path):
    export(pipeline, tmp_path / "values.duckdb")

    with duckdb.connect(str(tmp_path / "values.duckdb"), read_only=True) as copy:
        assert copy.execute(f"SELECT count(*), sum(len(tags)) FROM {VIEW}").fetchall() == [(3, 2)]
    assert [path.name for path in tmp_path.iterdir()] == ["values.duckdb"]


def test_a_folder_has_a_folder_for_each_value_and_is_replaced_whole(pipeline, tmp_path):
    folder = tmp_path / "by-domain"
    export(pipeline, folder, by="domain", query=f"FROM {VIEW} WHERE domain = 'films'")
    done = export(pipeline, folder, by="domain", query=f"FROM {VIEW} WHERE domain = 'books'")

    assert [path.name for path in folder.iterdir()] == ["domain=books"]
    assert pads.dataset(folder, partitioning="hive").to_table(["id", "domain"]).num_rows == done.num_rows == 2


def test_columns_of_one_name_are_numbered(pipeline, tmp_path):
    done = export(pipeline, tmp_path / "v.jsonl", query="SELECT 1 AS n, 2 AS n -- twice")

    assert done.columns == ("n", "n_1")
    assert json.loads((tmp_path / "v.jsonl").read_text()) == {"n": 1, "n_1": 2}


def test_what_an_export_that_fails_would_have_replaced_stays(pipeline, tmp_path):
    file = tmp_path / "v.csv"
    file.write_text("mine")
    with pytest.raises(InputError, match="Conversion Error"):
        export(pipeline, file, query=f"SELECT id::INTEGER AS id FROM {VIEW}")

    assert file.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("v.xlsx", {}, r"v\.xlsx says no format that is known\. End it with \.parquet, .*--by COLUMN"),
        ("v", {}, "says no format"),
        ("v.csv", {"by": "domain"}, r"named as a file\. Leave \.csv out"),
        ("v", {"by": "nothing"}, "no column nothing for --by. There are: id, domain"),
        ("absent/v.csv", {}, "There is no folder .*absent"),
        ("mine", {"by": "domain"}, "a folder that no export made"),
        ("mine.csv", {}, "a folder that no export made"),
        ("v.csv", {"query": "DROP TABLE x"}, "only reads"),
        ("v.csv", {"query": "SELECT 1; SELECT 2"}, "one statement"),
        ("v.csv", {"query": "FROM 'other.parquet'"}, "reads files"),
    ],
)
def test_what_cannot_be_exported_is_one_message_and_nothing_is_written(pipeline, tmp_path, name, options, said):
    for folder in ("mine", "mine.csv"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=said):
        export(pipeline, tmp_path / name, **options)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mine.csv"]


def test_a_place_within_the_lakes_data_is_refused(pipeline):
    with pytest.raises(ConfigError, match=r"within lake\.data"):
        export(pipeline, Path(pipeline.lake.data) / "v.parquet")


def test_a_pipeline_that_never_ran_has_nothing_to_export(pipeline, tmp_path):
    with pytest.raises(LakeError, match="no pipeline other"):
        export(pipeline.model_copy(update={"name": "other"}), tmp_path / "v.csv")


def test_a_commit_in_the_middle_is_not_half_in_the_file(pipeline, tmp_path, monkeypatch):
    """Another writer commits between two reads of the same export: both see the first snapshot."""

    def commit_meanwhile(cursor, name):
        found = existing_state(cursor, name)
        with Lake(pipeline.lake) as writer:
            writer.write(lambda c: c.execute(f"INSERT INTO {TABLE} SELECT * FROM {TABLE} LIMIT 1"), message="more")
        return found

    monkeypatch.setattr("tidemill.publishing.export.existing_state", commit_meanwhile)
    try:
        assert export(pipeline, tmp_path / "v.parquet").num_rows == 3
    finally:
        with Lake(pipeline.lake) as writer:
            writer.write(
                lambda c: c.execute(f"DELETE FROM {TABLE} WHERE rowid = (SELECT max(rowid) FROM {TABLE})"),
                message="less",
            )
