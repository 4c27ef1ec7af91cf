"""The app as people and strangers meet it: in a real browser, by itself and behind a proxy, and by plain requests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

from tests.apps import address_at, free_port, running_app  # noqa: E402
from tests.browser import find_browser  # noqa: E402
from tests.commands import tidemill, write_toml  # noqa: E402
from tests.pipelines import make_pipeline, query, reviews, run, write_parquet  # noqa: E402
from tests.processes import PATIENCE_SECONDS  # noqa: E402
from tests.proxy import running_proxy  # noqa: E402
from tests.versions import compute_version  # noqa: E402
from tidemill.app.picking import sample_rows  # noqa: E402
from tidemill.config import Pipeline, Tokenizer  # noqa: E402

HOSTILE = "<script>alert('text')</script> A dull film."
IS_LOOPBACK = ("127.0.0.1", "localhost", "::1")
IS_IN = "scheme => document.body.classList.contains('dark') === (scheme === 'dark')"
STILL = """Promise.all(document.getAnimations()
    .filter(each => each.effect.getComputedTiming().iterations !== Infinity)
    .map(each => each.finished.catch(() => 0)))"""
AXE = "axe.run(document, {resultTypes: ['violations']}).then(found => found.violations)"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Twenty real reviews and one that has markup in every column, with three of them to be marked."""
    folder = tmp_path_factory.mktemp("app")
    rows = reviews(0, 20)
    hostile = {**rows.slice(0, 1).to_pylist()[0], "id": "<b>id</b>", "text": HOSTILE, "domain": "<img src=x>"}
    import pyarrow as pa

    table = pa.concat_tables([rows, pa.Table.from_pylist([hostile], schema=rows.schema)])
    write_parquet(folder / "data" / "<i>a.parquet", table)
    made = make_pipeline(folder, f"{folder}/data/*", dataset={"keep": ["domain", "rating", "text"]})
    assert run(made).state == "done"
    sample_rows(made, num_rows=3, ways=["unsure"])
    return made


@pytest.fixture(scope="module")
def served(pipeline: Pipeline) -> Iterator[SimpleNamespace]:
    """The app at two addresses of a browser's: its own, and below a path of a proxy's."""
    port, lines = free_port(), list[str]()
    with running_proxy(port, "/reviews") as behind:
        host = urlsplit(behind).netloc
        address = address_at(port, hosts=(host,), root=behind, has_token=False)
        own, own_lines = free_port(), list[str]()
        with running_app(pipeline, address, lines), running_app(pipeline, address_at(own), own_lines) as (app, _):
            yield SimpleNamespace(url=app.url, port=own, behind=behind, lines=own_lines, pipeline=pipeline)


