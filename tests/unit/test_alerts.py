"""Alerts, to a real HTTP server on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest

from tests.pipelines import make_pipeline, reviews, run, write_parquet
from tests.webhooks import webhook
from tidemill.lake import Lake
from tidemill.lake.runs import RunRecord, last_fresh, record_run
from tidemill.reports import alerts
from tidemill.reports.alerts import alert, staleness


def test_an_alert_is_json_with_a_text(tmp_path, monkeypatch):
    with webhook() as (url, posted):
        monkeypatch.setenv("ALERTS_URL", url)
        pipeline = make_pipeline(tmp_path, "nowhere", alerts={"webhook": "$ALERTS_URL", "on": ["failed"]})
        assert alert(pipeline, "failed", "It failed.", rows=3) is None
        assert alert(pipeline, "recovered", "It works again.") is None
    assert posted == [{"text": "It failed.", "kind": "failed", "pipeline": "reviews", "rows": 3}]


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("$NOWHERE", "the environment has no NOWHERE"),
        ("file:///etc/hostname", "not an http:// or https:// address"),
        ("http://127.0.0.1:9/", "could not be sent"),
        ("http://nowhere.invalid/", "could not be sent"),
        ("https://127.0.0.1:9/", "could not be sent"),
        ("http://", "could not be sent"),
        ("http://[::1/", "could not be sent"),
        ("http://127.0.0.1:port/", "InvalidURL"),
        ("http://127.0.0.1:9/a b\n", "InvalidURL"),
        ("http://127.0.0.1:9/ä😀", "UnicodeEncodeError"),
        ("http://" + "ä" * 80 + ".example/", "could not be sent"),
        ("http://127.0.0.1:99999999/", "could not be sent"),
        ("$", "could not be sent"),
    ],
)
def test_a_webhook_that_fails_is_told_and_raises_nothing(tmp_path, address, told):
    wrong = alert(make_pipeline(tmp_path, "nowhere", alerts={"webhook": address}), "failed", "It failed.")
    assert wrong is not None
    assert told in wrong


def test_a_webhook_that_refuses_is_told(tmp_path):
    with webhook(status=500) as (url, _):
        wrong = alert(make_pipeline(tmp_path, "nowhere", alerts={"webhook": url}), "failed", "It failed.")
    assert "500" in (wrong or "")


@contextmanager
def answering(answer: bytes, *, again: bytes = b"") -> Iterator[str]:
    """The address of a server that answers whatever it is asked with these bytes, and then with others for ever."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with client, suppress(OSError):
                        client.recv(65536)
                        client.sendall(answer.replace(b"PORT", str(server.getsockname()[1]).encode()))
                        while again and not stop.wait(0.01):
                            client.sendall(again)

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        finally:
            stop.set()
            server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no HTTP at all\r\n\r\n",
        b"HTTP/1.1 404 Gone\r\nContent-Length: 5\r\n\r\nhe",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:PORT/again\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:PORT/again\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/hostname\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70_000,
    ],
    ids=["nothing", "no HTTP", "404 cut short", "loop", "307", "file", "endless line"],
)
def test_an_answer_that_is_none_is_told_and_raises_nothing(tmp_path, answer):
    with answering(answer) as url:
        wrong = alert(make_pipeline(tmp_path, "nowhere", alerts={"webhook": url}), "failed", "It failed: ä😀\udc00.")
    assert wrong is not None
    assert "could not be sent to alerts.webhook: " in wrong


def test_an_answer_that_never_ends_is_given_up(tmp_path, monkeypatch):
    """Every byte comes in time, and the answer never does."""
    monkeypatch.setattr(alerts, "ANSWER_SECONDS", 0.3)
    with answering(b"HTTP/1.1 200 OK\r\nX: ", again=b"y") as url:
        wrong = alert(make_pipeline(tmp_path, "nowhere", alerts={"webhook": url}), "failed", "It failed.")
    assert "no whole answer" in (wrong or "")


def test_a_table_is_fresh_from_the_end_of_a_run_and_stale_after_max_age(tmp_path):
    write_parquet(tmp_path / "one.parquet", reviews(0, 20))
    pipeline = make_pipeline(tmp_path, str(tmp_path / "one.parquet"), alerts={"max_age": "1 h"})
    run(pipeline)
    with Lake(pipeline.lake) as lake:
        fresh = last_fresh(lake.cursor(), pipeline.name)
        assert fresh is not None
        assert staleness(lake.cursor(), pipeline) is None
        failed = RunRecord("later", pipeline.name, "run", why="test", state="failed")
        failed.finished_at = datetime.now(UTC) + timedelta(hours=1)
        record_run(lake, failed)
        assert last_fresh(lake.cursor(), pipeline.name) == fresh
        never = make_pipeline(tmp_path, "nowhere", name="never", alerts={"max_age": "1 h"})
        assert "was never up to date" in (staleness(lake.cursor(), never) or "")
