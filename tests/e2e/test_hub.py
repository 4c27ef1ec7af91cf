"""Datasets and models on the Hub, through the command line and the real client libraries."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands import tidemill, write_toml
from tests.hub.faults import FaultKind
from tests.hub.server import Failure, Faults, files_in
from tests.pipelines import MODEL, assert_same_tables, make_pipeline, problems_of, query, reviews, run
from tidemill import retry
from tidemill.errors import DatasetError, ModelError, SourceUnavailable
from tidemill.lake import Lake
from tidemill.planning.plan import make_plan

NUM_ROWS = 40


def parquet(table: pa.Table, *, wide: bool = True) -> bytes:
    """Several row groups, and beside them a wide column that nobody asks for and nothing compresses."""
    if wide:
        table = table.append_column("pixels", pa.array([os.urandom(20_000) for _ in range(table.num_rows)]))
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=16)
    return sink.getvalue()


def csv(table: pa.Table) -> bytes:
    return table.to_pandas().to_csv(index=False).encode()


def jsonl(table: pa.Table) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()


def asked_bytes(body: bytes, columns: set[str]) -> tuple[int, int]:
    """Compressed bytes of the columns' chunks, and of the footer with its length and magic."""
    metadata = pq.ParquetFile(io.BytesIO(body)).metadata
    chunks = sum(
        metadata.row_group(group).column(i).total_compressed_size
        for group in range(metadata.num_row_groups)
        for i in range(metadata.num_columns)
        if metadata.row_group(group).column(i).path_in_schema in columns
    )
    return chunks, metadata.serialized_size + 8


def over_hub(tmp_path: Path, repo: str, name: str = "lake", **sections):
    sections["dataset"] = {"keep": ["rating"], **sections.get("dataset", {})}
    return make_pipeline(tmp_path / name, repo, limits={"retries": 5}, **sections)


def plan_of(pipeline):
    with Lake(pipeline.lake, read_only=True) as lake:
        return make_plan(pipeline, lake)[0].to_json()


@pytest.mark.slow
def test_only_the_bytes_of_the_columns_asked_for_are_read(hub, tmp_path):
    files = {f"data/train-{i:05}-of-00003.parquet": parquet(reviews(60 * i, NUM_ROWS)) for i in range(3)}
    hub.add_dataset("wide/reviews").commit(files)
    pipeline = over_hub(tmp_path, "wide/reviews")
    assert run(pipeline).num_rows == 3 * NUM_ROWS
    sizes = [asked_bytes(body, {"id", "text", "rating"}) for body in files.values()]
    chunks, footers = (sum(column) for column in zip(*sizes, strict=True))
    assert chunks < hub.bytes_sent("/datasets/wide/reviews/resolve") <= 1.3 * chunks + footers
    assert problems_of(pipeline) == []
    hub.reset()
    assert run(pipeline).num_shards == 0
    assert hub.bytes_sent("/datasets/wide/reviews/resolve") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "encode"),
    [
        ("parquet", parquet),
        pytest.param("csv", csv, marks=pytest.mark.soak),
        pytest.param("jsonl", jsonl, marks=pytest.mark.soak),
    ],
)
def test_a_new_revision_gives_the_table_of_a_fresh_run(hub, tmp_path, suffix, encode):
    repo = hub.add_dataset(f"moving/{suffix}")
    names = [f"train/{i}.{suffix}" for i in range(4)]
    repo.commit({name: encode(reviews(60 * i, NUM_ROWS)) for i, name in enumerate(names)})
    pipeline = over_hub(tmp_path, f"moving/{suffix}")
    run(pipeline)
    sha = repo.commit(
        {names[1]: encode(reviews(400, 30)), names[3]: None, f"train/9.{suffix}": encode(reviews(500, 10))}
    )
    plan = plan_of(pipeline)
    assert (plan["revision"], plan["files"]["new"]) == (sha, [f"train/9.{suffix}"])
    assert (plan["files"]["changed"], plan["files"]["removed"]) == ([names[1]], [names[3]])
    assert run(pipeline).num_rows == 40
    fresh = over_hub(tmp_path, f"moving/{suffix}", "fresh")
    run(fresh)
    assert_same_tables(pipeline, fresh)
    assert problems_of(pipeline) == []


