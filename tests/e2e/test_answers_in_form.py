"""Files to a table of answers that have a form: what is stored has it, and every other row says why it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.pipelines import make_pipeline, problems_of, quarantine_of, query, reviews, run, table_of, write_parquet
from tests.writers_in_form import save_writer
from tidemill.config import Pipeline
from tidemill.planning.versions import declared

NUM_ROWS = 30
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "label": {"enum": ["positive", "negative"]},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "is_new": {"type": "boolean"},
        "tags": {"type": "array", "items": {"enum": ["yes", "no"]}, "maxItems": 2, "uniqueItems": True},
        "author": {"type": "string"},
    },
    "required": ["label", "stars", "tags"],
    "additionalProperties": False,
}
"""With a text that nothing ends, and tags that no grammar keeps apart."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("forms")
    save_writer(made / "model", "Llama")
    write_parquet(made / "data" / "0.parquet", reviews(0, NUM_ROWS))
    return made


def labelled(folder: Path, at: Path, **options: Any) -> Pipeline:
    return make_pipeline(
        at,
        f"{folder}/data/*",
        model={"task": "text-generation", "path": str(folder / "model"), "options": options},
        inference={"dtype": "float32"},
        limits={"max_quarantine": 1.0},
    )


def test_what_is_stored_is_as_the_schema_says_and_every_other_row_says_why_it_is_not(folder, tmp_path):
    pipeline = labelled(folder, tmp_path, json_schema=SCHEMA, max_new_tokens=60)

    result = run(pipeline)

    columns = list(SCHEMA["properties"])
    rows = query(pipeline.lake, f"SELECT text, finish_reason, {', '.join(columns)} FROM reviews")
    for text, finish_reason, *values in rows:
        answer = json.loads(text)
        Draft202012Validator(SCHEMA).validate(answer)
        assert values == [answer.get(column) for column in columns]
        assert finish_reason == "stop"
    reasons = [reason for _, reason in quarantine_of(pipeline).values()]
    assert (len(rows), len(reasons)) == (result.num_rows, result.num_quarantined)
    assert len(rows) + len(reasons) == NUM_ROWS
    assert len(rows) > 3
    assert all("cut at the limit" in reason or "non-unique elements" in reason for reason in reasons)
    assert any("cut at the limit" in reason for reason in reasons)
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_of_choices_every_row_has_one_and_other_choices_are_another_version(folder, tmp_path):
    pipeline = labelled(folder, tmp_path, choices=["yes", "no", "no idea"], max_new_tokens=8)
    other = labelled(folder, tmp_path, choices=["no", "yes"], max_new_tokens=8)

    assert run(pipeline).num_rows == NUM_ROWS

    assert {row["text"] for row in table_of(pipeline).values()} <= {"yes", "no", "no idea"}
    assert problems_of(pipeline) == []
    assert declared(pipeline).version != declared(other).version
