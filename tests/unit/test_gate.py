"""Who gets past the gate of the app, on every kind of route."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from tidemill.app.guard.gate import Gate
from tidemill.app.server.serving import Address

HOST = "127.0.0.1:7860"
JSON = {"content-type": "application/json"}


async def page(request: Request) -> PlainTextResponse:
    return PlainTextResponse("the page")


async def heard(request: Request) -> JSONResponse:
    return JSONResponse({name: value for name, value in request.headers.items() if "forwarded" in name})


async def talk(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("hello")
    await socket.close()


APP = Starlette(
    routes=[
        Route("/", page),
        Route("/file=secret", page),
        Route("/queue/join", page, methods=["POST"]),
        Route("/heard", heard),
        WebSocketRoute("/queue/ws", talk),
    ]
)


def client(token: str | None = "open-sesame", base: str = f"http://{HOST}", **options: Any) -> TestClient:
    gate = Gate(APP, hosts=[HOST, "data.example.org"], token=token, **options)
    return TestClient(gate, base_url=base, follow_redirects=False)


@pytest.fixture
def inside() -> Iterator[TestClient]:
    with client() as found:
        assert found.get("/?token=open-sesame").status_code == 303
        yield found


def test_the_token_is_used_once_sets_a_cookie_and_leaves_the_address():
    gate = Gate(APP, hosts=[HOST], token="open-sesame")
    first = TestClient(gate, base_url=f"http://{HOST}", follow_redirects=False)
    answer = first.get("/?token=open-sesame")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert first.get("/").text == "the page"
    assert first.get("/?token=open-sesame").headers["location"] == "/"

    second = TestClient(gate, base_url=f"http://{HOST}")
    assert second.get("/?token=open-sesame").status_code == 403
    assert second.get("/?token=").status_code == 403
    assert second.get("/", headers={"cookie": "tidemill_app=guessed"}).status_code == 403


@pytest.mark.parametrize(
    "others",
    [
        'theme="dark; or light"; {}',
        '{}; settings={{"open": [1, 2], "name": "a, b"}}',
        "odd name=a b; =nameless; flag; {}; ;;",
        'quoted="{{\\"a\\": 1}}"; tidemill_app_2=x; {}; tidemill_app_3="',
    ],
)
def test_the_cookie_is_found_between_others_of_any_form(inside, others):
    own = f"tidemill_app={inside.cookies['tidemill_app']}"
    inside.cookies.clear()
    assert inside.get("/", headers={"cookie": others.format(own)}).status_code == 200
    assert inside.get("/", headers={"cookie": others.format("tidemill_app=guessed")}).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example/x",
        "///evil.example",
        "/%2F/evil.example",
        r"/\evil.example",
        "/%5C%5Cevil.example",
        "/%09/evil.example",
    ],
)
@pytest.mark.parametrize("root", ["", "/reviews"])
def test_the_redirect_after_the_token_leads_to_the_app_whatever_the_path(path, root):
    asked, cookie = client(root=root), ""
    for _ in ("let in by the token", "let in by the cookie"):
        answer = asked.get(f"http://{HOST}{path}?token=open-sesame", headers={"cookie": cookie})
        assert answer.status_code == 303
        cookie = answer.headers.get("set-cookie", "").partition(";")[0]
        # What begins with two slashes names a host, and to a browser a backslash is one.
        assert re.match(rf"{root}/(?![/\\\s])", answer.headers["location"])
        assert "token" not in answer.headers["location"]


@pytest.mark.parametrize("path", ["/", "/file=secret", "/heard"])
def test_nothing_is_answered_without_the_cookie(path):
    answer = client().get(path)
    assert answer.status_code == 403
    assert "the address with the token" not in answer.text
    assert "Copy the address that `tidemill app` printed" in answer.text


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1", "127.0.0.1:80", ""])
@pytest.mark.parametrize("path", ["/", "/file=secret"])
def test_another_host_is_refused_on_every_route(inside, host, path):
    assert inside.get(path, headers={"host": host}).status_code == 403
    assert inside.post("/queue/join", headers={"host": host, **JSON}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8888", "sec-fetch-site": "same-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"},
    ],
)
def test_another_sites_page_is_refused(inside, headers):
    assert inside.post("/queue/join", headers={**JSON, **headers}).status_code == 403
    assert inside.get("/heard", headers=headers).status_code == 403


def test_a_link_on_another_page_leads_to_the_app(inside):
    """Which is a navigation: nothing of the answer is for the page that has the link."""
    link = {"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate"}
    assert inside.get("/", headers=link).status_code == 200
    assert inside.post("/queue/join", headers={**JSON, **link, "origin": "http://127.0.0.1:8888"}).status_code == 403


def test_the_apps_own_page_and_a_host_that_was_named_are_answered(inside):
    own = {**JSON, "origin": f"http://{HOST}", "sec-fetch-site": "same-origin"}
    assert inside.post("/queue/join", headers=own).status_code == 200
    named = client(token=None, base="https://data.example.org")
    assert named.post("/queue/join", headers={**JSON, "origin": "https://data.example.org"}).status_code == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "text/plain; charset=utf-8", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_a_body_that_is_no_json_is_refused(inside, kind):
    headers = {"content-type": kind} if kind else {}
    assert inside.post("/queue/join", content=b"{}", headers=headers).status_code == 415
    assert inside.post("/queue/join", content=b"{}", headers=JSON).status_code == 200


def test_a_websocket_is_let_in_by_the_same_rules(inside):
    with inside.websocket_connect(f"ws://{HOST}/queue/ws", headers={"origin": f"http://{HOST}"}) as socket:
        assert socket.receive_text() == "hello"
    for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}):
        with pytest.raises(WebSocketDisconnect), inside.websocket_connect(f"ws://{HOST}/queue/ws", headers=headers):
            pass
    with pytest.raises(WebSocketDisconnect), client().websocket_connect(f"ws://{HOST}/queue/ws"):
        pass


def test_forwarded_headers_count_from_a_proxy_that_was_named_alone():
    said = {"x-forwarded-host": "evil.example", "x-forwarded-proto": "https", "forwarded": "host=evil.example"}
    assert client(token=None).get("/heard", headers=said).json() == {}
    assert client(token=None, proxies=["testclient"]).get("/heard", headers=said).json() == said


def test_the_access_log_has_no_query_and_a_page_sends_no_referrer():
    lines: list[str] = []
    asked = client(log=lines.append)
    answers = [asked.get("/?token=wrong"), asked.get("/?token=open-sesame"), asked.get("/?secret=1")]
    assert lines == ["testclient GET / 403", "testclient GET / 303", "testclient GET / 200"]
    assert {answer.headers["referrer-policy"] for answer in answers} == {"no-referrer"}
    assert "frame-ancestors 'self'" in answers[-1].headers["content-security-policy"]


def test_line_breaks_and_control_characters_of_a_path_are_escaped_in_the_access_log():
    lines: list[str] = []
    client(token=None, log=lines.append).get("/a%0D%0A127.0.0.1%20GET%20/%1B%5B31m%00%E2%80%A8é")
    [line] = lines
    assert line == "testclient GET /a%0D%0A127.0.0.1%20GET%20/%1B%5B31m%00%E2%80%A8%C3%A9 404"


def test_a_page_below_a_root_path_redirects_there_and_its_cookie_is_of_it():
    answer = client(root="/reviews").get("/?token=open-sesame")
    assert answer.headers["location"] == "/reviews/"
    assert "path=/reviews" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize(
    ("options", "public", "path"),
    [
        ({}, "http://127.0.0.1:7860", ""),
        ({"hosts": ("data.example.org",), "root": "/reviews/"}, "http://data.example.org/reviews", "/reviews"),
        ({"root": "https://data.example.org/reviews"}, "https://data.example.org/reviews", "/reviews"),
    ],
)
def test_the_printed_address_is_the_one_that_a_browser_asks_for(options, public, path):
    address = Address(**options)
    assert (address.public, address.path) == (public, path)
    assert public.partition("://")[2].partition("/")[0] in address.own_hosts