@pytest.fixture(scope="module")
def cookie(served: SimpleNamespace) -> dict[str, str]:
    """What the token in the address gives, once."""
    answer = httpx.get(served.url)
    assert answer.status_code == 303
    assert httpx.get(served.url).status_code == 403
    return {"cookie": answer.headers["set-cookie"].partition(";")[0]}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = find_browser()
    if program is None:
        pytest.skip("no browser is installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield opened
        opened.close()


BEYOND = """
() => [...document.querySelectorAll("button, input, textarea, table, p")]
  .filter((each) => each.offsetParent && !each.closest(".tm-scroll"))
  .filter((each) => each.getBoundingClientRect().right > innerWidth + 1)
  .map((each) => each.outerHTML.slice(0, 200))
"""


class Visit:
    """A page of the browser, and what went wrong in it."""

    def __init__(self, browser: Any, width: int, headers: dict[str, str], origin: str) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
        self.context.set_default_timeout(PATIENCE_SECONDS * 1000)
        if headers:
            name, _, value = headers["cookie"].partition("=")
            self.context.add_cookies([{"name": name, "value": value, "url": origin}])
        self.page, self.wrong = self.context.new_page(), list[str]()
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", self._asked)
        self.page.on(
            "response", lambda got: self.wrong.append(f"{got.status} {got.url}") if got.status >= 400 else None
        )
        self.page.goto(origin)
        self.page.evaluate(axe_script())

    def _said(self, message: Any) -> None:
        if message.type == "error":
            self.wrong.append(f"{message.text} {message.location['url']}")

    def _asked(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.hostname not in IS_LOOPBACK:
            self.wrong.append(f"outside: {request.url}")

    def tab(self, name: str) -> None:
        """Where there is no space for it, a tab is in a menu."""
        found = self.page.get_by_role("tab", name=name)
        if not found.is_visible():
            self.page.locator(".overflow-menu button").first.click()
            found = self.page.locator(".overflow-dropdown button", has_text=name)
        found.click()

    def press(self, button: str, then: str) -> str:
        """Press a button by the keyboard, and give the text of what it brings."""
        self.page.locator(button).focus()
        self.page.keyboard.press("Enter")
        self.page.locator(then).first.wait_for()
        return str(self.page.locator(then).first.inner_text())

    def check(self) -> None:
        """Nothing beyond the window's width but what scrolls; no serious violation of axe's rules so far, in light and
        in dark; nothing on the console."""
        assert self.page.evaluate(BEYOND) == []
        for scheme in ("dark", "light"):
            self.page.emulate_media(color_scheme=scheme)
            self.page.wait_for_function(IS_IN, arg=scheme)
            # What is fading in has another contrast than it will have.
            self.page.evaluate(STILL)
            serious = [
                (scheme, each["id"], each["nodes"][0]["html"], each["nodes"][0]["failureSummary"])
                for each in self.page.evaluate(AXE)
                if each["impact"] in ("serious", "critical")
            ]
            assert (serious, self.wrong) == ([], [])


def axe_script() -> str:
    import axe_playwright_python

    [script] = Path(axe_playwright_python.__file__).parent.rglob("axe.min.js")
    return f"{script.read_text(encoding='utf-8')};0"


def outside_connections() -> set[str]:
    """Whom this process, in which the app's server is, talks to beyond this machine."""
    return {
        each.raddr.ip
        for each in psutil.Process().net_connections("inet")
        if each.raddr and each.raddr.ip not in IS_LOOPBACK
    }


@pytest.mark.parametrize(("width", "is_proxied"), [pytest.param(1_400, False, marks=pytest.mark.slow), (400, True)])
def test_every_tab_works_by_keyboard_in_light_and_dark_and_asks_nobody_outside(
    browser, served, cookie, width, is_proxied
):
    origin = f"{served.behind}/" if is_proxied else f"http://127.0.0.1:{served.port}/"
    visit = Visit(browser, width, {} if is_proxied else cookie, origin)
    page = visit.page
    page.get_by_role("tab", name="Try").wait_for()
    page.get_by_label("column text").fill(HOSTILE)
    answer = visit.press("#tm-try", "#tm-answer .tm-scroll")
    assert "<i>a.parquet" in answer
    assert "<b>id</b>" in answer
    visit.check()

    visit.tab("Browse")
    shown = visit.press("#tm-show", "#tm-rows table")
    assert "21 rows of 21." in shown
    assert HOSTILE in shown
    page.locator("#tm-search textarea, #tm-search input").fill("dull film")
    page.locator("#tm-show").click()
    page.get_by_text("1 row, to the end of 21.").wait_for()
    page.locator("#tm-rows button.tm-open").focus()
    page.keyboard.press("Enter")
    page.locator("#tm-row", has_text=HOSTILE).wait_for()

    visit.press("#tm-queue", "#tm-row .tm-facts")
    [(num_marks,)] = query(served.pipeline.lake, "SELECT count(*) FROM reviews_marks")
    left = 3 - num_marks
    page.get_by_text(f"{left} of 3 to mark.").wait_for()
    page.keyboard.press("2")
    page.get_by_text(f"{left - 1} of 3 to mark.").wait_for()
    visit.check()

    shorter = served.pipeline.model_copy(update={"tokenizer": Tokenizer(max_length=16)})
    other = compute_version(shorter)
    visit.tab("Versions")
    page.wait_for_function("name => document.querySelector('#tm-second input').value === name", arg=other)
    compared = visit.press("#tm-compare", "#tm-comparison .tm-facts")
    assert f"against {other}" in compared
    assert "rows compared" in compared
    visit.check()

    visit.tab("SQL")
    page.locator("#tm-sql textarea").fill("SELECT 9007199254740993 AS big, text FROM reviews ORDER BY id LIMIT 1")
    found = visit.press("#tm-run", "#tm-found table")
    assert "9007199254740993" in found
    visit.check()

    visit.tab("Report")
    visit.press("#tm-make-report", "#tm-report iframe")
    page.frame_locator("#tm-report iframe").get_by_role("heading", name="reviews").first.wait_for()
    visit.check()
    assert outside_connections() == set()
    visit.context.close()
    marks = query(served.pipeline.lake, "SELECT count(*), count(DISTINCT who) FROM reviews_marks")
    assert marks == [(4 - left, 1)]


def test_the_routes_of_gradio_answer_no_stranger(served, cookie, pipeline):
    at, paths = f"http://127.0.0.1:{served.port}", ("/", "/config", "/gradio_api/info", "/gradio_api/queue/data")
    for path in paths:
        assert httpx.get(at + path).status_code == 403
        assert httpx.get(at + path, headers={**cookie, "host": "evil.example"}).status_code == 403
    body = json.dumps({"fn_index": 0, "data": [], "session_hash": "a"})
    for kind, status in (("text/plain", 415), ("application/json", 200)):
        sent = httpx.post(f"{at}/gradio_api/queue/join", content=body, headers={**cookie, "content-type": kind})
        assert (kind, sent.status_code) == (kind, status)
    upload = httpx.post(f"{at}/gradio_api/upload", files={"files": b"x"}, headers=cookie)
    assert upload.status_code == 415
    files = (pipeline.lake.catalog.removeprefix("sqlite:"), "/etc/passwd", str(Path.cwd() / "pyproject.toml"))
    for name in files:
        assert httpx.get(f"{at}/gradio_api/file={name}", headers=cookie).status_code in (403, 404)
    assert httpx.get(f"{at}/report/guessed", headers=cookie).status_code == 404
    assert not any("token" in line or "?" in line for line in served.lines)


def test_gradio_renders_no_page_by_node_and_offers_no_share_link(served, cookie):
    page = httpx.get(f"http://127.0.0.1:{served.port}/", headers=cookie)
    assert "fonts.googleapis.com" not in page.text
    config = httpx.get(f"http://127.0.0.1:{served.port}/config", headers=cookie).json()
    assert config["analytics_enabled"] is False
    assert not config.get("is_space")
    assert shutil.which("node") is None or not [
        child for child in psutil.Process().children(recursive=True) if child.name() == "node"
    ]
    assert {each["api_visibility"] for each in config["dependencies"] if each["targets"]} <= {"private"}


def test_bad_input_ends_in_one_message(tmp_path):
    file, home = write_toml(tmp_path, f"{tmp_path}/data/*"), tmp_path / "home"
    no_lake = tidemill("app", file, home=home)
    assert (no_lake.returncode, no_lake.stderr.count("\n")) == (2, 1)
    assert "`tidemill run` makes it" in no_lake.stderr
    no_host = tidemill("app", file, "--host", "*", home=home)
    assert (no_host.returncode, "--host * is no host" in no_host.stderr) == (2, True)
    no_gradio = tidemill("app", file, home=home, absent=["gradio"])
    assert (no_gradio.returncode, "pip install 'tidemill[app]'" in no_gradio.stderr) == (2, True)
    nothing = tidemill("sample", file, home=home)
    assert (nothing.returncode, nothing.stderr.count("\n")) == (2, 1)
