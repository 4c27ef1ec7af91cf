"""Models behind an address, against a real server on loopback that fails as it is told to."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from transformers import GenerationConfig

from tests.chat_server import CUT, RESET, Asked, ChatServer, Fails, completion
from tidemill.config import Endpoint, Inference
from tidemill.encoding.items import IDS, MASK
from tidemill.encoding.prompts import packed
from tidemill.engines.writing.endpoint import EndpointWriter
from tidemill.engines.writing.endpoint.pace import GIVE_UP_SECONDS, Pace
from tidemill.engines.writing.endpoint.protocol import Protocol
from tidemill.engines.writing.endpoint.server import Server, seconds_asked
from tidemill.engines.writing.generation.settings import Sampling, Settings
from tidemill.engines.writing.generation.written import FAILED, LENGTH, STOP
from tidemill.errors import ConfigError, ModelError, RunFailed, SourceUnavailable, Stopped

KEY = "sk-very-secret-0123456789"


class FakeClock:
    """Seconds pass when somebody sleeps, and at once; `slept` is how long each wanted to."""

    def __init__(self) -> None:
        self.now, self.slept = 1000.0, []  # type: tuple[float, list[float]]

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now = max(self.now, self.now + seconds)
        await asyncio.sleep(0)


def settings(**options: Any) -> Settings:
    most = options.pop("max_new_tokens", 16)
    return Settings(GenerationConfig(), most, **options)


def inference(server: ChatServer, **options: Any) -> Inference:
    return Inference(engine="endpoint", endpoint=Endpoint(base_url=f"{server.url}/v1", **options))


def writer(
    server: ChatServer, clock: FakeClock | None = None, *, retries: int = 5, thinking: bool = False, **options: Any
) -> EndpointWriter:
    """One whose waits take no time."""
    made_of = {name: options.pop(name) for name in ("sampling", "stop", "grammar", "max_new_tokens") if name in options}
    clock = clock or FakeClock()
    asked = inference(server, **options)
    there = Server(asked.endpoint)
    pace = Pace(there, clock=clock, sleep=clock.sleep, draw=lambda least, most: most)
    protocol = Protocol("tiny", settings(**made_of), thinking=thinking)
    return EndpointWriter(there, protocol, concurrency=asked.endpoint.concurrency, retries=retries, pace=pace)


def batch(*prompts: object) -> dict[str, np.ndarray]:
    encoded = [packed(json.dumps(prompt).encode()) for prompt in prompts]
    width = max(map(len, encoded))
    ids = np.zeros((len(encoded), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, said in enumerate(encoded):
        ids[row, : len(said)], mask[row, : len(said)] = said, 1
    return {IDS: ids, MASK: mask}


def written(outputs: np.ndarray) -> list[tuple[int, str, int, int]]:
    """How each ended, its text or reason, and the counts of the prompt and of what is new."""
    rows = []
    for finish, num_prompt, num_new, *ids in outputs.tolist():
        rows.append((finish, bytes(each for each in ids if each >= 0).decode(), num_prompt, num_new))
    return rows


def texts(outputs: np.ndarray) -> list[str]:
    return [text for _, text, _, _ in written(outputs)]


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def first_time(failure: Fails) -> Callable[[Asked], Fails | None]:
    return lambda asked: failure if asked.method == "POST" and asked.times == 1 else None


def always(failure: Fails, *, of: str = "") -> Callable[[Asked], Fails | None]:
    return lambda asked: failure if asked.method == "POST" and of in asked.prompt else None


def test_a_prompt_goes_as_it_is_and_messages_go_to_the_chat():
    with ChatServer() as server:
        outputs = writer(server).submit(batch("one two", message("three four"))).result()
        assert written(outputs) == [(STOP, "two one", 7, 2), (STOP, "four three", 7, 2)]
        by_path = {asked.path: asked.body for asked in server.asked}
        assert by_path["/v1/completions"]["prompt"] == "one two"
        assert by_path["/v1/chat/completions"]["messages"] == message("three four")


def test_temperature_and_limits_are_always_sent():
    with ChatServer() as server:
        writer(server, max_new_tokens=33, stop=("###",)).submit(batch(message("a b"))).result()
        body = server.asked[-1].body
        wanted = {"model": "tiny", "max_tokens": 33, "temperature": 0.0, "top_p": 1.0, "seed": 0, "stop": ["###"]}
        assert {name: body[name] for name in wanted} == wanted
        assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_row_s_seed_is_its_own_whatever_its_neighbours():
    def seeds(*prompts: str, seed: int = 5) -> dict[str, int]:
        with ChatServer() as server:
            engine = writer(server, sampling=Sampling(seed=seed, temperature=0.7, top_p=0.9, top_k=40))
            engine.submit(batch(*prompts)).result()
            assert {asked.body["temperature"] for asked in server.asked} == {0.7}
            assert {asked.body["top_k"] for asked in server.asked} == {40}
            return {asked.prompt: asked.body["seed"] for asked in server.asked}

    both = seeds("a", "b")
    assert both["a"] != both["b"]
    assert seeds("b") == {"b": both["b"]}
    assert seeds("b", seed=6) != {"b": both["b"]}


def test_answers_out_of_order_are_put_in_their_rows_places():
    answered: list[str] = []
    last_first = {name: threading.Event() for name in "abcd"}
    last_first["d"].set()

    def in_reverse(asked: Asked) -> Mapping[str, Any]:
        name = asked.prompt[0]
        assert last_first[name].wait(30)
        answered.append(name)
        if name != "a":
            last_first[chr(ord(name) - 1)].set()
        return completion(f"{name}!", chat=False)

    with ChatServer(answer=in_reverse) as server:
        outputs = writer(server, concurrency=4).submit(batch("a 1", "b 2", "c 3", "d 4")).result()
    assert answered == ["d", "c", "b", "a"]
    assert texts(outputs) == ["a!", "b!", "c!", "d!"]


def test_no_more_requests_are_on_their_way_than_allowed():
    with ChatServer() as server:
        engine = writer(server, concurrency=3)
        waiting = [engine.submit(batch(*(f"{i} {j}" for j in range(8)))) for i in range(4)]
        assert [texts(each.result()) for each in waiting] == [[f"{j} {i}" for j in range(8)] for i in range(4)]
        assert server.most_at_once <= 3


NO_JSON = Fails(how="body", body=b"<html>")


@pytest.mark.parametrize("failure", [*map(Fails, (408, 409, 500, 502, 504)), CUT, RESET, NO_JSON])
def test_what_may_go_well_another_time_is_tried_again(failure):
    with ChatServer(fails=first_time(failure)) as server:
        prompts = [f"{i} row" for i in range(20)]
        outputs = writer(server, concurrency=4).submit(batch(*prompts)).result()
        assert texts(outputs) == [f"row {i}" for i in range(20)]
        assert sorted(server.prompts) == sorted(prompts * 2)


def test_what_fails_every_time_fails_its_row_alone():
    with ChatServer(fails=always(Fails(500, message="out of\nblocks"), of="bad")) as server:
        outputs = writer(server, retries=3).submit(batch("good row", "bad row")).result()
        assert written(outputs) == [
            (STOP, "row good", 7, 2),
            (FAILED, "the server failed, the last of 4 times: it answered 500: out of blocks", -1, -1),
        ]
        assert server.prompts.count("bad row") == 4


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_not_sent_again_and_fails_its_row(status):
    with ChatServer(fails=always(Fails(status, message="too long by 12 tokens"), of="bad")) as server:
        outputs = writer(server).submit(batch("bad row", "good row")).result()
        assert written(outputs)[0][:2] == (
            FAILED,
            f"the server refused it: it answered {status}: too long by 12 tokens",
        )
        assert server.prompts.count("bad row") == 1


def test_a_refusal_says_one_short_line_without_secrets():
    said = f"first\nsecond {KEY} hf_{'a' * 30} {'x' * 500}"
    with ChatServer(key=KEY, fails=always(Fails(400, message=said))) as server, key_in_environment():
        outputs = writer(server, api_key="$TIDEMILL_TEST_KEY").submit(batch("row")).result()
    reason = texts(outputs)[0]
    assert reason.startswith("the server refused it: it answered 400: first second *** hf_***")
    assert "\n" not in reason
    assert len(reason) < 300


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_model_ends_the_run(status):
    with ChatServer(fails=always(Fails(status, message="no"))) as server:
        waiting = writer(server, concurrency=2).submit(batch(*(f"{i}" for i in range(50))))
        with pytest.raises(RunFailed, match=rf"answered {status}: no to /completions\. Set "):
            waiting.result()
        assert len(server.prompts) < 50


@pytest.mark.parametrize("status", [429, 503, 500, 408])
def test_a_wait_that_the_server_asks_for_holds_back_every_request(status):
    clock = FakeClock()
    was_asked = threading.Event()

    def busy_at_first(asked: Asked) -> Fails | None:
        if asked.method == "POST" and not was_asked.is_set():
            was_asked.set()
            return Fails(status, {"Retry-After": "30"}, message="slow down")
        return None

    with ChatServer(fails=busy_at_first, clock=clock) as server:
        outputs = writer(server, clock, concurrency=1, retries=1).submit(batch("a 1", "b 2", "c 3")).result()
        assert texts(outputs) == ["1 a", "2 b", "3 c"]
        first, *others = [asked.at for asked in server.asked if asked.method == "POST"]
        assert len(others) == 3
        assert min(others) >= first + 30


def test_a_429_uses_up_no_try():
    with ChatServer(fails=lambda asked: Fails(429) if asked.method == "POST" and asked.times <= 8 else None) as server:
        assert texts(writer(server, retries=0).submit(batch("a 1")).result()) == ["1 a"]
        assert len(server.prompts) == 9


def test_a_server_that_is_down_for_a_while_costs_no_row_a_try():
    """Nothing is known of a row from a server that answers nobody."""
    clock = FakeClock()
    with ChatServer(fails=lambda _: Fails(502) if clock.now < 1120 else None, clock=clock) as server:
        outputs = writer(server, clock, retries=1).submit(batch("a 1", "b 2")).result()
        assert texts(outputs) == ["1 a", "2 b"]


def test_a_server_that_answers_nobody_for_long_ends_the_run():
    clock = FakeClock()
    gave_up = pytest.raises(RunFailed, match=r"has answered nobody for .* it answered 503: loading")
    with ChatServer(fails=lambda _: Fails(503, message="loading")) as server, gave_up:
        writer(server, clock).submit(batch("a 1", "b 2")).result()
    assert GIVE_UP_SECONDS * 0.9 <= clock.now - 1000.0 <= GIVE_UP_SECONDS * 1.1


def test_a_wait_without_an_end_is_not_waited_for():
    clock = FakeClock()
    tomorrow = always(Fails(429, {"Retry-After": "86400"}))
    with ChatServer(fails=tomorrow) as server, pytest.raises(RunFailed, match="asks to wait 86,400 s"):
        writer(server, clock).submit(batch("a 1")).result()
    assert clock.slept == []


def test_a_row_that_is_turned_away_for_long_while_others_are_answered_fails_alone():
    clock = FakeClock()
    with ChatServer(fails=always(Fails(429, message="too large for your limit"), of="large")) as server:
        engine = writer(server, clock, concurrency=2)
        outputs = engine.submit(batch("large row", *(f"{i} row" for i in range(30)))).result()
    turned_away = "the server turned it away for 600 s: it answered 429: too large for your limit"
    assert texts(outputs) == [turned_away, *(f"row {i}" for i in range(30))]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0.5", 0.5), (formatdate(1_000_090, usegmt=True), 90.0), ("soon", None), ("-3", 0.0), ("inf", None)],
)
def test_a_wait_is_seconds_or_a_date(header, seconds):
    assert seconds_asked({"Retry-After": header}, now=1_000_000) == seconds


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (completion("cut off", chat=True, finish="length"), (LENGTH, "cut off")),
        (completion("", chat=True), (STOP, "")),
        (
            completion(None, chat=True, finish="length", reasoning_content="hmm"),
            (FAILED, "the model spent its budget thinking"),
        ),
        (
            completion("", chat=True, finish="length", reasoning="hmm"),
            (FAILED, "the model spent its budget thinking"),
        ),
        (
            completion("x", chat=True, finish="content_filter"),
            (FAILED, "the server ended the answer with finish_reason = content_filter"),
        ),
        (completion(None, chat=True, refusal="I will not."), (FAILED, "the model refused: I will not.")),
        (completion("x", chat=True, finish=None), (FAILED, "the server does not say why the answer ends")),
    ],
)
def test_how_an_answer_ends(answer, outcome):
    with ChatServer(answer=lambda _: answer) as server:
        outputs = writer(server).submit(batch(message("row"))).result()
        assert written(outputs)[0][:2] == outcome


@pytest.mark.parametrize("answer", [{}, [], {"choices": []}, {"choices": [{"finish_reason": "stop"}]}, "text", None])
def test_an_answer_that_is_none_is_asked_for_again_and_then_fails_its_row(answer):
    with ChatServer(answer=lambda _: answer) as server:
        outputs = writer(server, retries=2).submit(batch("row")).result()
        assert written(outputs)[0][1].startswith("the server failed, the last of 3 times: its answer")
        assert len(server.prompts) == 3


def test_counts_are_the_server_s_and_unknown_where_it_gives_none():
    with ChatServer(answer=lambda _: {**completion("a", chat=False), "usage": None}) as server:
        assert written(writer(server).submit(batch("row")).result()) == [(STOP, "a", -1, -1)]


def test_any_character_comes_back():
    text = 'né 漢字 🌊 "quoted"\n\ttab \\ end'
    with ChatServer(answer=lambda asked: completion(asked.prompt, chat=False)) as server:
        assert texts(writer(server).submit(batch(text)).result()) == [text]


def test_somebody_who_stops_waits_for_no_answer():
    is_free, is_asked = threading.Event(), threading.Event()

    def slow(asked: Asked) -> Mapping[str, Any]:
        is_asked.set()
        assert is_free.wait(30)
        return completion("late", chat=False)

    with ChatServer(answer=slow) as server:
        waiting = writer(server, concurrency=1).submit(batch("a", "b", "c"), should_stop=is_asked.is_set)
        with pytest.raises(Stopped):
            waiting.result()
        is_free.set()
    assert server.prompts == ["a"]


def test_a_slow_answer_is_given_up_and_asked_for_again():
    is_free = threading.Event()

    def slow_at_first(asked: Asked) -> Mapping[str, Any]:
        if asked.times == 1:
            assert is_free.wait(30)
        is_free.set()
        return completion("there", chat=False)

    with ChatServer(answer=slow_at_first) as server:
        assert texts(writer(server, timeout_seconds=0.2).submit(batch("row")).result()) == ["there"]


def test_a_server_that_refuses_an_option_of_others_is_asked_without_it():
    refused = Fails(400, message="Unrecognized request argument supplied: chat_template_kwargs")
    with ChatServer(fails=lambda asked: refused if "chat_template_kwargs" in asked.body else None) as server:
        engine = writer(server, concurrency=1)
        assert texts(engine.submit(batch(message("a b"), message("c d"))).result()) == ["b a", "d c"]
        assert len(server.prompts) == 3
        assert engine.facts()["refused_options"] == ["chat_template_kwargs"]


class Choices:
    source = json.dumps({"choices": ["yes", "no"]})


class Schema:
    source = json.dumps({"json_schema": {"type": "object", "properties": {"mood": {"type": "string"}}}})


def test_a_choice_is_asked_for_as_json_and_is_the_answer_itself():
    with ChatServer(answer=lambda _: completion('{"answer": "yes"}', chat=True)) as server:
        outputs = writer(server, grammar=Choices(), max_new_tokens=2).submit(batch(message("Good?"))).result()
        assert texts(outputs) == ["yes"]
        body = server.asked[-1].body
        assert body["response_format"]["json_schema"]["schema"]["properties"] == {
            "answer": {"type": "string", "enum": ["yes", "no"]}
        }
        assert body["max_tokens"] > 2


def test_a_server_that_does_not_keep_to_choices_is_quoted():
    with ChatServer(answer=lambda _: completion("Yes, I think so.", chat=True)) as server:
        outputs = writer(server, grammar=Choices()).submit(batch(message("Good?"))).result()
        assert texts(outputs) == ["Yes, I think so."]


def test_a_schema_goes_to_the_server():
    with ChatServer() as server:
        writer(server, grammar=Schema()).submit(batch(message("Good?"))).result()
        sent = server.asked[-1].body["response_format"]
        assert sent["json_schema"]["schema"] == json.loads(Schema.source)["json_schema"]


@contextmanager
def key_in_environment(value: str = KEY) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIDEMILL_TEST_KEY", value)
        yield


def opened(server: ChatServer, name: str = "tiny", *, under: str = "/v1", **options: Any) -> EndpointWriter:
    endpoint = Endpoint(base_url=f"{server.url}{under}", **options)
    asked = Inference(engine="endpoint", endpoint=endpoint)
    return EndpointWriter.open(settings=settings(), inference=asked, name=name)


@pytest.mark.parametrize("under", ["/v1", "/v1/", "", "/"])
def test_the_address_may_lack_its_v1(under):
    with ChatServer() as server:
        assert texts(opened(server, under=under).submit(batch("a b")).result()) == ["b a"]


@pytest.mark.parametrize("failure", [Fails(500), Fails(400), Fails(404), Fails(how="body", body=b"<html>")])
def test_a_server_that_cannot_list_its_models_is_asked_all_the_same(failure):
    """Transformers' own server fails to where it has no cache of models."""
    with ChatServer(fails=lambda asked: failure if asked.method == "GET" else None) as server:
        engine = opened(server, under="")
        assert texts(engine.submit(batch("a b")).result()) == ["b a"]
        assert engine.facts()["served"] == {"id": "tiny"}