@pytest.mark.parametrize("encode", [parquet, pytest.param(jsonl, marks=pytest.mark.soak)])
def test_a_run_survives_a_hub_that_fails_one_time_in_five(hub, tmp_path, encode):
    name = f"faulty/{encode.__name__}"
    files = {f"train/{i}.{encode.__name__}": encode(reviews(60 * i, NUM_ROWS)) for i in range(3)}
    hub.add_dataset(name).commit(files)
    calm = over_hub(tmp_path, name, "calm")
    run(calm)
    hub.faults = Faults(rate=0.2, seed=4, kinds=("429", "503", "cut", "reset"), retry_after=0)
    stormy = over_hub(tmp_path, name, "stormy")
    assert run(stormy).state == "done"
    assert sum(request.fault is not None for request in hub.log) > 1
    assert_same_tables(stormy, calm)


def test_a_429_is_waited_out_as_long_as_the_server_says(hub, tmp_path):
    hub.add_dataset("slow/reviews").commit({"train.parquet": parquet(reviews(0, 10))})
    hub.faults = Faults(script=[Failure("/train.parquet", "429")], retry_after=2)
    assert run(over_hub(tmp_path, "slow/reviews")).state == "done"
    refused, answered = [request for request in hub.log if request.path.endswith("/train.parquet")][:2]
    assert (refused.status, answered.status) == (429, 206)


def test_a_model_on_the_hub_is_pinned_to_its_commit(hub, tmp_path):
    hub.add_dataset("pinned/reviews").commit({"train.csv": csv(reviews(0, 10))})
    model = hub.add_model("pinned/sentiment")
    first = model.commit(files_in(MODEL))
    pipeline = over_hub(tmp_path, "pinned/reviews", model={"path": "pinned/sentiment"})
    run(pipeline)
    model.commit({"README.md": b"moved"})
    assert (plan_of(pipeline)["up_to_date"], plan_of(pipeline)["notes"]) == (True, [])
    model.commit({"special_tokens_map.json": b"{}"})
    plan = plan_of(pipeline)
    assert plan["up_to_date"]
    assert f"commit:{first[:12]}" in plan["notes"][0]
    spec = query(pipeline.lake, "SELECT spec FROM _versions")[0][0]
    assert json.loads(spec)["model"] == f"commit:{first}"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"split": "trian"}, "dataset.split = 'train'"),
        ({"config": "defualt"}, "dataset.config = 'default'"),
        ({"revision": "nope"}, "no revision 'nope'"),
        ({"path": "absent/reviews"}, "does not exist"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(hub, tmp_path, option, said):
    hub.add_dataset("there/reviews").commit({"train.csv": csv(reviews(0, 10))})
    with pytest.raises(DatasetError, match=said):
        run(over_hub(tmp_path, "there/reviews", dataset=option))
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize(("state", "said"), [("gated", "Accept its conditions"), ("private", "HF_TOKEN")])
def test_a_dataset_that_may_not_be_read_says_what_to_do(hub, tmp_path, state, said):
    repo = hub.add_dataset(f"{state}/reviews")
    repo.commit({"train.csv": csv(reviews(0, 10))})
    setattr(repo, state, True)
    with pytest.raises(DatasetError, match=said):
        run(over_hub(tmp_path, f"{state}/reviews"))
    assert not [request for request in hub.log if request.path.endswith(".csv")]


@pytest.mark.slow
def test_the_command_line_reads_the_token_and_the_endpoint_from_the_environment(hub, tmp_path):
    repo = hub.add_dataset("secret/reviews")
    repo.commit({"train.csv": csv(reviews(0, 10))})
    repo.private = True
    pipeline, home = write_toml(tmp_path, "secret/reviews"), tmp_path / "home"
    refused = tidemill("plan", pipeline, home=home, hub=hub.url)
    assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)
    assert tidemill("plan", pipeline, home=home, hub=hub.url, HF_TOKEN=hub.token).returncode == 0
    offline = tidemill("plan", pipeline, home=home, hub=hub.url, HF_HUB_OFFLINE="1")
    assert (offline.returncode, "HF_HUB_OFFLINE" in offline.stderr) == (2, True)


