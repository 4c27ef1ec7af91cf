"""The rows of a query: of a lake, and of files in the folders that the training file allows, and of no others."""

from __future__ import annotations

import pytest

from tests.pipelines import write_parquet
from tests.trainings import labelled, save_base, training
from tidemill.config import Lake as Section
from tidemill.errors import ConfigError
from tidemill.lake import Lake
from tidemill.training.examples.reading import read_examples


def asked(tmp_path, **data):
    """Of a lake that keeps no text, with the texts in a file beside it."""
    write_parquet(tmp_path / "texts" / "rows.parquet", labelled(10))
    lake = Section(catalog=f"sqlite:{tmp_path}/marked.sqlite", data=f"{tmp_path}/marked")
    Lake(lake).close()
    sql = f"SELECT id, text, label FROM read_parquet('{tmp_path}/texts/rows.parquet')"
    base = save_base(tmp_path / "base")
    return training(tmp_path, None, base, data={"sql": sql, "lakes": lake.catalog, "key": ["id"], **data})


def test_texts_that_a_lake_does_not_keep_are_read_from_a_folder_that_is_allowed(tmp_path):
    found = read_examples(asked(tmp_path, allow=str(tmp_path / "texts")))

    assert found.table.select(["id", "text"]).equals(labelled(10).select(["id", "text"]))


def test_a_file_in_no_folder_that_is_allowed_is_not_read(tmp_path):
    with pytest.raises(ConfigError, match=r"Name their folder: data\.allow") as refused:
        read_examples(asked(tmp_path))

    assert refused.value.exit_code == 2