def test_what_the_server_says_of_its_model_is_recorded():
    with ChatServer(models=("other", "tiny")) as server:
        facts = opened(server).facts()
        assert facts["served"] == {"id": "tiny", "created": 1700000000, "owned_by": "tests", "root": "/models/tiny"}
        assert (facts["engine"], facts["device_name"]) == ("endpoint", server.url.removeprefix("http://"))


def test_a_model_that_the_server_does_not_list_is_told(caplog):
    with ChatServer(models=("tiny-instruct", "other")) as server:
        assert opened(server).facts()["served"] == {"id": "tiny", "is_listed": False}
        assert "lists no model tiny. It lists: tiny-instruct, other." in caplog.text


@pytest.mark.parametrize("value", [KEY, f"{KEY}\n", f"\r\n{KEY}\r\n"])
def test_a_key_with_a_line_break_is_stripped(value):
    with ChatServer(key=KEY) as server, key_in_environment(value):
        assert texts(opened(server, api_key="$TIDEMILL_TEST_KEY").submit(batch("a b")).result()) == ["b a"]


def test_a_key_that_is_missing_or_none_is_told_by_its_name(monkeypatch):
    monkeypatch.delenv("TIDEMILL_TEST_KEY", raising=False)
    with ChatServer() as server:
        with pytest.raises(ConfigError, match="the environment has no TIDEMILL_TEST_KEY"):
            opened(server, api_key="$TIDEMILL_TEST_KEY")
        for value in ("two\nlines", "clé", "with blank"):
            with (
                key_in_environment(value),
                pytest.raises(ConfigError, match="holds characters that no key has") as told,
            ):
                opened(server, api_key="$TIDEMILL_TEST_KEY")
            assert value not in str(told.value)


