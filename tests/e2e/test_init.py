"""From nothing to a table: `tidemill init` and `tidemill run`, and no word in between."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands import answer, tidemill
from tests.hub.server import HubServer, files_in
from tests.pipelines import MODEL, query, reviews, run, write_parquet
from tests.unit.proposing.test_columns import ODD_NAMES
from tests.variants import variants
from tidemill.config import load_pipeline
from tidemill.proposing.proposal import propose
from tidemill.proposing.writing import pipeline_file

NUM_ROWS = 30
ROWS = [
    {"nr": row["id"], "label": row["rating"], "order": row["domain"], "meinung": f"{row['text']} äöü"}
    for row in reviews(0, NUM_ROWS).to_pylist()
]


def latin_1_with_semicolons(folder: Path) -> str:
    lines = [";".join(f'"{str(cell).replace(chr(34), chr(34) * 2)}"' for cell in row.values()) for row in ROWS]
    text = "\n".join([";".join(ROWS[0]), *lines, ""])
    (folder / "feedback.csv").write_bytes(text.encode("latin-1", "replace"))
    return "feedback.csv"


def json_array(folder: Path) -> str:
    (folder / "feedback.json").write_text(json.dumps(ROWS, indent=1))
    return "feedback.json"


def saved_to_disk(folder: Path) -> str:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "feedback"), num_shards=2)
    return "feedback"


def partitions(folder: Path) -> str:
    for part, start in enumerate(range(0, NUM_ROWS, 10)):
        rows = reviews(start, 10).select(["id", "text", "rating"]).rename_columns(["nr", "meinung", "label"])
        write_parquet(folder / "feedback" / f"day=2024-01-{part + 1:02}" / "part-0.parquet", rows)
    return "feedback"


SOURCES: list[Callable[[Path], str]] = [latin_1_with_semicolons, json_array, saved_to_disk, partitions]


@pytest.mark.parametrize("write", variants(SOURCES, SOURCES[:2]), ids=lambda write: write.__name__)
def test_a_local_source_becomes_a_table_by_init_and_run(tmp_path, write):
    folder = tmp_path / "here"
    folder.mkdir()
    source = write(folder)
    model = folder / "model"
    model.symlink_to(MODEL)

    where = {"home": tmp_path / "home", "cwd": folder}
    first = tidemill("init", source, "--model", "model", **where)
    assert first.returncode == 0, first.stderr
    assert "Run it: tidemill run feedback.toml" in first.stdout
    done = tidemill("run", "feedback.toml", "--direct", **where)
    assert done.returncode == 0, done.stderr

    found = tidemill("sql", "feedback.toml", "SELECT nr, true_label, label FROM feedback", "--json", **where)
    rows = json.loads(found.stdout)
    assert sorted(row["nr"] for row in rows) == sorted(row["nr"] for row in ROWS)
    assert {row["label"] for row in rows} <= {"NEGATIVE", "POSITIVE"}
    assert {row["nr"]: row["true_label"] for row in rows} == {row["nr"]: row["label"] for row in ROWS}


def test_a_dataset_and_a_model_of_a_hub_become_a_table_by_init_and_run(hub, tmp_path):
    repo = add_dataset(hub, "shop/feedback")
    add_model(hub, "shop/judge")
    home = tmp_path / "home"
    first = tidemill("init", repo, home=home, hub=hub.url)
    assert first.returncode == 0, first.stderr
    assert "shop/judge" in (tmp_path / "feedback.toml").read_text()
    done = tidemill("run", "feedback.toml", "--direct", home=home, hub=hub.url)
    assert done.returncode == 0, done.stderr
    (counted,) = answer("sql", tmp_path / "feedback.toml", "SELECT count(*) AS n FROM feedback", home=home)
    assert counted == {"n": NUM_ROWS}


@pytest.mark.slow
def test_what_is_written_for_odd_names_runs(tmp_path):
    numbers = list(range(NUM_ROWS))
    names = {name: [number % 3 for number in numbers] for name in ODD_NAMES}
    names |= {"truncated": numbers, "": numbers}
    source = tmp_path / "table.parquet"
    pq.write_table(pa.table({"id ": numbers, **names, "the . text": reviews(0, NUM_ROWS)["text"]}), source)
    proposal = propose(str(source), name="odd", model=str(MODEL), task=None)
    (tmp_path / "odd.toml").write_text(pipeline_file(proposal, tmp_path))
    places = [
        f'lake.catalog="sqlite:{tmp_path}/lake.sqlite"',
        f'lake.data="{tmp_path}/lake"',
        f"store.path={tmp_path}/s",
    ]
    paths = [f"dataset.path={source}", f"model.path={MODEL}"]
    pipeline = load_pipeline(tmp_path / "odd.toml", [*places, *paths])

    assert run(pipeline).num_rows == NUM_ROWS
    columns = [name for name, *_ in query(pipeline.lake, "DESCRIBE odd")]
    assert columns[: len(names) + 1] == ["id", *(name.strip() for name in ODD_NAMES), "source_truncated", "column"]


def test_init_overwrites_nothing_and_names_the_option_that_says_where_to(tmp_path):
    source = json_array(tmp_path)
    (tmp_path / "feedback.toml").write_text("mine")
    done = tidemill("init", source, "--model", MODEL, home=tmp_path / "home", cwd=tmp_path)
    assert done.returncode == 2
    assert "There is a file feedback.toml already" in done.stderr
    assert "-o FILE.toml" in done.stderr
    assert (tmp_path / "feedback.toml").read_text() == "mine"


def add_dataset(hub: HubServer, name: str) -> str:
    sink = io.BytesIO()
    pq.write_table(reviews(0, NUM_ROWS), sink)
    hub.add_dataset(name).commit({"data/train-00000-of-00001.parquet": sink.getvalue()})
    return name


def add_model(hub: HubServer, name: str) -> None:
    card = b"---\nlicense: apache-2.0\nlanguage: en\n---\n"
    model = hub.add_model(name)
    model.commit({**files_in(MODEL), "README.md": card})
    model.info["downloads"] = 10**9
