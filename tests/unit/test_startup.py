"""What a command imports before it can answer, which is most of what a short one takes."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tidemill.lake
from tests.pipelines import ROOT


def test_a_query_imports_neither_arrow_nor_numpy():
    heavy = ["numpy", "pandas", "prefect", "pyarrow", "torch"]
    script = f"import sys, tidemill.cli.query; print([name for name in {heavy} if name in sys.modules])"

    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", tidemill.lake.__all__)
def test_what_the_lake_names_can_be_used(name):
    assert getattr(tidemill.lake, name) is not None
    assert name in dir(tidemill.lake)


def test_a_name_that_the_lake_has_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'tidemill\.lake' has no attribute 'Lakes'"):
        tidemill.lake.Lakes  # noqa: B018
