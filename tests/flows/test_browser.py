"""A real browser at the server of a stack: pages of other sites get nothing, and its own page works."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from prefect.client.orchestration import SyncPrefectClient

from tests.browser import Browser, find_browser, running_browser
from tests.processes import wait_until

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no browser (Debian: apt-get install chromium)")

REBOUND = "rebound.example"
"""A name of somebody else's, which the browser is told to find at 127.0.0.1."""
ATTEMPTS = """
(async () => {
  const api = %(api)s, basic = "Basic " + btoa(%(password)s), found = {};
  const attempt = async (name, what) => { found[name] = await what().then(String, () => "nothing"); };
  const read = async (path, options) => {
    const answer = await fetch(api + path, options);
    return answer.ok ? await answer.text() : Promise.reject();
  };
  const token = async () => JSON.parse(await read("/csrf-token?client=page", {headers: {Authorization: basic}})).token;
  const write = (path, body, headers) => read(path, {method: "POST", body: JSON.stringify(body), headers});
  const json = {"Content-Type": "application/json"};
  const listen = (path) => new Promise((resolve, reject) => {
    const socket = new WebSocket(api.replace("http", "ws") + path, ["prefect"]);
    socket.onopen = () => resolve("open");
    socket.onerror = reject;
  });
  await attempt("read", () => read("/health"));
  await attempt("read with the password", () => read("/version", {headers: {Authorization: basic}}));
  await attempt("token", () => token());
  await attempt("write", () => write("/flows/", {name: "json"}, json));
  await attempt("write as a form does", () => write("/flows/", {name: "form"}, {"Content-Type": "text/plain"}));
  await attempt("write unseen", () => fetch(api + "/flows/", {
    method: "POST", mode: "no-cors", body: JSON.stringify({name: "unseen"}), credentials: "include",
  }).then((answer) => answer.ok ? "done" : Promise.reject()));
  await attempt("write with the password", async () => write("/flows/", {name: "password"}, {
    ...json, Authorization: basic, "Prefect-Csrf-Client": "page", "Prefect-Csrf-Token": await token(),
  }));
  await attempt("events in", () => listen("/events/in"));
  await attempt("events out", () => listen("/events/out"));
  await attempt("logs", () => listen("/logs/out"));
  return found;
})()
"""
LOG_IN = """
(() => {
  const field = document.querySelector("input[type=password]");
  Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(field, %s);
  field.dispatchEvent(new Event("input", {bubbles: true}));
  document.querySelector("button[type=submit]").click();
})()
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser([f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1"]) as found:
        yield found


class BlankPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>another site</title>")

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def site(name: str) -> Iterator[str]:
    """Another site's page; its address."""
    with ThreadingHTTPServer((name if name == "127.0.0.2" else "127.0.0.1", 0), BlankPage) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://{name}:{found.server_port}/"
        found.shutdown()


def attempts(browser: Browser, api: str, password: str) -> dict[str, str]:
    """What the page that is open gets of the server, by what it tried, even if it knew the password."""
    found: dict[str, str] = browser.run(ATTEMPTS % {"api": json.dumps(api), "password": json.dumps(password)})
    return found


@pytest.mark.parametrize(
    "name",
    [
        "evil.localhost",
        pytest.param("127.0.0.2", marks=pytest.mark.soak),
        "127.0.0.1",
        pytest.param("localhost", marks=pytest.mark.soak),
        REBOUND,
    ],
)
def test_a_page_of_another_site_can_neither_read_nor_write_nor_listen(browser, server, client: SyncPrefectClient, name):
    url, password = server
    with site(name) as page:
        browser.open(page)
        assert browser.run("document.title") == "another site"
        found = attempts(browser, f"{url}/api", password)
    assert set(found.values()) == {"nothing"}, found
    assert not {flow.name for flow in client.read_flows()} & {"json", "form", "unseen", "password"}


def test_a_name_that_is_rebound_to_this_machine_is_not_the_server(browser, server, client: SyncPrefectClient):
    """To the browser, page and server are one origin then."""
    url, password = server
    foreign = url.replace(urlsplit(url).hostname or "", REBOUND)
    browser.open(foreign)
    assert "This server answers at" in browser.run("document.body.innerText")
    found = attempts(browser, f"{foreign}/api", password)
    assert set(found.values()) == {"nothing"}, found
    assert not {flow.name for flow in client.read_flows()} & {"json", "form", "unseen", "password"}


@pytest.mark.parametrize("name", ["127.0.0.1", pytest.param("localhost", marks=pytest.mark.slow)])
def test_the_servers_own_page_asks_for_the_password_and_works_with_it(browser, server, name):
    url, password = server
    browser.open(url.replace("127.0.0.1", name))
    wait_until(lambda: browser.run("document.querySelector('input[type=password]') !== null"))
    assert "Work Pools" not in browser.run("document.body.innerText")
    browser.run(LOG_IN % json.dumps(password))
    wait_until(lambda: "Work Pools" in browser.run("document.body.innerText"))
    browser.run("[...document.querySelectorAll('a')].find((link) => link.innerText === 'Work Pools').click()")
    wait_until(lambda: "tidemill" in browser.run("document.querySelector('main').innerText"))