@pytest.mark.parametrize("address", ["hf://datasets/direct/reviews@main/*.csv", "hf://datasets/direct/reviews"])
def test_an_address_on_the_hub_is_resolved_to_a_commit(hub, tmp_path, address):
    sha = hub.add_dataset("direct/reviews").commit({"train.csv": csv(reviews(0, 10))})
    result = run(over_hub(tmp_path, address))
    assert (result.revision, result.num_rows) == (sha, 10)


@pytest.mark.slow
def test_a_model_in_a_folder_of_a_repository_is_another_version_and_the_same_predictions(hub, tmp_path):
    hub.add_dataset("folders/reviews").commit({"train.csv": csv(reviews(0, 10))})
    files = files_in(MODEL)
    sha = hub.add_model("folders/models").commit(
        {**{f"a/{name}": body for name, body in files.items()}, "tok/tokenizer.json": files["tokenizer.json"]}
    )
    pipeline = over_hub(tmp_path, "folders/reviews", model={"path": "folders/models", "subfolder": "a"})
    run(pipeline)
    assert json.loads(query(pipeline.lake, "SELECT spec FROM _versions")[0][0])["model"] == f"commit:{sha}/a"
    assert plan_of(pipeline)["up_to_date"]
    local = over_hub(tmp_path, "folders/reviews", "local")
    run(local)
    assert_same_tables(pipeline, local)
    with pytest.raises(ModelError, match="has no files in a folder b"):
        run(over_hub(tmp_path, "folders/reviews", "b", model={"path": "folders/models", "subfolder": "b"}))
    with pytest.raises(ModelError, match=r"There are no weights .*set model\.subfolder"):
        run(over_hub(tmp_path, "folders/reviews", "top", model={"path": "folders/models"}))


def test_a_model_that_has_only_pickled_weights_is_refused_before_anything_is_fetched(hub, tmp_path):
    hub.add_dataset("pickled/reviews").commit({"train.csv": csv(reviews(0, 10))})
    files = files_in(MODEL)
    weights = files.pop("model.safetensors")
    hub.add_model("pickled/model").commit({**files, "pytorch_model.bin": weights})
    with pytest.raises(ModelError, match=r"pickled \(pytorch_model\.bin\)"):
        run(over_hub(tmp_path, "pickled/reviews", model={"path": "pickled/model"}))
    assert not [request for request in hub.log if "pickled/model/resolve" in request.path]
    assert not (tmp_path / "lake").exists()


@pytest.fixture
def at_once(monkeypatch):
    """Waits between attempts are none, of ours and of `huggingface_hub`'s."""
    monkeypatch.setattr(retry, "FIRST_DELAY_SECONDS", 0.0)
    monkeypatch.setattr("time.sleep", lambda _: None)


@pytest.fixture
def offline(monkeypatch):
    """As HF_HUB_OFFLINE=1 has it."""
    return lambda: monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def down(kind: FaultKind) -> Faults:
    return Faults(script=[Failure("/", kind, times=10_000)], retry_after=600)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["503", *(pytest.param(kind, marks=pytest.mark.soak) for kind in ("reset", "429"))])
