"""What a command imports before it can answer, which is most of what a short one takes."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tidemill.lake
from tests.pipelines import ROOT
from tidemill.config import Lake as Section
from tidemill.lake import Lake


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


@pytest.mark.parametrize("name", tidemill.lake.__all__)
def test_what_the_lake_names_can_be_used(name):
    assert getattr(tidemill.lake, name) is not None
    assert name in dir(tidemill.lake)


def test_a_name_that_the_lake_has_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'tidemill\.lake' has no attribute 'Lakes'"):
        tidemill.lake.Lakes  # noqa: B018
