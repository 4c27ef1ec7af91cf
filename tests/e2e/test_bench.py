from __future__ import annotations

import json

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from tests.pipelines import make_pipeline, reviews, write_parquet
from tests.tiny_writers import write_gpt2
from tidemill.cli.everyday import app
from tidemill.errors import InputError
from tidemill.reports.bottleneck import find_bottleneck


@pytest.mark.slow
def test_a_sample_is_measured_stage_by_stage_and_nothing_is_left_behind(tmp_path):
    write_parquet(tmp_path / "data" / "a.parquet", reviews(0, 90))
    pipeline = make_pipeline(tmp_path / "home", f"{tmp_path}/data/*.parquet")

    facts = find_bottleneck(pipeline, num_rows=60)

    assert facts["num_rows"] == 60
    assert [stage["stage"] for stage in facts["stages"]] == ["ingest", "tokenize", "infer", "materialize"]
    slowest = max(facts["stages"], key=lambda stage: stage["seconds"])
    assert facts["bottleneck"] == slowest["stage"]
    for stage in facts["stages"]:
        assert stage["tokens_per_second"] * stage["seconds"] == pytest.approx(facts["num_tokens"])
    assert facts["whole"]["state"] == "done"
    assert facts["ratio_to_bare_engine"] == facts["whole"]["seconds"] / facts["bare_engine_seconds"]
    left = {path.name for path in (tmp_path / "home").rglob("*") if path.is_file()}
    assert left <= {"fingerprints.sqlite"}


@pytest.mark.slow
def test_a_model_that_writes_is_measured_on_prompts_of_its_columns(tmp_path):
    write_parquet(tmp_path / "data" / "a.parquet", reviews(0, 12))
    options = {"prompt": "{domain}: {text}", "max_new_tokens": 2}
    model = {"path": str(write_gpt2(tmp_path / "gpt2")), "task": "text-generation", "options": options}
    texts = {"text": ["text", "domain"], "key": [], "keep": []}
    pipeline = make_pipeline(tmp_path / "home", f"{tmp_path}/data/*.parquet", dataset=texts, model=model)

    facts = find_bottleneck(pipeline, num_rows=8)

    assert (facts["num_rows"], facts["whole"]["state"]) == (8, "done")


@pytest.mark.slow
def test_the_command_prints_a_line_a_stage_and_the_bottleneck(tmp_path):
    write_parquet(tmp_path / "data" / "a.parquet", reviews(0, 40))
    pipeline = make_pipeline(tmp_path / "home", f"{tmp_path}/data/*.parquet")
    file = tmp_path / "reviews.toml"
    file.write_text(
        f'name = "reviews"\n[dataset]\npath = "{tmp_path}/data/*.parquet"\ntext = "text"\n'
        f'[model]\npath = "{pipeline.model.path}"\n[inference]\nengine = "torch"\n'
    )

    shown = CliRunner().invoke(app, ["bench", str(file), "--rows", "40"], catch_exceptions=False)
    as_json = CliRunner().invoke(app, ["bench", str(file), "--rows", "40", "--json"], catch_exceptions=False)

    assert shown.exit_code == 0
    assert shown.output.count("← the bottleneck") == 1
    assert "times the bare engine's" in shown.output
    assert json.loads(as_json.stdout)["num_rows"] == 40


def test_a_dataset_without_text_is_an_error_of_its_own(tmp_path):
    rows = reviews(0, 3)
    no_text = pa.nulls(3, pa.string())
    write_parquet(
        tmp_path / "data" / "a.parquet", rows.set_column(rows.schema.get_field_index("text"), "text", no_text)
    )

    with pytest.raises(InputError, match="no rows"):
        find_bottleneck(make_pipeline(tmp_path / "home", f"{tmp_path}/data/*.parquet"), num_rows=10)
