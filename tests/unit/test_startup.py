"""What a command imports before it can answer, which is most of what a short one takes."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tidemill.lake
from tests.commands import environment, write_toml
from tests.pipelines import ROOT, reviews, run, write_parquet
from tidemill.config import Lake as Section
from tidemill.config import load_pipeline
from tidemill.lake import Lake
from tidemill.running.stage_run import StageRun


@pytest.mark.parametrize("options", [[], ["--format", "csv"]])
def test_a_query_imports_no_parser_no_model_of_the_file_and_no_package_around_duckdb(tmp_path, options):
    catalog, data = f"sqlite:{tmp_path}/lake.sqlite", f"{tmp_path}/lake"
    Lake(Section(catalog=catalog, data=data)).close()
    pipeline = tmp_path / "reviews.toml"
    pipeline.write_text(f'[lake]\ncatalog = "{catalog}"\n')
    heavy = ["duckdb", "inspect", "numpy", "pandas", "prefect", "pyarrow", "pydantic", "torch", "typer"]
    script = (
        "import sys; from tidemill.cli.main import main; "
        f"sys.argv = ['tidemill', 'sql', '{pipeline}', 'SELECT 42 AS answer', *{options}]; main(); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )

    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert "42" in found.stdout
    assert found.stdout.endswith("[]\n")


def test_nothing_to_do_is_found_out_without_a_library_of_models(tmp_path):
    write_parquet(tmp_path / "data" / "0.parquet", reviews(0, 4))
    pipeline, home = write_toml(tmp_path, f"{tmp_path}/data/*"), tmp_path / "home"
    run(load_pipeline(pipeline))
    heavy = ["datasets", "openvino", "prefect", "safetensors", "tokenizers", "torch", "transformers"]
    script = (
        "import sys; from tidemill.cli.main import main\n"
        "for words in (['plan'], ['run', '--direct'], ['status']):\n"
        f"    sys.argv = ['tidemill', words[0], '{pipeline}', *words[1:]]\n"
        "    try: main()\n"
        "    except SystemExit as ended: assert not ended.code\n"
        f"    print([name for name in {heavy} if name in sys.modules])"
    )

    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment(home), capture_output=True, text=True, check=True
    )

    assert [line for line in found.stdout.splitlines() if line.startswith("[")] == ["[]"] * 3


@pytest.mark.slow
def test_stages_of_a_known_version_that_compute_nothing_import_no_library_of_models(tmp_path):
    write_parquet(tmp_path / "data" / "0.parquet", reviews(0, 4))
    file = write_toml(tmp_path, f"{tmp_path}/data/*")
    pipeline = load_pipeline(file)
    run(pipeline)
    write_parquet(tmp_path / "data" / "1.parquet", reviews(4, 4))

    assert stage_alone("ingest", file) == "1 []\n"
    assert [StageRun(pipeline, stage).execute().num_shards for stage in ("tokenize", "infer")] == [1, 1]
    assert stage_alone("materialize", file) == "1 []\n"


def stage_alone(stage, pipeline):
    """What a process that does one stage prints: the number of shards, and what it imported of libraries of models."""
    heavy = ["datasets", "openvino", "safetensors", "tokenizers", "torch", "transformers"]
    script = (
        "import sys; from tidemill.config import load_pipeline; from tidemill.running.stage_run import StageRun\n"
        f"done = StageRun(load_pipeline('{pipeline}'), '{stage}').execute()\n"
        f"print(done.num_shards, [name for name in {heavy} if name in sys.modules])"
    )
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_openvino_finds_no_package_that_sends_usage_statistics_whichever_module_is_first():
    script = (
        "import sys; import tidemill.engines.openvino_attention\n"
        "print('openvino' in sys.modules, sys.modules['openvino_telemetry'])"
    )

    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert found.stdout == "True None\n"


@pytest.mark.parametrize("name", tidemill.lake.__all__)
def test_what_the_lake_names_can_be_used(name):
    assert getattr(tidemill.lake, name) is not None
    assert name in dir(tidemill.lake)


def test_a_name_that_the_lake_has_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'tidemill\.lake' has no attribute 'Lakes'"):
        tidemill.lake.Lakes  # noqa: B018
