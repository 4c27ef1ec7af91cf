"""How a source is found and read: its options, told by what lies there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.proposing.test_columns import TEXTS, declared, parquet, proposed
from tidemill.errors import ConfigError, DatasetError, FormatError
from tidemill.proposing.proposal import name_of, pipeline_name
from tidemill.proposing.source import find_source

ROWS = [(i, f"Größe {i}, schön – sehr gut, und gar nicht teuer") for i in range(20)]


def options(source: Path | str) -> dict[str, Any]:
    found = find_source(str(source))
    return {name: value for name, value in found.options.items() if name != "path"}


def csv(delimiter: str, *, header: bool = True) -> str:
    lines = [f'{number}{delimiter}"{text}"' for number, text in ROWS]
    return "\n".join([*([f"nr{delimiter}meinung"] if header else []), *lines, ""])


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("plain.csv", csv(",").encode(), {}),
        ("semicolon.csv", csv(";").encode(), {"delimiter": ";"}),
        ("bar.csv", csv("|").encode(), {"delimiter": "|"}),
        ("tab.csv", csv("\t").encode(), {"delimiter": "\t"}),
        ("tab.tsv", csv("\t").encode(), {}),
        ("old.csv", csv(";").replace("–", "-").encode("latin-1"), {"encoding": "latin-1", "delimiter": ";"}),
        ("windows.csv", csv(";").encode("cp1252"), {"encoding": "cp1252", "delimiter": ";"}),
        ("marked.csv", csv(",").encode("utf-16"), {}),
        ("bare.csv", csv(",", header=False).encode(), {"header": False}),
        ("noname", csv(",").encode(), {"format": "csv"}),
        ("array.json", json.dumps([{"nr": n, "meinung": t} for n, t in ROWS]).encode(), {"format": "json"}),
        ("nested.json", json.dumps({"rows": [{"nr": n, "meinung": t} for n, t in ROWS]}).encode(), {"field": "rows"}),
        ("lines.json", "".join(json.dumps({"nr": n, "meinung": t}) + "\n" for n, t in ROWS).encode(), {}),
    ],
)
def test_how_a_file_is_read_is_told_by_its_bytes(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    assert options(tmp_path / name) == expected
    found = proposed(tmp_path / name)
    text, key, _ = declared(found)
    assert (text, key) == (("column1", ("column0",)) if name == "bare.csv" else ("meinung", ("nr",)))
    assert found.language == "de"


def test_an_encoding_that_shows_far_behind_the_head_is_found(tmp_path):
    plain = csv(",").replace("ö", "oe").replace("ß", "ss").replace("–", "-")
    long = plain + "".join(f"{i},gar nicht teuer und sehr gut\n" for i in range(100, 50_000))
    (tmp_path / "long.csv").write_bytes((long + "50000,schön\n").encode("latin-1"))
    assert options(tmp_path / "long.csv") == {"encoding": "latin-1"}


def test_an_encoding_that_only_one_of_the_files_shows_is_that_of_all(tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "a.csv").write_text("nr,meinung\n1,gut und nicht teuer\n")
    (tmp_path / "all" / "b.csv").write_bytes("nr,meinung\n2,schön und nicht teuer\n".encode("latin-1"))
    assert options(tmp_path / "all") == {"encoding": "latin-1"}


def test_of_several_splits_train_is_taken_and_else_the_first(tmp_path):
    for split in ("test", "validation"):
        parquet(tmp_path, {"id": list(range(60)), "text": TEXTS}, f"splits/{split}.parquet")
    found = find_source(str(tmp_path / "splits"))
    assert found.options["split"] in ("test", "validation")
    assert "There are also: " in found.why["split"]
    parquet(tmp_path, {"id": list(range(60)), "text": TEXTS}, "splits/train.parquet")
    assert "split" not in find_source(str(tmp_path / "splits")).options


def test_of_a_hubs_configs_and_splits_the_likeliest_are_taken_and_the_others_named(hub, tmp_path):
    card = """---
configs:
- config_name: raw
  data_files: [{split: all, path: raw.csv}]
- config_name: default
  data_files: [{split: validation, path: validation.csv}, {split: test, path: test.csv}]
---
"""
    content = csv(",").encode()
    files = dict.fromkeys(["raw.csv", "validation.csv", "test.csv"], content)
    hub.add_dataset("org/several").commit({"README.md": card.encode(), **files})
    found = find_source("org/several")
    assert dict(found.options) == {"path": "org/several", "split": "validation"}
    assert found.why["split"] == "There are also: test."
    assert declared(proposed("org/several"))[0] == "meinung"


def test_lines_of_plain_text_are_texts_without_a_key(tmp_path):
    (tmp_path / "lines.txt").write_text("\n".join(text.replace("\n", " ") for text in TEXTS))
    assert declared(proposed(tmp_path / "lines.txt")) == ("text", (), ())


def test_a_column_of_positions_without_a_name_is_kept_under_one(tmp_path):
    rows = "".join(f"{number},{number % 3},{text}\n" for number, (_, text) in enumerate(ROWS))
    (tmp_path / "frame.csv").write_text(f",stars,meinung\n{rows}".replace(", ", " "))
    assert declared(proposed(tmp_path / "frame.csv")) == ("meinung", ('"" as column',), ("stars",))


def test_a_folder_of_several_formats_is_refused_as_a_run_refuses_it(tmp_path):
    parquet(tmp_path, {"text": TEXTS}, "mixed/a.parquet")
    (tmp_path / "mixed" / "b.csv").write_text("text\nsome words\n")
    with pytest.raises((FormatError, DatasetError)):
        proposed(tmp_path / "mixed/*")


@pytest.mark.parametrize("name", ["", "none.csv", "./none", "/none/at/all", "a/b/c", "none.jsonl"])
def test_what_is_not_there_is_not_asked_of_the_hub(hub, name):
    with pytest.raises(DatasetError, match="a folder, a glob, an address or a Hub id"):
        find_source(name)
    assert hub.log == []


def test_an_address_that_lets_in_who_reads_it_is_refused():
    with pytest.raises(ConfigError, match=r"dataset\.path holds a key"):
        find_source("https://ann:hunter2@example.org/table.csv")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("reviews.csv", "reviews"),
        ("/data/Reviews 2024.csv.gz", "Reviews 2024"),
        ("data/feedback/", "feedback"),
        ("data/feedback/*.csv", "feedback"),
        ("data/**/day=*/x.parquet", "data"),
        ("org/some-reviews", "some-reviews"),
        ("hf://datasets/org/reviews@main/data/*.parquet", "reviews"),
        ("s3://bucket/logs/2024/*.parquet", "2024"),
        ("https://example.org/a/table.csv?x=1", "table"),
    ],
)
def test_a_pipeline_is_called_as_its_source_is(source, name):
    assert name_of(source) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Reviews 2024", "reviews_2024"),
        ("2024-01", "data_2024_01"),
        ("a__b--c", "a_b_c"),
        ("Kundenbewertungen (März)", "kundenbewertungen_marz"),
        ("评论", "data"),
        ("", "data"),
        ("x" * 47 + "_yz", "x" * 47),
    ],
)
def test_a_pipelines_name_is_one_that_is_valid(text, name):
    assert pipeline_name(text) == name