def test_the_key_is_in_no_message_no_record_and_no_log(caplog):
    caplog.set_level(logging.DEBUG)
    told = []
    with key_in_environment():
        with ChatServer(key="another") as server, pytest.raises(ModelError) as refused:
            opened(server, api_key="$TIDEMILL_TEST_KEY")
        told.append(repr(refused.value))
        with ChatServer(key=KEY, fails=first_time(RESET)) as server:
            engine = writer(server, api_key="$TIDEMILL_TEST_KEY")
            assert texts(engine.submit(batch("a b")).result()) == ["b a"]
            told += [json.dumps(engine.facts()), repr(engine), str(vars(engine))]
    assert "Set the key in TIDEMILL_TEST_KEY" in told[0]
    assert not any(KEY in each for each in [*told, caplog.text])


def test_a_redirect_is_not_followed():
    away = Fails(307, {"Location": "http://127.0.0.1:9/v1/models"}, message="over there")
    with ChatServer(fails=lambda _: away) as server, pytest.raises(ModelError, match="sends us elsewhere"):
        opened(server)


def test_a_server_whose_certificate_nobody_signed_is_told_no_key(tmp_path):
    with ChatServer(key=KEY, tls=unsigned(tmp_path)) as server, key_in_environment():
        with pytest.raises(ModelError, match=r"certificate cannot be verified\. Set SSL_CERT_FILE"):
            opened(server, api_key="$TIDEMILL_TEST_KEY")
        assert server.asked == []


def test_a_server_whose_certificate_an_own_authority_signed_is_asked(tmp_path, monkeypatch):
    with ChatServer(tls=unsigned(tmp_path)) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        assert texts(opened(server).submit(batch("a b")).result()) == ["b a"]


def unsigned(folder: Path) -> ssl.SSLContext:
    """Of a server on loopback, with a certificate in `folder` that its own key signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "certificate.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


def test_a_server_that_is_not_there_is_named():
    with ChatServer() as server:
        gone = server.url
    endpoint = Endpoint(base_url=gone)
    with pytest.raises(SourceUnavailable, match=rf"The server {gone}.* nobody answers there"):
        EndpointWriter.open(settings=settings(), inference=Inference(engine="endpoint", endpoint=endpoint), name="tiny")


@pytest.mark.parametrize("address", [None, "http://[", "http://:80"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ConfigError, match=r"inference\.endpoint\.base_url"):
        Server(Endpoint(base_url=address))
