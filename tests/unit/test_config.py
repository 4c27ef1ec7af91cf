"""The pipeline file: defaults, overrides, and refusals that name the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.columns import parse_kept
from tidemill.config import Pipeline, known_keys, load_pipeline
from tidemill.errors import ConfigError
from tidemill.pipeline_file import SECTIONS, lake_to_read, read_file

MINIMAL = '[dataset]\npath = "a"\ntext = "text"\n[model]\npath = "m"\n'


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pipeline.toml"
    path.write_text(text)
    return path


def test_the_defaults_lie_in_tidemill_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TIDEMILL_HOME", "/elsewhere")
    pipeline = load_pipeline(write(tmp_path, f'name = "a"\n{MINIMAL}'))
    assert (pipeline.lake.catalog, pipeline.store.path) == ("sqlite:/elsewhere/lake.sqlite", "/elsewhere/store")
    monkeypatch.delenv("TIDEMILL_HOME")
    assert load_pipeline(write(tmp_path, f'name = "a"\n{MINIMAL}')).lake.data == ".tidemill/lake"


def test_overrides_are_toml_values_or_bare_strings(tmp_path):
    path = write(tmp_path, f'name = "a"\n{MINIMAL}')
    overrides = ["name=b", "dataset.keep=['x', 'y as z']", "store.max_bytes='1 GB'", "limits.max_quarantine=0.5"]
    pipeline = load_pipeline(path, overrides)
    assert (pipeline.name, pipeline.dataset.keep) == ("b", ["x", "y as z"])
    assert (pipeline.store.max_bytes, pipeline.limits.max_quarantine) == (10**9, 0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "is not valid TOML"),
        (MINIMAL, "name is missing"),
        (f'name = "a"\nshedule = 1\n{MINIMAL}', "Did you mean schedule?"),
        (f'name = "a__b"\n{MINIMAL}', "separates a table's name from its version"),
        (f'name = "a"\n{MINIMAL}[tokenizer]\nmax_length = "long"\n', "tokenizer.max_length = 'long'"),
        (
            f'name = "a"\n{MINIMAL}[tokenizer]\noverlap = 9\n',
            "tokenizer.overlap = 9: counts only with tokenizer.long_text",
        ),
        (
            f'name = "a"\n{MINIMAL}[tokenizer]\nlong_text = "quarantine"\naggregate = "max"\n',
            "tokenizer.aggregate = 'max': counts only with tokenizer.long_text = \"windows\"",
        ),
        (
            f'name = "a"\n{MINIMAL}[tokenizer]\nlong_text = "windows"\nmax_length = 9\noverlap = 9\n',
            "tokenizer.overlap = 9: is not less than tokenizer.max_length = 9: lower it.",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, said):
    with pytest.raises(ConfigError) as refused:
        load_pipeline(write(tmp_path, text))
    assert said in str(refused.value)


def test_a_pipeline_that_is_written_out_with_its_defaults_can_be_read_again(tmp_path):
    for tokenizer in ("", '[tokenizer]\nlong_text = "windows"\noverlap = 9\n'):
        pipeline = load_pipeline(write(tmp_path, f'name = "a"\n{MINIMAL}{tokenizer}'))
        assert Pipeline.model_validate(pipeline.model_dump(mode="json")) == pipeline


def test_every_key_has_a_docstring_but_sections():
    sections = {"dataset", "tokenizer", "model", "inference", "schedule", "alerts", "lake", "store", "limits", "cost"}
    fields = dict(_fields(Pipeline))
    assert set(known_keys(Pipeline)) == set(fields)
    assert [key for key, field in fields.items() if not field.description and key not in sections] == []


def test_kept_columns_may_be_renamed_and_keys_come_first(tmp_path):
    path = write(tmp_path, f'name = "a"\n{MINIMAL}')
    pipeline = load_pipeline(path, ["dataset.key=['id']", "dataset.keep=['score as rating', 'id', 'has as inside']"])
    assert parse_kept(pipeline) == [("id", "id"), ("score", "rating"), ("has", "inside")]


def _fields(model, prefix=""):
    for name, field in model.model_fields.items():
        yield prefix + name, field
        if hasattr(field.annotation, "model_fields"):
            yield from _fields(field.annotation, f"{prefix}{name}.")


@pytest.mark.parametrize(
    "lake",
    ["", "[lake]\n", '[lake]\ncatalog = "sqlite:a"\n', '[lake]\ncatalog = "postgres:"\ndata = "s3://a/b"\n'],
)
def test_where_a_lake_lies_is_seen_as_the_whole_model_sees_it(tmp_path, lake):
    path = write(tmp_path, f'name = "a"\n{MINIMAL}{lake}')
    seen, known = lake_to_read(read_file(path)), load_pipeline(path).lake
    assert seen is not None
    assert (seen.catalog, seen.data, seen.names_data) == (known.catalog, known.data, known.names_data)


@pytest.mark.parametrize(
    "text",
    [
        '[laek]\ncatalog = "sqlite:a"\n',
        '[lake]\ncatalogue = "sqlite:a"\n',
        '[lake]\ncatalog = "mysql:a"\n',
        "[lake]\ncatalog = 3\n",
        "[lake]\ndata = 3\n",
        'lake = "sqlite:a"\n',
    ],
)
def test_where_a_lake_lies_is_not_guessed(tmp_path, text):
    path = write(tmp_path, f'name = "a"\n{text}{MINIMAL}')
    assert lake_to_read(read_file(path)) is None
    with pytest.raises(ConfigError, match=r"lake|laek"):
        load_pipeline(path)


def test_the_sections_are_those_of_the_model():
    assert frozenset(Pipeline.model_fields) == SECTIONS
