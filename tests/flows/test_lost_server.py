"""A Prefect server that is none, or is gone: a run that a person waits for says so once, and does not wait."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_API_URL, temporary_settings

from tests.commands import TIDEMILL, answer, environment, heed_ctrl_c, held_after, write_toml
from tests.pipelines import reviews, write_parquet
from tests.processes import PATIENCE_SECONDS, wait_until
from tidemill import retry
from tidemill.errors import ConfigError
from tidemill.flows import client, local
from tidemill.flows.client import check_configured, check_server, configured_server, reaching
from tidemill.flows.local import CONFIGURED
from tidemill.flows.server import temporary_server

NUM_FILES, LONG = 8, PATIENCE_SECONDS


def answering(status: int, body: bytes, kind: str = "application/json") -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def a_byte_now_and_then(request: BaseHTTPRequestHandler) -> None:
    while not over(request).wait(0.1):
        request.wfile.write(b"x")
        request.wfile.flush()


def nothing(request: BaseHTTPRequestHandler) -> None:
    over(request).wait()


def over(request: BaseHTTPRequestHandler) -> threading.Event:
    event: threading.Event = request.server.over  # type: ignore[attr-defined]
    return event


@contextmanager
def server_that(answers: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers(self)

        def do_POST(self) -> None:
            answers(self)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.over = threading.Event()  # type: ignore[attr-defined]
        found.daemon_threads = True
        threading.Thread(target=found.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{found.server_port}/api"
        finally:
            found.over.set()  # type: ignore[attr-defined]
            found.shutdown()


@pytest.mark.parametrize(
    ("answers", "seconds", "message"),
    [
        pytest.param(nothing, 1, "did not answer within 1 s", id="hangs"),
        pytest.param(a_byte_now_and_then, 1, "did not answer within 1 s", id="trickles"),
        pytest.param(answering(500, b"{}"), LONG, "answers 500 to GET", id="is broken"),
        pytest.param(answering(404, b"{}"), LONG, "answers 404 to GET", id="has another path"),
        pytest.param(answering(401, b"{}"), LONG, "wants credentials.*PREFECT_API_AUTH_STRING", id="wants credentials"),
        pytest.param(answering(200, b"<html>Log in", "text/html"), LONG, "is not a Prefect server", id="is a web page"),
        pytest.param(answering(200, b"[1]"), LONG, "is not a Prefect server", id="is another API"),
    ],
)
def test_what_is_no_prefect_server_is_told_once_with_its_address_and_the_way_out(answers, seconds, message):
    with server_that(answers) as url, reaching(url):
        with pytest.raises(ConfigError, match=message) as told:
            check_server(url, seconds, way_out=CONFIGURED)
        assert url in str(told.value)
        assert "credentials" in str(told.value) or "--direct" in str(told.value)


def test_a_server_that_is_waited_for_is_named_with_the_bound(monkeypatch, caplog):
    def once_that_is_told(request: BaseHTTPRequestHandler) -> None:
        wait_until(lambda: "waiting for the Prefect server" in caplog.text)
        answering(500, b"{}")(request)

    monkeypatch.setattr(retry, "QUIET_SECONDS", 0)
    monkeypatch.setattr(client, "BUSY_SECONDS", LONG)
    with server_that(once_that_is_told) as url, reaching(url):
        with pytest.raises(ConfigError, match="answers 500"):
            check_configured(url, way_out=CONFIGURED)
        assert f"waiting for the Prefect server at {url}, {LONG:.0f} s at most" in caplog.text


def test_commands_that_cannot_go_on_without_an_answer_give_each_request_the_longer_time(monkeypatch):
    monkeypatch.setattr(client, "BUSY_SECONDS", LONG)
    monkeypatch.setattr(client, "check_configured", lambda url, **_: None)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), configured_server():
        assert PREFECT_API_REQUEST_TIMEOUT.value() == LONG


def start_run(folder: Path, go: Path, url: str, password: str) -> subprocess.Popen[str]:
    """A run that commits file by file, at a server; it has committed some when this returns, and waits for `go`."""
    for i in range(NUM_FILES):
        write_parquet(folder / "data" / f"{i:02}.parquet", reviews(40 * i, 40))
    pipeline = write_toml(folder, f"{folder}/data/*", extra="[limits]\nshards_in_flight = 1\nshards_together = 1\n")
    path = held_after(2, folder / "held", go)
    run = subprocess.Popen(
        [*TIDEMILL, "run", str(pipeline)],
        env=environment(folder / "home", PREFECT_API_URL=url, PREFECT_API_AUTH_STRING=password, PYTHONPATH=path),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )
    assert run.stderr is not None
    assert any(line.startswith("shard 2/") for line in run.stderr)
    return run


def servers_process() -> int:
    children = [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
    [found] = [pid for pid in children if b"tidemill.flows.server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return int(found)


@pytest.mark.parametrize(
    ("sent", "interrupted"),
    [
        pytest.param(signal.SIGKILL, False, id="killed"),
        pytest.param(signal.SIGKILL, True, id="killed, then Ctrl-C", marks=pytest.mark.soak),
        pytest.param(signal.SIGSTOP, False, id="held still", marks=pytest.mark.soak),
        pytest.param(signal.SIGSTOP, True, id="held still, then Ctrl-C", marks=pytest.mark.soak),
    ],
)
def test_a_run_whose_server_goes_away_does_without_it_and_says_so_once(tmp_path, sent, interrupted):
    with temporary_server() as server:
        assert httpx.get(f"{server.url}/health", timeout=PATIENCE_SECONDS).status_code == 200
        run = start_run(tmp_path, tmp_path / "go", server.url, server.password)
        process = servers_process()
        os.kill(process, sent)
        if interrupted:
            run.send_signal(signal.SIGINT)
        else:
            (tmp_path / "go").touch()
        out, err = run.communicate(timeout=PATIENCE_SECONDS)
        if sent == signal.SIGSTOP:
            os.kill(process, signal.SIGKILL)
    assert err.count("The Prefect server stopped answering") == 1
    expected = ("shard ", "  ", "The Prefect server stopped", "waiting for ")
    internals = [line for line in err.splitlines() if not line.startswith(expected)]
    assert internals == []
    status = answer("status", tmp_path / "reviews.toml", home=tmp_path / "home")
    if interrupted:
        assert (run.returncode, "goes on from there" in out) == (1, True)
        assert status["runs"][0]["state"] == "stopped"
    else:
        assert (run.returncode, status["shards"]["done"], status["runs"][0]["state"]) == (0, NUM_FILES, "done")


@pytest.mark.parametrize("is_left", [False, True])
def test_threads_that_are_left_behind_do_not_say_what_they_could_not_send(is_left, monkeypatch, capsys):
    left_behind = threading.Event()
    monkeypatch.setattr(local, "LEFT_BEHIND", left_behind)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    record = logging.LogRecord("prefect.flow_runs", logging.INFO, "", 0, "a line", None, None)
    with local.quietly("http://127.0.0.1:1/api"):
        if is_left:
            left_behind.set()
    try:
        raise OSError("the server is gone")
    except OSError:
        logging.Handler().handleError(record)
    assert ("a line" in capsys.readouterr().err) is not is_left


def test_a_second_ctrl_c_ends_a_command_at_once(tmp_path):
    script = (
        "import os, signal, time\n"
        "from tidemill.cli import main\n"
        "def hang(_):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(600)\n"
        "main.SAME_MOMENT_SECONDS, main._run = -1, hang\n"
        "main.main()\n"
    )
    done = subprocess.run(
        [TIDEMILL[0], "-c", script],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        preexec_fn=heed_ctrl_c,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("tidemill: stopped. ")
    assert done.stderr.count("\n") == 1
