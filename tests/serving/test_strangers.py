"""Who is let in: the token's holder, by the service's own name; a page of another site is not."""

from __future__ import annotations

import socket

import httpx
import pytest

from tests.services import AUTHORIZED, TOKEN
from tidemill.errors import ConfigError
from tidemill.serving.running import listen, token_of_the_environment


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": "Bearer"},
    ],
)
def test_whoever_has_no_token_or_another_is_told_how_to_send_it(served, given):
    with httpx.Client(base_url=served.address) as stranger:
        for path in ("/version", "/metrics", "/rows/1", "/v1/models", "/nothing"):
            found = stranger.get(path, headers=given)
            assert (found.status_code, found.headers["www-authenticate"]) == (401, "Bearer")
        assert stranger.post("/predict", json={"inputs": "a"}, headers=given).status_code == 401


def test_two_tokens_in_one_request_are_none(served):
    headers = [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer other")]

    assert httpx.get(f"{served.address}/version", headers=headers).status_code == 401


def test_probes_and_the_page_need_no_token(served):
    with httpx.Client(base_url=served.address) as stranger:
        assert [stranger.get(path).status_code for path in ("/health", "/ready", "/docs", "/openapi.json")] == [200] * 4


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "localhost.evil:8321"])
def test_another_host_is_refused_even_with_the_token(served, host):
    found = httpx.get(f"{served.address}/version", headers={**AUTHORIZED, "host": host})

    assert 400 <= found.status_code < 500


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9999", "127.0.0.1", "[::1]:80"])
def test_the_names_of_loopback_are_the_services_own(served, host):
    assert httpx.get(f"{served.address}/version", headers={**AUTHORIZED, "host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1"])
def test_a_page_of_another_site_is_refused_and_no_answer_allows_one(served, origin):
    headers = {**AUTHORIZED, "origin": origin}
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }

    refused = httpx.post(f"{served.address}/predict", json={"inputs": "a"}, headers=headers)
    before = httpx.options(f"{served.address}/predict", headers=asked)
    health = httpx.get(f"{served.address}/health", headers={"origin": origin})

    assert (refused.status_code, before.status_code, health.status_code) == (403, 403, 403)
    for found in (refused, before, health):
        assert not [name for name in found.headers if name.startswith("access-control")]


def test_the_services_own_page_may_ask(served):
    headers = {**AUTHORIZED, "origin": served.address}

    assert httpx.post(f"{served.address}/predict", json={"inputs": "a"}, headers=headers).status_code == 200


def test_no_text_is_ever_logged_not_even_of_a_request_that_fails(served, caplog, capfd, monkeypatch):
    secret = "zzsecret of somebody"

    def break_down(*args, **kwargs):
        raise ValueError(secret)

    served.predict(secret)
    served.client.post("/predict", content=f'{{"inputs": "{secret}", "x": 1}}')
    monkeypatch.setattr(type(served.pipeline().version.plain.preparer), "prepare", break_down)
    failed = served.client.post("/predict", json={"inputs": secret})
    monkeypatch.setattr(type(served.pipeline()), "call", break_down)
    broken = served.client.post("/predict", json={"inputs": secret})

    assert (failed.status_code, broken.status_code) == (500, 500)
    assert "ValueError" in caplog.text
    for said in (caplog.text, *capfd.readouterr(), failed.text, broken.text):
        assert secret not in said


def test_a_token_that_no_header_can_carry_is_refused(monkeypatch):
    for token in ("", " ", "two words", "ключ"):
        monkeypatch.setenv("TIDEMILL_TOKEN", token)
        with pytest.raises(ConfigError, match="TIDEMILL_TOKEN"):
            token_of_the_environment()


def test_a_token_is_made_up_where_the_environment_has_none(monkeypatch):
    monkeypatch.delenv("TIDEMILL_TOKEN", raising=False)
    first, second = token_of_the_environment(), token_of_the_environment()

    assert first[1]
    assert first != second
    assert len(first[0]) >= 24


def test_an_address_that_is_taken_is_one_message():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}"):
            listen("127.0.0.1", port)
