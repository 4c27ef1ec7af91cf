"""What is bounded: the queue, the time that nothing moves, what a client that left still costs."""

from __future__ import annotations

import gc
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.processes import eventually, wait_until
from tests.services import AUTHORIZED, TOKEN, serving
from tidemill.errors import ConfigError, RunFailed
from tidemill.serving import running
from tidemill.serving.answering.limits import Limits
from tidemill.serving.answering.workers import STUCK_SECONDS
from tidemill.serving.http import connections


@contextmanager
def busy(served) -> Iterator[None]:
    """The model takes no batch within the block."""
    with served.pipeline().workers.version.runner._lock:
        yield


def occupied(served, pool: ThreadPoolExecutor, text: str) -> list[Future[Any]]:
    """Within `busy`, requests of one row each that are in the model, so that no more are taken."""
    workers = served.pipeline().workers
    taken = []
    for number in range(1, workers._side_by_side + 1):
        taken.append(pool.submit(served.predict, text))
        eventually(lambda: workers._num_computing, number.__eq__)
    return taken


@pytest.fixture(scope="module")
def narrow(reviewed):
    """A service in which four rows may wait."""
    limits = Limits(queue_rows=4, call_rows=4, connections=16, header_seconds=0.3, body_seconds=0.3, linger_seconds=0.0)
    with serving(reviewed, limits=limits) as found:
        yield found


def test_a_queue_that_is_full_answers_429_and_says_when_to_come_again(narrow):
    workers = narrow.pipeline().workers
    with ThreadPoolExecutor() as pool:
        with busy(narrow):
            taken = occupied(narrow, pool, "taken by the model")
            waiting = [pool.submit(narrow.predict, ["one", "two", "three"])]
            wait_until(lambda: workers.num_waiting == 3)
            refused = [narrow.client.post("/predict", json={"inputs": ["no", "room"]})]
            waiting.append(pool.submit(narrow.predict, ["the last that may wait"]))
            wait_until(lambda: workers.num_waiting == 4)
            refused.append(narrow.client.post("/predict", json={"inputs": "one too many"}))
            alive = narrow.client.get("/health"), narrow.client.get("/ready")
        answers = [taken[0].result(), *(each.result() for each in waiting)]

    assert [each.status_code for each in refused] == [429, 429]
    assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
    assert [each.status_code for each in alive] == [200, 200]
    assert [len(answer) for answer in answers[1:]] == [3, 1]


def test_what_is_there_when_the_service_begins_is_not_looked_at_for_garbage_again(reviewed):
    there = [object()]
    assert any(each is there for each in gc.get_objects())
    with serving(reviewed):
        assert not any(each is there for each in gc.get_objects())


def test_the_rows_of_a_client_that_left_leave_the_queue_and_are_not_computed(narrow):
    workers = narrow.pipeline().workers
    counted = tokens_computed(narrow)
    with ThreadPoolExecutor() as pool:
        with busy(narrow):
            taken = occupied(narrow, pool, "here")
            with socket.create_connection(address_of(narrow)) as leaving:
                body = b'{"inputs": ["left", "left", "left"]}'
                leaving.sendall(head(len(body)) + body)
                wait_until(lambda: workers.num_waiting == 3)
        # The model is free, and the rows were its next batch.
        num_tokens = sum(each.result()["num_tokens"] for each in taken)
        narrow.predict("after")

    assert workers.num_waiting == 0
    after = narrow.predict("after")["num_tokens"]
    assert tokens_computed(narrow) == counted + num_tokens + 2 * after


def test_not_ready_while_work_waits_and_nothing_moves(narrow):
    workers = narrow.pipeline().workers
    assert not workers.is_stuck(time.monotonic() + 10 * STUCK_SECONDS)
    with ThreadPoolExecutor(1) as pool:
        with busy(narrow):
            answer = pool.submit(narrow.predict, "waits")
            wait_until(lambda: workers._num_computing == 1)
            now = time.monotonic()
            found = workers.is_stuck(now + 0.5 * STUCK_SECONDS), workers.is_stuck(now + 2 * STUCK_SECONDS)
        answer.result()

    assert found == (False, True)


def test_a_device_that_broke_is_not_ready_and_takes_no_more(narrow, monkeypatch):
    workers = narrow.pipeline().workers

    def breaks(*args, **kwargs):
        raise RunFailed("The device cuda:0 failed: it fell out.")

    monkeypatch.setattr(workers.version.plain.runner, "predict", breaks)
    try:
        first, second = (narrow.client.post("/predict", json={"inputs": "a"}) for _ in range(2))
        ready = narrow.client.get("/ready")
    finally:
        workers.broken = None

    assert [first.status_code, second.status_code, ready.status_code] == [503] * 3
    assert "it fell out" in ready.json()["why"]


