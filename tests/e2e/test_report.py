"""`tidemill report` as a user runs it, and its page in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import find_browser
from tests.commands import answer, tidemill, write_toml
from tests.looking import Looking, looking
from tests.pipelines import reviews, write_parquet
from tests.processes import wait_until
from tests.unit.pictures.made import MARKUP

needs_browser = pytest.mark.skipif(find_browser() is None, reason="no browser (Debian: apt-get install chromium)")
READY = "document.body.dataset.ready === 'yes'"
FITS = "[...document.querySelectorAll('.picture')].every((one) => one.scrollWidth <= one.clientWidth)"
LOOKS = [
    (400, "light"),
    (1400, "dark"),
    pytest.param(400, "dark", marks=pytest.mark.soak),
    pytest.param(1400, "light", marks=pytest.mark.soak),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("report")
    table = reviews(0, 300)
    domains = [MARKUP if number % 7 == 0 else domain for number, domain in enumerate(table["domain"].to_pylist())]
    table = table.set_column(table.column_names.index("domain"), "domain", [domains])
    write_parquet(folder / f"{MARKUP.replace('/', '')}.parquet", table)
    return folder


@pytest.fixture(scope="module")
def pipeline(home: Path) -> Path:
    extra = '[report]\ntruth = "rating > 0"\n'
    found = write_toml(home, str(home / "*.parquet"), extra=f"shard_bytes = 9000\n{extra}")
    found.write_text(found.read_text().replace('keep = ["rating"]', 'keep = ["rating", "domain", "text"]'))
    done = tidemill("run", found, "--direct", home=home / "home")
    assert done.returncode == 0, done.stderr
    return found


@pytest.fixture(scope="module")
def page(home: Path, pipeline: Path) -> Path:
    done = tidemill("report", pipeline, "-o", home / "pages" / "report.html", "--texts", home=home / "home")
    assert done.returncode == 2
    assert "make its folder" in done.stderr
    (home / "pages").mkdir()
    done = tidemill("report", pipeline, "-o", home / "pages" / "report.html", "--texts", home=home / "home")
    assert done.returncode == 0, done.stderr
    assert "figures of 300 rows." in done.stdout
    return home / "pages" / "report.html"


def test_the_page_is_one_file(page: Path):
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]
    assert page.stat().st_size < 3_000_000


def test_the_figures_are_those_of_sql(home: Path, pipeline: Path):
    facts = answer("report", pipeline, home=home / "home")
    labels = answer("sql", pipeline, "SELECT label, count(*) AS n FROM reviews GROUP BY label", home=home / "home")
    agreeing = "SELECT avg(((label = 'POSITIVE') = (rating > 0))::INT) AS share FROM reviews"
    [agreement] = answer("sql", pipeline, agreeing, home=home / "home")

    assert facts["num_rows"] == 300
    assert facts["labels"] == {row["label"]: row["n"] for row in labels}
    assert facts["truth"]["agreement"] == pytest.approx(agreement["share"])
    for figure in facts["figures"]:
        if figure["section"] != "Health":
            found = answer("sql", pipeline, figure["sql"], home=home / "home")
            assert [list(row.values()) for row in found] == figure["rows"], figure["id"]


@pytest.mark.slow
def test_what_cannot_be_reported_is_one_message(home: Path, pipeline: Path, tmp_path):
    for words, told in (
        (["--set", 'report.truth="nowhere > 0"'], "report.truth = 'nowhere > 0' fails"),
        (["--set", "report.truht=1"], "Did you mean report.truth?"),
        (["--set", f"lake.catalog=sqlite:{tmp_path}/none.sqlite"], "has no lake yet"),
    ):
        done = tidemill("report", pipeline, "-o", tmp_path / "report.html", *words, home=home / "home")
        assert (done.returncode, told in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr
    done = tidemill("report", pipeline, "-o", tmp_path / "x.html", home=home / "home", absent=["plotly"])
    assert (done.returncode, "pip install 'tidemill[report]'" in done.stderr) == (2, True), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def seen(page: Path) -> Iterator[Looking]:
    with looking() as found:
        found.page.goto(page.as_uri())
        wait_until(lambda: found.page.evaluate(READY))
        yield found


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_a_page_fits_its_width_and_can_be_read_by_everybody(seen: Looking, width, scheme):
    seen.page.set_viewport_size({"width": width, "height": 900})
    seen.page.emulate_media(color_scheme=scheme)

    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    wait_until(lambda: seen.page.evaluate(FITS))
    assert seen.violations() == []
    assert seen.page.evaluate("document.querySelectorAll('.picture svg.main-svg').length") > 0


@needs_browser
def test_a_page_asks_nobody_and_runs_nothing_of_the_data(page: Path, seen: Looking):
    assert seen.requests == [page.as_uri()]
    assert seen.said == []
    assert seen.page.title() == "reviews: report"
    drawn = seen.page.evaluate("[...document.querySelectorAll('.ytick text')].map((one) => one.textContent)")
    assert any(name.startswith("<script>docume…") for name in drawn), drawn
    assert MARKUP in seen.page.evaluate("document.querySelector('main').textContent")


@needs_browser
def test_a_page_can_be_used_by_keyboard(seen: Looking):
    reached = seen.page.evaluate(
        "[...document.querySelectorAll('a, summary, button, [tabindex]')].filter((one) => one.tabIndex < 0).length"
    )
    summary = seen.page.locator("summary", has_text="SQL").first
    summary.focus()
    seen.page.keyboard.press("Enter")

    assert reached == 0
    assert seen.page.evaluate("document.querySelector('pre').checkVisibility()")
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.className") == "copy"


@pytest.mark.slow
@needs_browser
def test_a_page_without_scripts_has_its_tables(page: Path, seen: Looking):
    browser = seen.page.context.browser
    assert browser is not None
    plain = browser.new_context(java_script_enabled=False).new_page()
    plain.goto(page.as_uri())

    assert plain.locator("table").count() > 10
    plain.locator("summary", has_text="Table").first.click()
    assert "NEGATIVE" in plain.locator("table").first.inner_text()


def test_a_report_for_machines_is_one_json_text(home: Path, pipeline: Path):
    done = tidemill("report", pipeline, "--json", home=home / "home", absent=["plotly"])

    assert list(json.loads(done.stdout))[:4] == ["pipeline", "num_rows", "labels", "truth"]
