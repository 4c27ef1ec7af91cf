"""`tidemill serve` as a process: promotions in mid-load, and an end that loses nothing."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.commands import TIDEMILL, environment, tidemill, write_toml
from tests.pipelines import make_pipeline, reviews, run, write_parquet
from tests.processes import PATIENCE_SECONDS, wait_until
from tests.services import serving
from tests.versions import compute_version
from tidemill.config import load_pipeline
from tidemill.lake import Lake
from tidemill.results.promotion import promote

TEXTS = ["A warm film, and funny.", "Dull.", "Two hours that I want back, all of them."]


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    """A pipeline file whose pipeline ran."""
    write_parquet(tmp_path / "data" / "0.parquet", reviews(0, 12))
    path, folder = write_toml(tmp_path, f"{tmp_path}/data/*"), tmp_path
    path.write_text(
        f'{path.read_text()}\n[lake]\ncatalog = "sqlite:{folder}/lake.sqlite"\ndata = "{folder}/lake"\n'
        f'[store]\npath = "{folder}/store"\n'
    )
    run(load_pipeline(path))
    return path


class Command:
    """The command in a process of its own."""

    def __init__(self, toml: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [*TIDEMILL, "serve", str(toml), "--port", "0", *options],
            env=environment(toml.parent / "home"),
            stdout=subprocess.PIPE,
            stderr=(toml.parent / "stderr").open("w"),
            text=True,
        )
        self._stderr = toml.parent / "stderr"
        assert self.process.stdout is not None
        said = ""
        while "Serving at" not in said:
            line = self.process.stdout.readline()
            assert line, self.stderr
            said += line
        self.said = said
        [self.address] = re.findall(r"Serving at (http://\S+?)\. ", said)
        [self.token] = re.findall(r"Token: (\S+)", said)

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.address, headers={"authorization": f"Bearer {self.token}"}, timeout=PATIENCE_SECONDS
        )


@pytest.fixture
def command(toml: Path) -> Iterator[Command]:
    found = Command(toml)
    yield found
    found.process.kill()
    found.process.wait()


def test_a_promotion_and_sigterm_in_mid_load_lose_no_request(toml, command):
    pipeline = load_pipeline(toml)
    other = pipeline.model_copy(update={"tokenizer": pipeline.tokenizer.model_copy(update={"max_length": 8})})
    second = compute_version(other)
    ended, statuses, failures, closed = threading.Event(), [], [], []

    def ask_on(client: httpx.Client) -> None:
        while not ended.is_set():
            try:
                found = client.post("/predict", json={"inputs": TEXTS})
            except httpx.ConnectError:
                return  # Nobody listens any more: no request was taken.
            except httpx.HTTPError as e:
                failures.append(repr(e))
                return
            statuses.append(found.status_code)
            if found.headers.get("connection") == "close":
                closed.append(client)
                return

    def versions() -> str:
        with command.client() as client:
            return str(client.get("/version").json()["pipelines"][0]["version"])

    with ThreadPoolExecutor(4) as pool:
        loaders = [pool.submit(ask_on, command.client()) for _ in range(4)]
        wait_until(lambda: len(statuses) > 8)
        with Lake(pipeline.lake) as lake:
            promote(lake, pipeline.name, second)
        wait_until(lambda: versions() == second)
        after_swap = len(statuses)
        wait_until(lambda: len(statuses) > after_swap + 8)
        command.process.send_signal(signal.SIGTERM)
        for loader in loaders:
            loader.result(PATIENCE_SECONDS)
        ended.set()

    assert command.process.wait(PATIENCE_SECONDS) == 0
    assert failures == []
    assert set(statuses) == {200}
    assert len(closed) == 4
    assert "is served by version" in command.stderr
    assert "Traceback" not in command.stderr


@pytest.mark.slow
def test_a_service_that_ends_is_not_ready_waits_for_what_it_has_and_ends_at_once_when_asked_again(toml):
    command, held = Command(toml, "--grace", "3600"), threading.Event()

    def content() -> Iterator[bytes]:
        yield b'{"inputs": '
        held.wait(PATIENCE_SECONDS)
        yield b'"the rest"}'

    def ask_again() -> bool:
        # Two signals within half a second are one, sent to a group of processes.
        command.process.send_signal(signal.SIGTERM)
        return command.process.poll() is not None

    kind = {"content-type": "application/json"}
    with command.client() as client, command.client() as waiting, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(waiting.post, "/predict", content=content(), headers=kind)
        wait_until(lambda: client.get("/health").status_code == 200)
        command.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "ends when" in command.stderr)
        ready = client.get("/ready")
        wait_until(ask_again)
        held.set()
        with pytest.raises(httpx.HTTPError):
            answer.result(PATIENCE_SECONDS)

    assert (ready.status_code, ready.headers["connection"]) == (503, "close")
    assert "ends" in ready.json()["why"]
    assert command.process.returncode == 1
    assert "stopped at once" in command.stderr


def test_serving_what_never_ran_is_one_message(tmp_path):
    toml = write_toml(tmp_path, f"{tmp_path}/data/*")
    write_parquet(tmp_path / "data" / "0.parquet", reviews(0, 4))

    done = tidemill("serve", toml, "--port", "0", home=tmp_path / "home")

    assert done.returncode == 2
    assert "There is no lake at" in done.stderr
    assert "`tidemill run` makes it" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("package", ["httptools", "prometheus_client"])
def test_a_package_that_is_missing_is_named_with_what_to_install(toml, package):
    done = tidemill("serve", toml, home=toml.parent / "home", absent=[package])

    assert done.returncode == 2
    assert f'needs {package}: pip install "tidemill[serve]"' in done.stderr


def test_texts_that_the_table_has_are_answered_from_it_and_others_computed(tmp_path):
    rows = reviews(0, 12)
    write_parquet(tmp_path / "data" / "0.parquet", rows)
    pipeline = make_pipeline(tmp_path, f"{tmp_path}/data/*")
    run(pipeline)
    texts = rows["text"].to_pylist()

    with serving(pipeline) as plain:
        computed = plain.predict([*texts, "A text of nobody's."])
    with serving(pipeline, reuse=True) as reusing:
        known = reusing.predict(texts)
        both = reusing.predict(["A text of nobody's.", texts[0]])
        counts = reusing.client.get("/metrics").text

    for found, expected in zip([*known, *both], [*computed[:-1], computed[-1], computed[0]], strict=True):
        assert found == pytest.approx(expected, abs=1e-4)
    assert f'tidemill_rows_reused_total{{pipeline="reviews"}} {len(texts) + 1}.0' in counts


@pytest.mark.slow
def test_a_version_for_which_memory_has_no_room_leaves_the_one_before_in_service(tmp_path, monkeypatch):
    write_parquet(tmp_path / "data" / "0.parquet", reviews(0, 6))
    pipeline = make_pipeline(tmp_path, f"{tmp_path}/data/*")
    run(pipeline)
    second = compute_version(
        pipeline.model_copy(update={"tokenizer": pipeline.tokenizer.model_copy(update={"max_length": 9})})
    )
    with serving(pipeline) as served:
        first, before = served.pipeline().version.name, weakref.ref(served.pipeline().version)
        monkeypatch.setattr("tidemill.serving.pipelines.pipeline.memory_bytes", lambda: (10**9, 10))
        with Lake(pipeline.lake) as lake:
            promote(lake, pipeline.name, second)
        wait_until(lambda: served.pipeline().trouble is not None)
        said = served.client.get("/version").json()["pipelines"][0]
        assert served.predict("It goes on.")
        monkeypatch.undo()
        wait_until(lambda: served.pipeline().version.name == second)
        assert served.pipeline().trouble is None
        # Its memory is free for the next one: the service leaves what it has opened out of collections of garbage.
        wait_until(lambda: before() is None)

    assert said["version"] == first
    assert "memory" in said["not_served"]
