"""Addresses of any kind: files by range, or one message that names the address and the option."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tests.hub.faults import Failure, Faults
from tidemill import retry
from tidemill.errors import DatasetError, SourceUnavailable, TidemillError
from tidemill.shards import SourceFile
from tidemill.sources import objects
from tidemill.storage import bounded_http

BODY = b"id,text\n" + b"".join(b"%d,good\n" % i for i in range(1000))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_DELAY_SECONDS", 0.0)


@pytest.fixture
def served(hub) -> str:
    """The address of a file behind HTTP."""
    repo = hub.add_dataset("org/http")
    repo.commit({"a.csv": BODY})
    return f"{hub.url}/datasets/org/http/resolve/main/a.csv"


def only(address: str) -> SourceFile:
    [file], left_out = objects.list_files(address)
    assert left_out == ()
    return file


def test_a_file_behind_http_is_listed_by_its_head_and_read_by_ranges(hub, served):
    file = only(f"{served}?token=secret")
    assert (file.path, file.size, file.content.partition(":")[0]) == ("a.csv", len(BODY), "ETag")
    assert hub.bytes_sent() == 0
    assert objects.read_range(file, 100, 300) == BODY[100:300]
    assert hub.bytes_sent() == 200


def test_a_file_behind_http_that_was_replaced_or_is_gone_is_not_read(hub, served):
    file = only(served)
    repo = hub.repos["datasets", "org/http"]
    repo.commit({"a.csv": BODY.upper()})
    assert objects.read_range(file, 0, 10) is None
    repo.commit({"a.csv": None})
    assert objects.read_range(file, 0, 10) is None
    assert objects.list_files(served) == ([], ())


def test_where_a_server_sends_us_is_asked_once_a_file_and_a_file_that_was_replaced_there_is_not_read(hub, monkeypatch):
    monkeypatch.setattr(hub, "redirect_lfs", True)
    repo = hub.add_dataset("org/forwarded")
    repo.commit({"a.parquet": BODY})
    file = only(f"{hub.url}/datasets/org/forwarded/resolve/main/a.parquet")
    hub.reset()
    assert [objects.read_range(file, start, start + 100) for start in (0, 100)] == [BODY[:100], BODY[100:200]]
    assert [request.status for request in hub.log] == [302, 206, 206]
    bounded_http.forwarded.cache_clear()
    repo.commit({"a.parquet": BODY.upper()})
    assert objects.read_range(file, 0, 10) is None


@pytest.mark.parametrize("kind", ["cut", "short", "long", "elsewhere", "endless", "503"])
def test_what_a_server_sends_in_place_of_a_range_is_never_taken_for_it(hub, served, kind):
    file = only(f"{served}?token=secret")
    hub.faults = Faults(script=[Failure("a.csv", kind, times=2)])
    assert objects.read_range(file, 100, 300) == BODY[100:300]
    hub.faults = Faults(script=[Failure("a.csv", kind, times=1000)])
    with pytest.raises(SourceUnavailable, match=r"a\.csv") as refused:
        objects.read_range(file, 100, 300)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("kind", ["stall", "trickle"])
def test_a_server_that_stalls_or_trickles_is_given_up(hub, served, kind, monkeypatch):
    file = only(served)
    monkeypatch.setattr(bounded_http, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(bounded_http, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(bounded_http, "LEAST_BYTES_PER_SECOND", 1e12)
    hub.faults = Faults(script=[Failure("a.csv", kind, times=1000)])
    with pytest.raises(SourceUnavailable, match="ReadTimeout"):
        objects.read_range(file, 100, 300)


def test_a_server_that_ignores_ranges_is_read_as_far_as_the_range(hub, served):
    file = only(served)
    hub.faults = Faults(script=[Failure("a.csv", "whole", times=1000)])
    assert objects.read_range(file, 100, 300) == BODY[100:300]


class _Pages(http.server.SimpleHTTPRequestHandler):
    """A folder with its pages of links; ranges are not known here. Below `endless/`, a page has no end."""

    def do_GET(self) -> None:
        if "endless" not in self.path:
            super().do_GET()
            return
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            while True:
                self.wfile.write(b"<p>more</p>" * 1000)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(_Pages, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_what_a_pattern_matches_among_the_links_of_a_page_is_read_and_an_endless_page_given_up(
    pages, tmp_path, monkeypatch
):
    for name in ("a.csv", "b.txt", "deep/c.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(BODY)
    file = only(f"{pages}/*.csv")
    assert (file.path, file.size, objects.read_range(file, 100, 300)) == ("a.csv", len(BODY), BODY[100:300])
    assert objects.list_files(f"{pages}/absent/*.csv") == ([], ())
    monkeypatch.setattr("tidemill.sources.http_files.MOST_ANSWER_BYTES", 2**20)
    with pytest.raises(SourceUnavailable, match="more than 1,048,576 bytes came, and no end"):
        objects.list_files(f"{pages}/endless/*.csv")


@pytest.mark.parametrize("chain", ["memory://chained/all.zip", "file://{folder}/all.zip", "{folder}/all.zip"])
def test_a_file_in_an_archive_is_read_wherever_the_archive_lies(tmp_path, chain):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("deep/a.csv", BODY)
    (tmp_path / "all.zip").write_bytes(packed.getvalue())
    fsspec.filesystem("memory").pipe_file("/chained/all.zip", packed.getvalue())
    file = only(f"zip://deep/*.csv::{chain.format(folder=tmp_path)}")
    assert (file.path, file.content.partition(":")[0]) == ("a.csv", "CRC")
    assert objects.read_range(file, 100, 300) == BODY[100:300]


class _Bucket(http.server.BaseHTTPRequestHandler):
    """A store that speaks S3, but for ranges: it sends whole objects."""

    def do_GET(self) -> None:
        self.send_response(200)
        for name, value in {"ETag": '"1"', "Content-Length": str(len(BODY))}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        pass


def test_a_store_that_ignores_ranges_is_never_taken_for_one_that_does_not(monkeypatch):
    from s3fs import S3FileSystem

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Bucket) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        for name, value in {"ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "MAX_ATTEMPTS": "1"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
            monkeypatch.setenv(f"AWS_{name}", "any")
        S3FileSystem.clear_instance_cache()
        file = SourceFile("a.csv", "s3://bucket/a.csv", len(BODY), "ETag:1")
        assert objects.read_range(file, 0, len(BODY)) == BODY
        with pytest.raises(SourceUnavailable, match="the whole object came where bytes 100-299 were asked for"):
            objects.read_range(file, 100, 300)
        with pytest.raises(SourceUnavailable, match="301 of 300 bytes"):
            objects.read_range(file, 0, 300)
        server.shutdown()
    S3FileSystem.clear_instance_cache()


def test_folders_that_a_pattern_matches_are_named():
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/named/a.csv", BODY)
    memory.pipe_file("/named/deep/b.csv", BODY)
    files, left_out = objects.list_files("memory://named/*")
    assert [file.path for file in files] == ["a.csv"]
    assert [str(note) for note in left_out] == [
        "1 folder not read, which match as a whole: deep. `**` in a pattern reaches all below."
    ]


def test_a_file_address_is_read_as_other_addresses_are(tmp_path: Path):
    (tmp_path / "a b%20#.csv").write_bytes(BODY)
    file = only(f"file://{tmp_path}/*.csv")
    assert objects.read_range(file, 100, 300) == BODY[100:300]


@pytest.mark.parametrize(
    "address",
    [
        "zip://a.csv",
        "zip://a.csv::{folder}/absent.zip",
        "zip://a.csv::{folder}/no.zip",
        "tar://a.csv::{folder}/no.zip",
        "zip://*.csv::s3:bucket",
        "nonsense://bucket/a.csv",
        "sftp://host/a.csv",
        "gs://bucket/a.csv",
        "data:text://x",
        "reference://a.csv",
        "http://",
        "http://[::1/a.csv",
        "http://127.0.0.1/folder/",
        "s3://",
        "://",
        "memory://absent/*.csv",
        "file:///absent/*.csv",
    ],
)
def test_an_address_that_cannot_be_used_is_one_message_that_names_it_and_the_option(tmp_path, address, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    (tmp_path / "no.zip").write_bytes(b"no archive at all")
    named = address.format(folder=tmp_path)
    try:
        found = objects.list_files(named)
    except DatasetError as e:
        assert "dataset.path" in str(e)  # noqa: PT017
        assert "\n" not in str(e)  # noqa: PT017
    else:
        assert found == ([], ())


@pytest.mark.parametrize("address", ["ftp://127.0.0.1:1/a.csv", "http://127.0.0.1:1/a.csv", "http://127.0.0.1:1/*.csv"])
def test_a_server_that_is_not_there_may_be_asked_again(address):
    with pytest.raises(TidemillError) as refused:
        objects.list_files(address)
    assert refused.value.retryable
    assert "127.0.0.1:1" in str(refused.value)
