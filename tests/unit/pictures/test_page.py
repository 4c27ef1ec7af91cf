"""The page of a report: nothing in the data is markup in it, and it asks nobody for anything."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest

from tests.s3 import Bucket
from tests.unit.pictures.made import MARKUP, made_pipeline
from tidemill.errors import ConfigError
from tidemill.pictures import make_report
from tidemill.pictures.figures.figure import Axes, Figure, Picture
from tidemill.pictures.figures.report import Report
from tidemill.pictures.page import page
from tidemill.pictures.page.drawing import drawn
from tidemill.pictures.page.escaping import json_in_script, markup_free
from tidemill.pictures.page.palette import COLOURS, GREY
from tidemill.pictures.page.plain import in_markdown
from tidemill.pictures.writing import write_page

LINE_ENDS = "</script>\u2028\u2029<!-- & \x00"


class Seen(HTMLParser):
    """A page as a browser takes it apart."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._open: dict[str, str | None] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = dict(attrs) if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.scripts.append((self._open, data))
            self._open = None
        else:
            self.text += data

    def script(self, id: str) -> str:  # noqa: A002
        [found] = [text for attributes, text in self.scripts if attributes.get("id") == id]
        return found


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Report:
    pipeline = made_pipeline(
        tmp_path_factory.mktemp("page"),
        [MARKUP, "<b>bold</b>", MARKUP, LINE_ENDS, "2024-01", "2024-02"],
        kind=[MARKUP, "a", "a", LINE_ENDS, "2024-02", "2024-01"],
        note=[f"{MARKUP} and so much more that nobody would take it for the name of anything"] * 6,
    )
    return make_report(pipeline, texts=True)


@pytest.fixture(scope="module")
def seen(report: Report) -> Seen:
    return Seen(page(report))


def test_what_the_data_has_of_markup_is_text(seen: Seen):
    assert MARKUP in seen.text
    assert {tag for tag, _ in seen.tags}.isdisjoint({"b", "iframe", "img", "object", "link", "form"})
    assert len(seen.scripts) == sum(tag == "script" for tag, _ in seen.tags) == 3
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)


def test_json_in_a_script_has_nothing_that_ends_the_script_or_a_line(seen: Seen):
    raw = seen.script("figures")

    assert not set("<>&\u2028\u2029") & set(raw)
    assert json.loads(raw)["labels"]["data"]
    assert json.loads(json_in_script({"a": LINE_ENDS})) == {"a": LINE_ENDS}
    with pytest.raises(ValueError, match="JSON"):
        json_in_script(float("nan"))


def test_the_policy_runs_what_was_put_here_and_nothing_else(seen: Seen):
    [policy] = [meta["content"] for _, meta in seen.tags if meta.get("http-equiv") == "Content-Security-Policy"]
    library = gzip.decompress(base64.b64decode(seen.script("library"))).decode()
    [own] = [text for attributes, text in seen.scripts if not attributes]
    hashes = {base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in (own, library)}

    assert set(re.findall(r"'sha256-([^']+)'", policy or "")) == hashes
    assert "default-src 'none'" in (policy or "")
    assert "unsafe" not in (policy or "").replace("style-src 'unsafe-inline'", "")


def test_a_page_names_no_other_place(seen: Seen):
    assert not [meta for _, meta in seen.tags if (meta.get("src") or meta.get("href") or "#")[0] != "#"]
    assert "http" not in seen.script("figures")


@pytest.mark.slow
def test_a_page_that_holds_texts_says_so_and_no_other_does(report: Report, seen: Seen):
    without = make_report(report.subject.pipeline)

    assert "This page holds texts of rows." in seen.text
    assert "holds texts" not in Seen(page(without)).text
    assert "nobody would take it for the name" not in page(without)


def test_labels_that_look_like_markup_or_months_are_names_in_the_order_of_sql(report: Report):
    picture = report.find("labels")
    assert picture is not None
    spec = drawn(picture, {})
    assert spec is not None

    axis = spec["layout"]["yaxis"]
    assert axis["type"] == "category"
    assert axis["ticktext"][0] == "&lt;script&gt;docume…run'&lt;/script&gt;"
    assert (
        axis["categoryarray"]
        == axis["tickvals"]
        == [
            markup_free(MARKUP),
            "2024-01",
            "2024-02",
            markup_free(LINE_ENDS),
            "&lt;b&gt;bold&lt;/b&gt;",
        ]
    )
    assert "&lt;b&gt;bold&lt;/b&gt;" in spec["data"][0]["y"]


def test_every_picture_has_its_table_and_its_sql_beside_it(report: Report, seen: Seen):
    for picture in report.pictures:
        assert picture.figure.sql in seen.text
        assert picture.figure.title in seen.text
    assert sum(tag == "table" for tag, _ in seen.tags) == sum(bool(picture.rows) for picture in report.pictures)
    drawings = [attributes for _, attributes in seen.tags if attributes.get("role") == "img"]
    assert drawings
    assert all(one["aria-label"] for one in drawings)


def picture_of(kind: Any, rows: list[tuple[Any, ...]], **axes: Any) -> Picture:
    figure = Figure("one", "Section", "Title", "Tells.", "SELECT 1", kind, Axes("x", "num_rows", **axes))
    return Picture(figure, ("x", "label", "num_rows"), tuple(rows))