def test_a_hub_that_is_down_does_not_stop_a_run_whose_commits_are_known(hub, tmp_path, kind, at_once):
    sha = hub.add_dataset(f"known/reviews-{kind}").commit({"train.csv": csv(reviews(0, 10))})
    model = hub.add_model(f"known/model-{kind}").commit(files_in(MODEL))
    pipeline = over_hub(tmp_path, f"known/reviews-{kind}", model={"path": f"known/model-{kind}"})
    run(pipeline)
    hub.faults = down(kind)
    result = run(pipeline)
    assert (result.state, result.num_shards, result.revision) == ("done", 0, sha)
    told = " ".join(plan_of(pipeline)["notes"])
    assert f"The Hub does not answer, so main of the model known/model-{kind} stays at commit {model[:12]}" in told
    assert f"so the dataset stays at commit {sha[:12]}" in told
    hub.faults = Faults()
    moved = hub.repos["datasets", f"known/reviews-{kind}"].commit({"train.csv": csv(reviews(0, 12))})
    assert run(pipeline).revision == moved


def test_without_the_network_what_was_fetched_is_used_and_new_local_files_are_computed(hub, tmp_path, offline):
    hub.add_model("cached/model").commit(files_in(MODEL))
    (tmp_path / "a.csv").write_bytes(csv(reviews(0, 10)))
    pipeline = make_pipeline(tmp_path / "lake", f"{tmp_path}/*.csv", model={"path": "cached/model"})
    run(pipeline)
    offline()
    hub.reset()
    assert plan_of(pipeline)["up_to_date"]
    (tmp_path / "b.csv").write_bytes(csv(reviews(10, 10)))
    assert run(pipeline).num_rows == 10
    assert hub.log == []


@pytest.mark.slow
def test_without_the_network_a_dataset_stays_as_the_lake_took_it_up(hub, tmp_path, offline):
    hub.add_dataset("cached/reviews").commit({"train.csv": csv(reviews(0, 10))})
    pipeline = over_hub(tmp_path, "cached/reviews")
    run(pipeline)
    offline()
    assert (run(pipeline).num_shards, problems_of(pipeline)) == (0, [])
    for other in ({"revision": "v2"}, {"split": "test"}, {"config": "other"}):
        with pytest.raises(DatasetError, match="HF_HUB_OFFLINE is set"):
            run(over_hub(tmp_path, "cached/reviews", dataset=other))


@pytest.mark.slow
def test_a_dataset_that_an_older_tidemill_took_up_is_known_by_the_cache(hub, tmp_path, offline):
    hub.add_dataset("older/reviews").commit({"train.csv": csv(reviews(0, 10))})
    pipeline = over_hub(tmp_path, "older/reviews")
    run(pipeline)
    with Lake(pipeline.lake) as lake:
        lake.cursor().execute("UPDATE _pipelines SET dataset = json_merge_patch(dataset, '{\"revision\": null}')")
    offline()
    assert run(pipeline).num_shards == 0


def test_without_the_network_what_was_never_fetched_is_refused_with_the_command_that_fetches_it(hub, tmp_path, offline):
    hub.add_dataset("never/reviews").commit({"train.csv": csv(reviews(0, 10))})
    hub.add_model("never/model").commit(files_in(MODEL))
    offline()
    with pytest.raises(DatasetError, match="`hf download never/reviews --repo-type dataset --local-dir FOLDER`"):
        run(over_hub(tmp_path, "never/reviews"))
    with pytest.raises(ModelError, match="`hf download never/model --revision v2`"):
        run(over_hub(tmp_path, "never/reviews", model={"path": "never/model", "revision": "v2"}))


def test_a_hub_that_is_down_and_was_never_asked_stops_a_run_that_can_be_tried_again(hub, tmp_path, at_once):
    hub.add_dataset("unknown/reviews").commit({"train.csv": csv(reviews(0, 10))})
    hub.faults = down("503")
    with pytest.raises(SourceUnavailable, match="the Hub answered 503"):
        run(over_hub(tmp_path, "unknown/reviews"))
    assert not (tmp_path / "lake").exists()
