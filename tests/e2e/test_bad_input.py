"""Bad input met before work: one message with the way out, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands import tidemill, write_toml
from tests.pipelines import (
    MODEL,
    make_pipeline,
    problems_of,
    quarantine_of,
    query,
    reviews,
    run,
    table_of,
    write_parquet,
)
from tidemill.config import load_pipeline
from tidemill.errors import ConfigError, InputError
from tidemill.planning.plan import make_plan
from tidemill.running.stage_run import StageRun


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    write_parquet(tmp_path / "data" / "a.parquet", reviews(0, 20))
    write_parquet(tmp_path / "data" / "b.parquet", reviews(50, 20))
    return f"{tmp_path}/data/*"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["dataset.keeep=['rating']"], "Did you mean dataset.keep?"),
        (["shard_bytes=10"], "Did you mean dataset.shard_bytes?"),
        (["dataset.shard_bytes='many'"], "dataset.shard_bytes = 'many'"),
        (["limits.max_quarantine=2"], "limits.max_quarantine = 2"),
        (["lake.catalog='mysql:x'"], "lake.catalog = 'mysql:x'"),
        (["name=Reviews"], "name = 'Reviews'"),
        (["dataset"], "is not key.path=value"),
    ],
)
def test_the_pipeline_file_is_refused_with_the_nearest_key(tmp_path, overrides, said):
    path = write_toml(tmp_path, "data/*.parquet")
    with pytest.raises(ConfigError) as refused:
        load_pipeline(path, overrides)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"dataset": {"text": "txt"}}, "It has: text,"),
        ({"dataset": {"keep": ["ratings"]}}, "It has: rating,"),
        ({"dataset": {"text": "rating"}}, "has type double, not string"),
        ({"dataset": {"keep": ["domain as score"]}}, "Rename it"),
        ({"dataset": {"keep": ["rating as row_number"]}}, "Rename it"),
        ({"dataset": {"keep": ["rating as x", "domain as X"]}}, "is kept twice"),
        ({"model": {"path": "./nowhere"}}, "/nowhere. Check model.path."),
        ({"model": {"task": "text-clasification"}}, 'Did you mean "text-classification"?'),
        ({"dataset": {"path": "./nowhere/*.parquet"}}, "matches no files"),
        ({"dataset": {"path": "./nowhere"}}, "There is no file or folder"),
        ({"dataset": {"split": "test"}}, "Remove dataset.split"),
        ({"dataset": {"types": {"rating": "decimalish"}}}, "neither an Arrow type"),
    ],
)
def test_what_a_pipeline_names_wrongly_is_refused_before_anything_is_written(tmp_path, dataset, sections, said):
    pipeline = make_pipeline(tmp_path / "lake", dataset, **sections)
    with pytest.raises(InputError) as refused:
        run(pipeline)
    assert said in str(refused.value)
    assert not (tmp_path / "lake").exists()


def test_a_kept_column_named_like_a_result_says_how_to_rename_it(tmp_path):
    table = reviews(0, 10).rename_columns(["id", "domain", "text", "score", "part"])
    write_parquet(tmp_path / "data" / "a.parquet", table)
    pipeline = make_pipeline(tmp_path / "lake", f"{tmp_path}/data/*", dataset={"keep": ["score"]})
    with pytest.raises(InputError, match='keep = \\["score as rating"\\]'):
        run(pipeline)
    renamed = make_pipeline(tmp_path / "lake", f"{tmp_path}/data/*", dataset={"keep": ["score as rating", "text"]})
    assert run(renamed).num_rows == 10
    assert query(renamed.lake, "SELECT text, rating FROM reviews ORDER BY row_number LIMIT 1") == [
        (table["text"][0].as_py(), table["score"][0].as_py())
    ]


@pytest.mark.slow
def test_parquet_files_that_are_cut_short_fail_alone_whatever_their_place_and_cost_only_themselves_once_whole(tmp_path):
    for number, name in enumerate("abcd"):
        write_parquet(tmp_path / "data" / f"{name}.parquet", reviews(20 * number, 20))
    whole = {name: (tmp_path / "data" / f"{name}.parquet").read_bytes() for name in "abd"}
    for name, cut in (("a", 100), ("b", 0), ("d", len(whole["d"]) - 1)):
        (tmp_path / "data" / f"{name}.parquet").write_bytes(whole[name][:cut])
    pipeline = make_pipeline(tmp_path / "lake", f"{tmp_path}/data/*")
    planned = make_plan(pipeline, None)[0].to_json()
    assert planned["files"]["new"] == ["c.parquet"]
    assert "a.parquet does not end as a Parquet file does" in planned["files"]["failed"]["a.parquet"]
    assert (planned["rows"], planned["rows_estimated"]) == (20, False)
    result = run(pipeline)
    assert (result.state, result.num_rows) == ("failed", 20)
    assert [failure["path"] for failure in result.failures] == ["a.parquet", "b.parquet", "d.parquet"]
    assert result.notes == []
    for name, body in whole.items():
        (tmp_path / "data" / f"{name}.parquet").write_bytes(body)
    again = run(pipeline)
    assert (again.state, again.num_rows, len(table_of(pipeline))) == ("done", 60, 80)
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_a_file_that_is_cut_short_later_keeps_its_rows_until_it_is_whole_again(tmp_path, dataset):
    pipeline = make_pipeline(tmp_path / "lake", dataset)
    run(pipeline)
    before = table_of(pipeline)
    path = tmp_path / "data" / "a.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert run(pipeline).state == "failed"
    assert query(pipeline.lake, "SELECT count(*) FROM reviews") == [(len(before),)]
    path.write_bytes(whole)
    again = run(pipeline)
    assert (again.state, again.num_rows) == ("done", 0)
    assert table_of(pipeline) == before


def test_a_dataset_whose_parquet_files_are_all_cut_short_is_refused_by_the_first(tmp_path, dataset):
    for path in (tmp_path / "data").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"a\.parquet"):
        run(make_pipeline(tmp_path / "lake", dataset))
    assert not (tmp_path / "lake").exists()


def test_the_ingest_stage_reads_what_is_whole_beside_a_file_that_is_cut_short(tmp_path, dataset):
    (tmp_path / "data" / "a.parquet").write_bytes(b"PAR1")
    result = StageRun(make_pipeline(tmp_path / "lake", dataset), "ingest").execute()
    assert (result.state, result.num_rows) == ("failed", 20)
    assert [failure["path"] for failure in result.failures] == ["a.parquet"]


def test_a_kept_column_whose_type_differs_between_files_is_refused(tmp_path, dataset):
    table = reviews(50, 20)
    write_parquet(tmp_path / "data" / "b.parquet", table.set_column(3, "rating", table["rating"].cast(pa.string())))
    with pytest.raises(InputError, match=r"'rating' is string in b\.parquet, but double"):
        run(make_pipeline(tmp_path / "lake", dataset))


def test_an_empty_dataset_and_an_unsupported_format_are_refused(tmp_path):
    write_parquet(tmp_path / "empty" / "a.parquet", reviews(0, 0))
    with pytest.raises(InputError, match="has no rows"):
        run(make_pipeline(tmp_path / "lake", f"{tmp_path}/empty/*"))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(InputError, match="parquet"):
        run(make_pipeline(tmp_path / "lake", f"{tmp_path}/odd/*"))


def test_a_model_that_does_not_fit_the_task_is_refused(tmp_path, dataset):
    shutil.copytree(MODEL, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))
    with pytest.raises(InputError, match="BertForMaskedLM"):
        run(make_pipeline(tmp_path / "lake", dataset, model={"path": str(tmp_path / "model")}))
    assert not (tmp_path / "lake").exists()


@pytest.mark.slow
def test_a_local_model_that_was_replaced_is_not_mixed_into_the_table(tmp_path, dataset):
    shutil.copytree(MODEL, tmp_path / "model")
    pipeline = make_pipeline(tmp_path / "lake", dataset, model={"path": str(tmp_path / "model")})
    run(pipeline)
    (tmp_path / "model" / "tokenizer_config.json").write_text('{"model_max_length": 128}')
    write_parquet(tmp_path / "data" / "c.parquet", reviews(100, 5))
    result = run(pipeline)
    assert result.state == "failed"
    assert "no longer holds the model" in result.failures[0]["message"]
    assert len(table_of(pipeline)) == 40


def test_every_refusal_is_one_message_and_exit_code_2(tmp_path, dataset):
    home = tmp_path / "home"
    pipeline = write_toml(tmp_path, dataset)
    cases = [
        (("run", tmp_path / "absent.toml", "--direct"), "There is no pipeline file"),
        (("run", pipeline, "--direct", "--set", "dataset.keep=['txt']"), "has no column 'txt'"),
        (("plan", pipeline, "--set", "model.path=./nowhere"), "There is no model folder"),
        (("sql", pipeline, "SELECT 1"), "There is no lake"),
        (("verify", pipeline), "There is no lake"),
    ]
    for command, said in cases:
        done = tidemill(*command, home=home)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        # Where the cores are busy a step may last long enough to be told before.
        told = done.stderr.splitlines()
        assert [line for line in told if line.startswith("tidemill: ")] == told[-1:], told
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_bad_file_met_in_mid_run_fails_alone(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reviews(50 * i, 20).to_pylist()))
    (folder / "1.jsonl").write_bytes(b"PAR1 this is no JSON at all")
    pipeline = make_pipeline(tmp_path / "lake", f"{folder}/*", limits={"max_quarantine": 1.0})
    plan, _ = make_plan(pipeline, None)
    assert {file.file.path: file.problem for file in plan.files if file.problem}.keys() == {"1.jsonl"}
    result = run(pipeline)
    assert (result.state, result.num_rows) == ("failed", 40)
    assert {failure["path"] for failure in result.failures} == {"1.jsonl"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("jsonl", '{"id": 1, "text": "good"}\n', '{"id": 2, "body": "bad"}\n'),
        ("csv", "id,text\n1,good\n", "id,body\n2,bad\n"),
    ],
)
def test_a_new_file_without_the_text_column_is_refused_before_anything_is_computed(tmp_path, name, first, second):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / f"0.{name}").write_text(first)
    pipeline = make_pipeline(tmp_path / "lake", f"{folder}/*", dataset={"keep": []})
    run(pipeline)
    (folder / f"1.{name}").write_text(second)
    with pytest.raises(InputError, match=rf"1\.{name} has no column 'text'\. It has: .*body"):
        run(pipeline)
    assert len(table_of(pipeline)) == 1


@pytest.mark.slow
def test_a_corrupt_page_met_in_mid_run_fails_alone(tmp_path, dataset):
    path = tmp_path / "data" / "b.parquet"
    body = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(0).column(2).data_page_offset
    body[start + 40 : start + 400] = bytes(360)
    path.write_bytes(body)
    pipeline = make_pipeline(tmp_path / "lake", dataset)
    result = run(pipeline)
    assert (result.state, result.num_rows) == ("failed", 20)
    assert problems_of(pipeline) == []


STRANGE = {
    "null": None,
    "empty": "",
    "spaces": "   \t ",
    "nul": "good\x00movie",
    "right-to-left": "סרט נהדר \u202eלגמרי",
    "combining": "Z\u0335\u0321a\u0334\u0328lgo",
    "emoji": "👩‍👩‍👧‍👦 loved it",
    "long": "a fine film . " * 40_000,
}


def test_strange_rows_are_processed_or_quarantined_and_never_lost(tmp_path):
    table = pa.table({"id": list(STRANGE), "text": list(STRANGE.values()), "rating": [0.0] * len(STRANGE)})
    offsets = pa.array([0, 4, 6], pa.int32()).buffers()[1]
    bad = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"caf\xe9ok"))
    invalid = pa.table({"id": ["latin", "fine"], "text": bad, "rating": [1.0, 2.0]})
    write_parquet(tmp_path / "data" / "a.parquet", table)
    write_parquet(tmp_path / "data" / "b.parquet", invalid)
    pipeline = make_pipeline(
        tmp_path / "lake",
        f"{tmp_path}/data/*",
        dataset={"keep": ["rating", "text as original"]},
        limits={"max_quarantine": 1.0},
    )
    result = run(pipeline)
    assert (result.state, result.num_rows + result.num_quarantined) == ("done", len(STRANGE) + 2)
    assert {reason for _, reason in quarantine_of(pipeline).values()} >= {"text is null"}
    rows = {row["id"]: row for row in table_of(pipeline).values()}
    assert rows.keys() == {*STRANGE, "fine"} - {"null"}
    assert all(rows[name]["original"] == text for name, text in STRANGE.items() if text is not None)
    assert rows["long"]["truncated"]
    assert rows["long"]["num_tokens"] > 150_000
    keys = {json.loads(key)["id"] for (key,) in query(pipeline.lake, "SELECT key FROM _quarantine")}
    assert keys == {"null", "latin"}
    assert problems_of(pipeline) == []


def test_strange_lines_of_json_are_quarantined_by_row(tmp_path):
    (tmp_path / "data").mkdir()
    lines = [
        b'{"id": "1", "text": "a good film", "rating": 1.0}',
        b'{"id": "2", "text": "half a surrogate \\ud800", "rating": 1.0}',
        b'{"id": "3", "text": "caf\xe9", "rating": 1.0}',
        b'{"id": "4", "text": 17, "rating": 1.0}',
        b'{"id": "5", "text": "unclosed',
        b'{"id": "6", "text": "a \\u0000 bad film", "rating": "many"}',
        b'{"id": "7", "text": "fine"}',
    ]
    (tmp_path / "data" / "a.jsonl").write_bytes(b"\n".join(lines))
    pipeline = make_pipeline(
        tmp_path / "lake",
        f"{tmp_path}/data/*",
        dataset={"keep": ["rating"], "types": {"rating": "double"}},
        limits={"max_quarantine": 1.0},
    )
    assert run(pipeline).state == "done"
    assert {number for _, number in table_of(pipeline)} == {0, 6}
    assert {number for _, number in quarantine_of(pipeline)} == {1, 2, 3, 4, 5}
    assert problems_of(pipeline) == []


def test_duplicate_keys_are_kept_and_counted(tmp_path):
    from tidemill.reports.status import pipeline_status

    table = reviews(0, 10)
    write_parquet(tmp_path / "data" / "a.parquet", pa.concat_tables([table, table.slice(0, 4)]))
    pipeline = make_pipeline(tmp_path / "lake", f"{tmp_path}/data/*")
    assert run(pipeline).num_rows == 14
    assert pipeline_status(pipeline)["duplicate_keys"] == 8


@pytest.mark.slow
def test_a_file_that_changes_while_it_is_read_is_taken_up_as_it_is(tmp_path, dataset, monkeypatch):
    pipeline = make_pipeline(tmp_path / "lake", dataset)
    changed: list[str] = []

    class Changing:
        """Replaces the second file once the first shard was read."""

        def __getattr__(self, name):
            return lambda *args, **kwargs: None

        def ingested(self, path, *, rows):
            if not changed:
                changed.append(path)
                write_parquet(tmp_path / "data" / "b.parquet", reviews(300, 25))

    result = run(pipeline, progress=Changing())
    assert (result.state, changed) == ("done", ["a.parquet"])
    fresh = make_pipeline(tmp_path / "fresh", dataset)
    run(fresh)
    assert table_of(pipeline) == table_of(fresh)
    assert len(table_of(pipeline)) == 45
