"""The Hub on loopback, as the real client libraries see it.

Each script runs in a Python of its own, because the libraries read `HF_ENDPOINT`
when they are imported. Raw requests check what the libraries would hide.
"""

import contextlib
import hashlib
import http.client
import io
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.hub.faults import Failure, FaultKind, Faults, Request
from tests.hub.repo import Repo, files_in
from tests.hub.server import HubServer
from tests.processes import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "data/models/tiny-sentiment"
PAYLOAD = bytes(range(256)) * 400


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as hub:
        yield hub


def run(hub: HubServer, home: Path, script: str, **environment: str) -> Any:
    """What `script` leaves in `result`."""
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(script) + "\nimport json\nprint(json.dumps(result))",
        ],
        env={**clean, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), **quiet, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def ask(
    hub: HubServer, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", hub.port, timeout=PATIENCE_SECONDS)) as line:
        line.request(method, path, headers=headers or {})
        response = line.getresponse()
        return response, response.read()


def parquet(*texts: str) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": list(texts)}), buffer)
    return buffer.getvalue()


def test_datasets_streams_every_config_and_split_of_parquet_csv_and_jsonl(hub: HubServer, tmp_path: Path) -> None:
    card = """\
        ---
        configs:
        - config_name: plain
          data_files:
          - {split: train, path: plain/train-*.parquet}
          - {split: test, path: plain/test/*.parquet}
        - config_name: loud
          data_files: loud/*.parquet
        dataset_info:
        - config_name: plain
          features:
          - {name: text, dtype: string}
        ---
        """
    hub.add_dataset("org/parquet").commit(
        {
            "README.md": textwrap.dedent(card).encode(),
            "plain/train-00000-of-00002.parquet": parquet("a", "b"),
            "plain/train-00001-of-00002.parquet": parquet("c"),
            "plain/test/0.parquet": parquet("d"),
            "loud/0.parquet": parquet("A"),
        }
    )
    hub.add_dataset("org/csv").commit({"train.csv": b"text\na\n", "test.csv": b"text\nb\n"})
    hub.add_dataset("org/jsonl").commit(
        {"data/train/0.jsonl": b'{"text": "a"}\n', "data/validation/0.jsonl": b'{"text": "b"}\n'}
    )
    result = run(
        hub,
        tmp_path,
        """
        from datasets import load_dataset_builder

        asked = [("parquet", "plain"), ("parquet", "loud"), ("csv", None), ("jsonl", None)]
        result = {}
        for repo, config in asked:
            builder = load_dataset_builder(f"org/{repo}", config)
            result[f"{repo} {config} columns"] = list(builder.info.features or [])
            for split, rows in builder.as_streaming_dataset().items():
                result[f"{repo} {config} {split}"] = [row["text"] for row in rows]
        """,
    )
    assert result == {
        "parquet plain columns": ["text"],
        "parquet plain train": ["a", "b", "c"],
        "parquet plain test": ["d"],
        "parquet loud columns": [],
        "parquet loud train": ["A"],
        "csv None columns": [],
        "csv None train": ["a"],
        "csv None test": ["b"],
        "jsonl None columns": [],
        "jsonl None train": ["a"],
        "jsonl None validation": ["b"],
    }


def test_an_old_commit_keeps_its_files(hub: HubServer, tmp_path: Path) -> None:
    repo = hub.add_dataset("org/reviews")
    old = repo.commit({"data/train.csv": b"text\nold\n", "data/test.csv": b"text\nx\n"})
    new = repo.commit({"data/train.csv": b"text\nnew\n", "data/test.csv": None})
    result = run(
        hub,
        tmp_path,
        f"""
        from datasets import load_dataset_builder
        from huggingface_hub import HfFileSystem

        result = []
        for revision in ["{old}", "main"]:
            files = load_dataset_builder("org/reviews", revision=revision).config.data_files
            text = HfFileSystem().read_text(files["train"][0])
            result.append([{{str(split): list(files[split]) for split in files}}, text])
        """,
    )
    at = "hf://datasets/org/reviews@{}/data/{}.csv"
    assert result == [
        [{"train": [at.format(old, "train")], "test": [at.format(old, "test")]}, "text\nold\n"],
        [{"train": [at.format(new, "train")]}, "text\nnew\n"],
    ]


def test_a_ranged_read_sends_exactly_the_bytes_asked_for(hub: HubServer, tmp_path: Path) -> None:
    sha = hub.add_dataset("org/bytes").commit({"a/b.bin": PAYLOAD})
    result = run(
        hub,
        tmp_path,
        f"""
        from huggingface_hub import HfFileSystem

        path = "datasets/org/bytes@{sha}/a/b.bin"
        result = list(HfFileSystem().cat_file(path, start=250, end=300, cache_type="none"))
        """,
    )
    file = f"/datasets/org/bytes/resolve/{sha}/a/b.bin"
    assert bytes(result) == PAYLOAD[250:300]
    assert hub.bytes_sent(file) == 50
    assert hub.log[-1] == Request("GET", file, "", "bytes=250-299", status=206, body_bytes=50)
    hub.reset()
    assert hub.log == []


def test_a_listing_names_contents_as_git_and_git_lfs_do(hub: HubServer, tmp_path: Path) -> None:
    repo = hub.add_dataset("org/mixed")
    repo.commit({"hi.txt": b"hi", "deep/er/0.parquet": PAYLOAD}, message="add")
    hub.page_size = 2
    result = run(
        hub,
        tmp_path,
        """
        from huggingface_hub import HfApi, HfFileSystem

        found = HfFileSystem().find("datasets/org/mixed", detail=True, expand_info=True)
        siblings = HfApi().dataset_info("org/mixed", files_metadata=True).siblings
        assert {i["name"][19:]: i["blob_id"] for i in found.values()} == {
            s.rfilename: s.blob_id for s in siblings
        }
        result = [
            [name, i["size"], i["blob_id"], i["lfs"] and i["lfs"].sha256, i["last_commit"].title]
            for name, i in found.items()
        ]
        """,
    )
    digest = hashlib.sha256(PAYLOAD).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 102400\n"
    pointer_oid = hashlib.sha1(f"blob {len(pointer)}\0{pointer}".encode()).hexdigest()
    hi_oid = "32f95c0d1244a78b2be1bab8de17906fabb2c4a8"
    assert [entry for entry in result if ".gitattributes" not in entry[0]] == [
        ["datasets/org/mixed/deep/er/0.parquet", 102400, pointer_oid, digest, "add"],
        ["datasets/org/mixed/hi.txt", 2, hi_oid, None, "add"],
    ]
    assert any("cursor=2" in request.query for request in hub.log)


@pytest.mark.parametrize("redirect_lfs", [False, True])
def test_a_snapshot_of_a_private_model_arrives_whole(hub: HubServer, tmp_path: Path, redirect_lfs: bool) -> None:
    hub.redirect_lfs = redirect_lfs
    weights = tmp_path / "weights"
    weights.write_bytes(PAYLOAD)
    repo = hub.add_model("org/model")
    repo.private = True
    repo.commit({"config.json": b"{}", "sub/model.safetensors": weights})
    result = run(
        hub,
        tmp_path,
        """
        from pathlib import Path
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download("org/model"))
        result = list((folder / "sub/model.safetensors").read_bytes())
        """,
        HF_TOKEN=hub.token,
    )
    assert bytes(result) == PAYLOAD
    assert hub.bytes_sent("/cdn/org/model/") == (len(PAYLOAD) if redirect_lfs else 0)
    assert not [request for request in hub.log if request.method == "HEAD" and "/cdn/" in request.path]


@pytest.mark.slow
@pytest.mark.skipif(not MODEL.exists(), reason="data/models/tiny-sentiment is not here")
def test_transformers_loads_a_model_by_its_name(hub: HubServer, tmp_path: Path) -> None:
    sha = hub.add_model("org/tiny-sentiment").commit(files_in(MODEL))
    result = run(
        hub,
        tmp_path,
        f"""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        named = {{"pretrained_model_name_or_path": "org/tiny-sentiment", "revision": "{sha}"}}
        model = AutoModelForSequenceClassification.from_pretrained(**named)
        ids = AutoTokenizer.from_pretrained(**named)("A great film", return_tensors="pt")
        result = list(model(**ids).logits.shape)
        """,
    )
    assert result == [1, 2]
    weights = f"/org/tiny-sentiment/resolve/{sha}/model.safetensors"
    assert hub.bytes_sent(weights) == (MODEL / "model.safetensors").stat().st_size


def test_huggingface_hub_names_what_is_missing_or_refused(hub: HubServer, tmp_path: Path) -> None:
    repo = hub.add_dataset("org/here")
    sha = repo.commit({"a.txt": b"a"})
    repo.tag("v1", sha)
    repo.branch("refs/pr/1", sha)
    hub.add_dataset("org/gated").gated = True
    hub.add_dataset("org/private").private = True
    result = run(
        hub,
        tmp_path,
        """
        from huggingface_hub import HfApi, hf_hub_download

        def outcome(call, *arguments, **options):
            try:
                call(*arguments, **options)
            except Exception as error:
                return type(error).__name__
            return "fine"

        api = HfApi()
        asked = ["org/here", "org/gone", "org/private", "org/gated"]
        revisions = ["main", "v1", "refs/pr/1", "v2"]
        files = [("org/here", "a.txt"), ("org/here", "b.txt"), ("org/gated", ".gitattributes")]
        result = [
            [outcome(api.dataset_info, repo) for repo in asked],
            [outcome(api.dataset_info, "org/here", revision=name) for name in revisions],
            [outcome(hf_hub_download, *file, repo_type="dataset") for file in files],
            [ref.name for ref in api.list_repo_refs("org/here", repo_type="dataset").branches],
            [commit.title for commit in api.list_repo_commits("org/here", repo_type="dataset")],
            [i.path for i in api.get_paths_info("org/here", ["a.txt", "b"], repo_type="dataset")],
            outcome(api.whoami, token="wrong"),
        ]
        """,
    )
    assert result == [
        ["fine", "RepositoryNotFoundError", "RepositoryNotFoundError", "fine"],
        ["fine", "fine", "fine", "RevisionNotFoundError"],
        ["fine", "RemoteEntryNotFoundError", "GatedRepoError"],
        ["main", "refs/pr/1"],
        ["Update", "initial commit"],
        ["a.txt"],
        "HfHubHTTPError",
    ]


def test_whoami_needs_the_token(hub: HubServer) -> None:
    credentials: list[dict[str, str]] = [{}, {"Authorization": f"Bearer {hub.token}"}]
    assert [ask(hub, "/api/whoami-v2", headers=sent)[0].status for sent in credentials] == [401, 200]


def test_one_failure_of_each_kind_is_met_and_survived(hub: HubServer, tmp_path: Path) -> None:
    kinds: list[FaultKind] = ["429", "503", "cut", "reset"]
    repo = hub.add_dataset("org/shaky")
    repo.commit({f"{kind}.bin": PAYLOAD for kind in kinds})
    script = [Failure(f"/main/{kind}.bin", kind) for kind in kinds]
    hub.faults = Faults(script=script, retry_after=0)
    result = run(
        hub,
        tmp_path,
        """
        from concurrent.futures import ThreadPoolExecutor
        from huggingface_hub import HfFileSystem

        def read(kind):
            return len(HfFileSystem().cat_file(f"datasets/org/shaky/{kind}.bin", 0, 50_000))

        with ThreadPoolExecutor(4) as pool:
            result = list(pool.map(read, ["429", "503", "cut", "reset"]))
        """,
    )
    assert result == [50_000] * 4
    met = {kind: [r for r in hub.log if f"{kind}.bin" in r.path] for kind in kinds}
    assert {kind: [r.fault for r in met[kind]] for kind in kinds} == {k: [k, None] for k in kinds}
    assert {kind: met[kind][0].status for kind in kinds} == {
        "429": 429,
        "503": 503,
        "cut": 206,
        "reset": 0,
    }
    assert met["cut"][0].body_bytes == len(PAYLOAD) // 2


def test_a_script_fails_the_first_requests_for_a_file_and_no_others(hub: HubServer) -> None:
    hub.add_model("org/m").commit({"a.txt": b"a", "b.txt": b"b"})
    hub.faults = Faults(script=[Failure("/a.txt", "503", times=2)])
    asked = ["a.txt", "b.txt", "a.txt", "a.txt"]
    assert [ask(hub, f"/org/m/resolve/main/{name}")[0].status for name in asked] == [
        503,
        200,
        503,
        200,
    ]


def test_a_seed_fails_the_same_requests_in_whatever_order_they_come() -> None:
    requests = [Request("GET", f"/{number}", "", None) for number in range(1000)]

    def failed(faults: Faults, order: list[Request]) -> dict[str, str | None]:
        return {request.path: faults.draw(request) for request in order}

    drawn = failed(Faults(rate=0.2, seed=1), requests)
    assert failed(Faults(rate=0.2, seed=1), requests[::-1]) == drawn
    assert failed(Faults(rate=0.2, seed=2), requests) != drawn
    assert 150 < sum(fault is not None for fault in drawn.values()) < 250
    assert {fault for fault in drawn.values() if fault} == {"429", "503", "cut"}


def test_only_what_the_predicate_lets_through_fails(hub: HubServer) -> None:
    hub.add_model("org/m").commit({"a.txt": b"a"})
    hub.faults = Faults(rate=1, kinds=["503"], only=lambda request: "/resolve/" in request.path)
    assert ask(hub, "/api/models/org/m")[0].status == 200
    assert ask(hub, "/org/m/resolve/main/a.txt")[0].status == 503


def test_a_rate_limit_says_how_long_to_wait(hub: HubServer) -> None:
    hub.faults = Faults(rate=1, kinds=["429"], retry_after=7)
    response, _ = ask(hub, "/api/models/org/m")
    assert response.headers["Retry-After"] == "7"
    assert response.headers["RateLimit"] == '"api";r=0;t=7'


def test_a_cut_answer_promises_more_than_it_sends(hub: HubServer) -> None:
    hub.add_model("org/m").commit({"a.bin": PAYLOAD})
    hub.faults = Faults(rate=1, kinds=["cut"])
    with pytest.raises(http.client.IncompleteRead) as cut:
        ask(hub, "/org/m/resolve/main/a.bin")
    assert cut.value.partial == PAYLOAD[: len(PAYLOAD) // 2]
    assert hub.bytes_sent() == len(PAYLOAD) // 2


def test_a_reset_is_a_reset_and_not_an_end(hub: HubServer) -> None:
    hub.faults = Faults(rate=1, kinds=["reset"])
    with pytest.raises(ConnectionResetError) as reset:
        ask(hub, "/api/models/org/m")
    assert reset.type is ConnectionResetError


def test_an_answer_without_a_body_is_503_instead_of_cut(hub: HubServer) -> None:
    hub.add_model("org/m").commit({"a.bin": PAYLOAD})
    hub.faults = Faults(rate=1, kinds=["cut"])
    assert ask(hub, "/org/m/resolve/main/a.bin", "HEAD")[0].status == 503


@pytest.mark.parametrize(
    ("asked", "status", "sent", "told"),
    [
        ("bytes=0-0", 206, PAYLOAD[:1], "bytes 0-0/102400"),
        ("bytes=102390-", 206, PAYLOAD[-10:], "bytes 102390-102399/102400"),
        ("bytes=-10", 206, PAYLOAD[-10:], "bytes 102390-102399/102400"),
        ("bytes=102399-999999", 206, PAYLOAD[-1:], "bytes 102399-102399/102400"),
        ("bytes=0-1,5-6", 200, PAYLOAD, None),
        ("bytes=102400-", 416, None, "bytes */102400"),
    ],
)
def test_a_range_is_answered_as_http_says(
    hub: HubServer, asked: str, status: int, sent: bytes | None, told: str | None
) -> None:
    hub.add_model("org/m").commit({"a.bin": PAYLOAD})
    response, body = ask(hub, "/org/m/resolve/main/a.bin", headers={"Range": asked})
    assert (response.status, response.headers["Content-Range"]) == (status, told)
    assert sent is None or body == sent


def test_head_tells_the_commit_and_the_content_without_sending_it(hub: HubServer) -> None:
    sha = hub.add_model("org/m").commit({"a.parquet": PAYLOAD})
    response, _ = ask(hub, "/org/m/resolve/main/a.parquet", "HEAD")
    digest = hashlib.sha256(PAYLOAD).hexdigest()
    named = ["X-Repo-Commit", "ETag", "X-Linked-Etag", "X-Linked-Size", "Accept-Ranges"]
    told = [response.headers[name] for name in named]
    assert told == [sha, f'"{digest}"', f'"{digest}"', "102400", "bytes"]
    assert hub.bytes_sent() == 0


@pytest.mark.parametrize("query", ["", "?recursive=true"])
def test_a_file_is_not_a_folder_to_list(hub: HubServer, query: str) -> None:
    hub.add_model("org/m").commit({"a/b.txt": b"b"})
    asked = [f"/api/models/org/m/tree/main/{path}{query}" for path in ["a", "a%2Fb.txt", "c"]]
    assert [ask(hub, path)[0].status for path in asked] == [200, 404, 404]


def test_names_need_not_be_ascii(hub: HubServer) -> None:
    hub.add_model("org/m").commit({"données/日本.txt": b"a"})
    quoted = "donn%C3%A9es/%E6%97%A5%E6%9C%AC.txt"
    assert ask(hub, f"/org/m/resolve/main/{quoted}")[1] == b"a"
    assert ask(hub, f"/org/m/resolve/main/{quoted}x")[0].status == 404
    assert hub.bytes_sent("/org/m/resolve/main/données/日本.txt") > 0


def test_the_same_commits_have_the_same_hashes_everywhere() -> None:
    shas = [Repo("datasets", "org/same").commit({"a.txt": b"a"}) for _ in range(2)]
    assert shas[0] == shas[1]
    assert shas[0] != Repo("datasets", "org/other").commit({"a.txt": b"a"})


def test_a_file_that_changed_after_its_commit_is_not_served(hub: HubServer, tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(PAYLOAD)
    hub.add_model("org/m").commit({"a.bin": file})
    os.utime(file, ns=(0, 0))
    with pytest.raises(http.client.IncompleteRead):
        ask(hub, "/org/m/resolve/main/a.bin")


def test_leaving_the_server_ends_open_connections() -> None:
    with HubServer() as hub:
        hub.add_model("org/m")
        line = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=PATIENCE_SECONDS)
        line.request("GET", "/api/models/org/m")
        assert line.getresponse().read()
    with contextlib.closing(line):
        line.request("GET", "/api/models/org/m")
        with pytest.raises(http.client.RemoteDisconnected):
            line.getresponse()


def test_the_command_serves_folders_until_it_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    command = [sys.executable, "-m", "tests.hub.server", "--model", f"org/m={tmp_path}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout
        port = int(serving.stdout.readline().rsplit(":", 1)[1])
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        line.request("GET", "/org/m/resolve/main/a.txt")
        assert line.getresponse().read() == b"a"
        serving.terminate()