def test_a_row_that_fails_alone_takes_no_other_with_it(narrow, monkeypatch):
    preparer = narrow.pipeline().version.plain.preparer
    monkeypatch.setattr(preparer, "_quarantine", True)
    long = "good " * 2_000

    many = narrow.predict(["fine", long, "fine"])
    one = narrow.client.post("/predict", json={"inputs": long})

    assert ["error" in row for row in many] == [False, True, False]
    assert "tokenizer.max_length" in many[1]["error"]
    assert (one.status_code, set(one.json())) == (422, {"error"})


def test_headers_that_do_not_come_to_an_end_are_given_up(narrow):
    with socket.create_connection(address_of(narrow)) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: loc")

        assert read_all(slow).startswith(b"HTTP/1.1 408 ")


def test_headers_without_end_are_refused_by_their_bytes_and_the_client_reads_why(reviewed):
    with serving(reviewed) as served, socket.create_connection(address_of(served)) as it:
        it.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        for number in range(1_000):
            it.sendall(b"X-Long-%d: %s\r\n" % (number, b"x" * 1_000))

        assert read_all(it).startswith(b"HTTP/1.1 431 ")


def test_a_client_that_asks_and_never_reads_is_given_up(narrow, monkeypatch):
    monkeypatch.setattr(connections, "READ_SECONDS", 0.2)
    with socket.socket() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        greedy.connect(address_of(narrow))
        greedy.setblocking(False)

        wait_until(lambda: is_given_up(greedy))


def is_given_up(connection: socket.socket) -> bool:
    """Whether the other side has left, to which requests are sent as long as it takes some; no answer is read."""
    try:
        connection.send(b"GET /docs HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1_000)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return False


def test_a_body_nested_beyond_measure_is_refused(narrow):
    body = f'{{"inputs": "a", "parameters": {{"top_k": {"[" * 900 + "]" * 900}}}}}'
    answers = [
        narrow.client.post("/predict", content=body, headers={"content-type": "application/json"}),
        narrow.client.get(f"/rows/{'[' * 3_000}"),
    ]

    assert [answer.status_code in (400, 404, 414, 422) for answer in answers] == [True, True]


def test_a_body_that_does_not_come_to_an_end_is_given_up(narrow):
    with socket.create_connection(address_of(narrow)) as slow:
        slow.sendall(head(100) + b'{"inputs": "')

        assert read_all(slow).startswith(b"HTTP/1.1 408 ")


def test_connections_that_say_nothing_make_room_for_one_that_does(narrow):
    hold_connections(narrow, 100)


@pytest.mark.soak
def test_ten_thousand_connections_that_say_nothing_keep_nobody_out(reviewed):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with serving(reviewed) as found:
            hold_connections(found, 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def hold_connections(served, number: int) -> None:
    held = []
    try:
        for _ in range(number):
            held.append(socket.create_connection(address_of(served)))
            if len(held) % 25 == 0:
                answer = httpx.post(f"{served.address}/predict", json={"inputs": "a"}, headers=AUTHORIZED, timeout=60)
                assert answer.status_code == 200
        assert read_all(held[0]).startswith(b"HTTP/1.1 408 ")
    finally:
        for each in held:
            each.close()


def test_limits_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="--max-rows 10"):
        Limits(queue_rows=5, call_rows=10)


def address_of(served) -> tuple[str, int]:
    host, _, port = served.address.removeprefix("http://").partition(":")
    return host, int(port)


def head(length: int) -> bytes:
    return (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def read_all(connection: socket.socket) -> bytes:
    found = b""
    while part := connection.recv(4_096):
        found += part
    return found


def tokens_computed(served) -> float:
    lines = served.client.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("tidemill_tokens_total"))


def test_what_the_service_has_is_waited_for_no_longer_than_it_may(reviewed):
    with serving(reviewed) as found:
        workers = found.pipeline().workers
        with ThreadPoolExecutor(1) as pool:
            with busy(found):
                answer = pool.submit(found.predict, "begun")
                wait_until(lambda: workers._num_computing == 1)
                workers.close()
                is_ended = workers.join(0.0)
                refused = found.client.post("/predict", json={"inputs": "too late"})
            begun = answer.result()

        assert (is_ended, refused.status_code) == (False, 503)
        assert begun["label"]
        assert workers.join(60.0)


@pytest.mark.parametrize(("cpus", "threads"), [(1, "1"), (2, "1"), (16, "4")])
def test_tokenizers_leave_the_cpus_that_there_are_to_the_model(monkeypatch, cpus, threads):
    monkeypatch.setattr(running, "num_cpus", lambda: cpus)
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)

    running.share_cpus()

    assert os.environ.pop("RAYON_NUM_THREADS") == threads