def test_a_label_has_its_colour_on_the_whole_page_and_others_are_grey():
    rows = [("a", "one", 1), ("a", "others", 2), ("b", "two", 3)]
    spec = drawn(picture_of("shares", rows, series="label"), {"two": 0, "one": 1})
    assert spec is not None

    assert {trace["name"]: trace["marker"]["color"] for trace in spec["data"]} == {
        "two": COLOURS[0],
        "one": COLOURS[1],
        "others": GREY,
    }


def test_labels_beyond_the_colours_have_patterns():
    labels = {f"label {number}": number for number in range(12)}
    spec = drawn(picture_of("columns", [("a", label, 1) for label in labels], series="label"), labels)
    assert spec is not None

    looks = {(trace["marker"]["color"], trace["marker"]["pattern"]["shape"]) for trace in spec["data"]}
    assert len(looks) == 12


def test_long_names_that_begin_alike_are_bars_of_their_own():
    long = [f"{'the same beginning of a label ' * 3}{number}" for number in range(2)]
    spec = drawn(picture_of("bars", [(name, "", 1) for name in long]), {})
    assert spec is not None

    assert spec["data"][0]["y"] == spec["layout"]["yaxis"]["categoryarray"] == long
    first, second = spec["layout"]["yaxis"]["ticktext"]
    assert first != second
    assert max(len(first), len(second)) == 28


def test_bars_of_labels_have_the_labels_colours():
    spec = drawn(picture_of("bars", [("b", "", 1), ("a", "", 1), ("others", "", 1)]), {"a": 0, "b": 1})
    assert spec is not None
    assert spec["data"][0]["marker"]["color"] == [COLOURS[1], COLOURS[0], GREY]


@pytest.mark.parametrize(
    ("kind", "counts", "step"),
    [("bars", (1, 2), 1), ("bars", (1, 2_000), None), ("bars", (0.5, 0.25), None), ("shares", (1, 2), None)],
)
def test_a_few_things_are_counted_in_whole_ones(kind, counts, step):
    spec = drawn(picture_of(kind, [(str(count), "", count) for count in counts]), {})
    assert spec is not None
    assert spec["layout"]["xaxis"].get("dtick") == step


def test_a_count_that_a_browser_would_round_goes_to_it_as_text():
    spec = drawn(picture_of("bars", [("a", "", 2**60)]), {})
    assert spec is not None
    assert spec["data"][0]["x"] == [str(2**60)]


def test_in_markdown_names_are_text_and_counts_have_bars():
    told = in_markdown(picture_of("bars", [("<b>|x`", "", 4), ("[y](http://z)", "", 2)]))

    assert "<b>" not in told
    assert "| &lt;b&gt;&#124;x&#96; |  | 4 | ████████████████████████ |" in told
    assert "&#91;y&#93;(http://z)" in told
    assert "| x | label | num rows |  |" in told


def test_a_page_takes_the_place_of_the_last_one_whole(tmp_path):
    path = tmp_path / "report.html"
    write_page("first", str(path), "--output")
    write_page("second", str(path), "--output")

    assert path.read_text() == "second"
    assert [found.name for found in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(ConfigError, match=r"cannot be written to .*/nowhere/report.html: No such file.*--output"):
        write_page("", str(tmp_path / "nowhere" / "report.html"), "--output")


def test_a_place_that_is_none_for_a_page_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").touch()

    for place in ("a_file/report.html", ".", "", f"file://{tmp_path}/nowhere/report.html"):
        with pytest.raises(ConfigError, match=r"cannot be written to .*--output"):
            write_page("", place, "--output")
    assert [found.name for found in tmp_path.iterdir()] == ["a_file"]


def test_what_is_the_same_lies_on_the_diagonal_and_numbers_lie_by_size():
    of_labels = Figure("flips", "", "", "", "", "heatmap", Axes(x="b", y="a", value="num_rows"))
    pairs = (("a", "a", 1), ("a", "c", 1), ("b", "b", 1), ("c", "c", 1))
    (drawn_labels,) = (drawn(Picture(of_labels, ("a", "b", "num_rows"), pairs), {}) or {})["data"]
    steps = (("a", 0.0, 1), ("a", 0.9, 1), ("b", 0.3, 1))
    (drawn_steps,) = (drawn(Picture(of_labels, ("a", "b", "num_rows"), steps), {}) or {})["data"]

    assert drawn_labels["x"] == drawn_labels["y"] == ["a", "b", "c"]
    assert drawn_steps["x"] == ["0.0", "0.3", "0.9"]


@pytest.mark.slow
def test_a_page_may_go_to_s3_and_is_a_page_there(bucket: Bucket):
    write_page("a page", bucket.address("pages/report.html"), "report.path")

    assert bucket.get("pages/report.html") == b"a page"
    kind = bucket.client.head_object(Bucket=bucket.name, Key="pages/report.html")["ContentType"]
    assert kind == "text/html; charset=utf-8"
    with pytest.raises(ConfigError, match=r"no bucket for s3://nowhere/report.html.*report.path"):
        write_page("a page", "s3://nowhere/report.html", "report.path")


def test_a_page_of_nothing_has_no_library(report: Report):
    nothing = Report(report.subject, (), datetime.now(UTC))

    assert len(page(nothing)) < 20_000
