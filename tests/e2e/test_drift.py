"""Files that differ, from the pipeline file to the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import tidemill, write_toml
from tests.pipelines import make_pipeline, problems_of, quarantine_of, query, run
from tidemill.config import Pipeline


def write_lines(path: Path, *records: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def record(number: int, text: str, **values: Any) -> dict[str, Any]:
    return {"id": number, "turns": [{"role": "user", "content": text}], **values}


def kept(pipeline: Pipeline) -> list[tuple[Any, ...]]:
    return query(pipeline.lake, "SELECT id, v, m, typeof(v) FROM reviews ORDER BY id")


@pytest.mark.slow
def test_files_that_differ_make_one_table_whose_types_stay_until_the_pipeline_says_otherwise(tmp_path):
    dataset = {"text": "turns[0].content", "keep": ["v", "m"]}
    pipeline = make_pipeline(tmp_path / "lake", f"{tmp_path}/data/*", dataset=dataset, limits={"max_quarantine": 1.0})
    write_lines(tmp_path / "data" / "a.jsonl", record(1, "good", v=1, m={"a": 1}), record(2, "bad"))
    write_lines(tmp_path / "data" / "b.jsonl", record(3, "fine", v=2.5, m={"b": "x"}), {"id": 4, "turns": []})
    run(pipeline)
    assert kept(pipeline) == [
        (1, 1.0, {"a": 1, "b": None}, "DOUBLE"),
        (2, None, None, "DOUBLE"),
        (3, 2.5, {"a": None, "b": "x"}, "DOUBLE"),
    ]
    assert quarantine_of(pipeline) == {("b.jsonl", 1): ("ingest", "text is null")}

    write_lines(tmp_path / "data" / "c.jsonl", record(5, "poor", v="007"))
    result = run(pipeline)
    assert any("c.jsonl: 'v' has values that are not double" in note for note in result.notes)
    assert "v = '007' is not double; dataset.types can settle" in quarantine_of(pipeline)["c.jsonl", 0][1]

    as_text = make_pipeline(
        tmp_path / "lake",
        f"{tmp_path}/data/*",
        dataset={**dataset, "types": {"v": "string"}},
        limits={"max_quarantine": 1.0},
    )
    run(as_text)
    assert [(v, kind) for _, v, _, kind in kept(as_text)] == [("1", "VARCHAR"), (None, "VARCHAR"), ("2.5", "VARCHAR")]
    assert problems_of(as_text) == []


@pytest.mark.parametrize(
    ("second", "code", "said"),
    [
        ("id,body,rating\n2,bad,2.5\n", 2, "b.csv has no column 'text'. It has: "),
        ("id,text,Rating\n2,bad,2.5\n", 0, "1 file has no column 'rating', but 'Rating'"),
    ],
)
def test_plan_says_what_a_second_file_lacks(tmp_path, second, code, said):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("id,text,rating\n1,good,5\n")
    (tmp_path / "data" / "b.csv").write_text(second)
    done = tidemill("plan", write_toml(tmp_path, f"{tmp_path}/data/*.csv"), home=tmp_path / "home")
    assert done.returncode == code
    assert said in done.stdout + done.stderr
