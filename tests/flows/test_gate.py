"""Who may ask a server that `tidemill up` or `tidemill run` starts: pages of its own, and whoever has its password."""

from __future__ import annotations

import base64
import itertools
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from tests.flows.conftest import free_port
from tests.processes import PATIENCE_SECONDS
from tidemill.errors import ConfigError
from tidemill.flows import stack
from tidemill.flows.client import configured_server, reaching
from tidemill.flows.password import VARIABLES, given_password, make_password, password_file
from tidemill.flows.server import temporary_server

SOCKETS = ("/events/in", "/events/out", "/logs/out", "/work_pools/tidemill/workers/connect")


def authorization(password: str) -> str:
    return f"Basic {base64.b64encode(password.encode()).decode()}"


def asked(url: str, path: str, **headers: str) -> httpx.Response:
    # Without HTTPS there are no certificates to load, which takes longer than the request.
    return httpx.get(f"{url}{path}", headers=headers, timeout=PATIENCE_SECONDS, verify=False)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:{port}"}, 200),
        ({"Host": "LocalHost:{port}"}, 200),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "http://localhost:{port}"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:9"}, 403),
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Origin": "https://127.0.0.1:{port}"}, 403),
        ({"Origin": "http://127.0.0.1:{port}.evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:{port}"}, 403),
        ({"Host": "127.0.0.1"}, 403),
        ({"Host": "127.0.0.1:9"}, 403),
        ({"Host": "127.0.0.1:{port}@evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "evil.example:{port}", "Origin": "http://evil.example:{port}"}, 403),
        ({"Host": "evil.example:{port}", "X-Forwarded-Host": "127.0.0.1:{port}"}, 403),
        ({"Authorization": ""}, 401),
        ({"Authorization": authorization("tidemill:guess")}, 401),
        ({"Authorization": "", "Origin": "http://evil.example"}, 403),
    ],
)
def test_a_server_answers_at_its_own_address_to_its_own_pages_and_to_whoever_has_the_password(server, headers, status):
    url, password = server
    told = {name: value.format(port=urlsplit(url).port) for name, value in headers.items()}
    found = asked(url, "/api/csrf-token?client=x", **{"Authorization": authorization(password)} | told)
    assert found.status_code == status, found.text
    foreign = told.get("Origin") if status == 403 else None
    assert found.headers.get("access-control-allow-origin", "none") not in ("*", foreign)


def test_a_foreign_origin_is_refused_before_a_browser_may_send_what_it_asked_for(server):
    url, _ = server
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "prefect-csrf-token"}
    foreign = httpx.options(
        f"{url}/api/flows/", headers={"Origin": "http://evil.example"} | asking, timeout=PATIENCE_SECONDS
    )
    own = httpx.options(f"{url}/api/flows/", headers={"Origin": url} | asking, timeout=PATIENCE_SECONDS)
    assert (foreign.status_code, own.status_code) == (403, 200)
    assert own.headers["access-control-allow-origin"] == url


@pytest.mark.parametrize("path", SOCKETS)
@pytest.mark.parametrize("header", ["Origin", "Host"])
def test_a_websocket_of_another_site_is_refused(server, path, header):
    url, _ = server
    where = urlsplit(url)
    host, origin = ("evil.example", None) if header == "Host" else (where.hostname, Origin("http://evil.example"))
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(
            f"ws://{host}:{where.port}/api{path}",
            sock=socket.create_connection((where.hostname, where.port)),
            origin=origin,
            subprotocols=[Subprotocol("prefect")],
            open_timeout=PATIENCE_SECONDS,
        ),
    ):
        pass
    assert refused.value.response.status_code == 403


def test_a_servers_pages_are_shown_in_no_other_sites_frame(server):
    url, _ = server
    for path in ("/", "/ui-settings", "/api/health"):
        assert asked(url, path).headers["content-security-policy"] == "frame-ancestors 'none'"


@pytest.mark.slow
def test_the_server_of_one_run_is_guarded_as_well():
    with temporary_server() as server:
        own = {"Authorization": authorization(server.password)}
        statuses = [
            asked(server.url, "/csrf-token?client=x", **headers).status_code
            for headers in ({}, own, own | {"Origin": "http://evil.example"}, own | {"Host": "evil.example"})
        ]
        assert statuses == [401, 200, 403, 403]


def test_a_password_that_many_make_at_once_is_one_that_its_owner_alone_reads(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(make_password, itertools.repeat(tmp_path / "home", 32)))
    assert len(made) == 1
    assert make_password(tmp_path / "home") in made
    assert password_file(tmp_path / "home").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["prefect_auth"]


@pytest.mark.parametrize(("content", "mode", "message"), [("a:b", 0o644, r"mode 644"), ("", 0o600, "is empty")])
def test_a_password_that_others_may_know_is_used_no_more(tmp_path, content, mode, message):
    password_file(tmp_path).write_text(content)
    password_file(tmp_path).chmod(mode)
    with pytest.raises(ConfigError, match=rf"{message}.*tidemill down"):
        make_password(tmp_path)


def test_the_password_of_a_stack_is_in_no_command_line_and_in_nothing_that_it_writes(prefect_home, server):
    _, password = server
    started = stack.running(prefect_home)
    assert started is not None
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in stack.processes(started.stack_id)]
    assert len(commands) >= 3
    assert not [command for command in commands if password.encode() in command]
    written = [path for path in prefect_home.rglob("*") if path.is_file() and path != password_file(prefect_home)]
    assert not [path for path in written if password.encode() in path.read_bytes()]


def test_commands_in_a_stacks_folder_know_its_password_and_others_are_told_where_to_get_it(
    prefect_home, prefect_settings, tmp_path, monkeypatch
):
    url = prefect_settings[PREFECT_API_URL]
    monkeypatch.setenv("TIDEMILL_HOME", str(prefect_home))
    for its_own in (url, url.replace("127.0.0.1", "localhost")):
        with temporary_settings({PREFECT_API_URL: its_own}), configured_server() as client:
            assert client.read_work_pool("tidemill").name == "tidemill"
    with reaching(f"http://127.0.0.1:{free_port()}/api"):
        assert PREFECT_API_AUTH_STRING.value() is None
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    with (
        temporary_settings({PREFECT_API_URL: url}),
        pytest.raises(ConfigError, match=r"401 .*PREFECT_API_AUTH_STRING.*TIDEMILL_HOME"),
        configured_server(),
    ):
        pass


def test_a_password_of_the_users_own_is_kept(tmp_path, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert given_password() is None
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "mine:sesame")
    assert given_password() == "mine:sesame"
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "server:sesame")
    assert given_password() == "server:sesame"
