"""The pipeline file: defaults, overrides, and refusals that name the way out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
        (
            f'name = "a"\n{MINIMAL}[tokenizer]\ntruncation = "only_second"\n',
            'tokenizer.truncation = "only_second" counts only for pairs of texts: set dataset.text_pair, or leave',
        ),
        (
            'name = "a"\n[dataset]\npath = "a"\ntext = "a"\ntext_pair = "b"\n[model]\npath = "m"\n'
            '[tokenizer]\nlong_text = "windows"\n',
            'tokenizer.long_text = "windows" reads one text, and dataset.text_pair makes a row two. Set long_text to',
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
    sections = SECTIONS - {"name"}
    fields = dict(_fields(Pipeline))
    assert set(known_keys(Pipeline)) == set(fields)
    assert [key for key, field in fields.items() if not field.description and key not in sections] == []


def test_kept_columns_may_be_renamed_and_keys_come_first(tmp_path):
    path = write(tmp_path, f'name = "a"\n{MINIMAL}')
    pipeline = load_pipeline(path, ["dataset.key=['id']", "dataset.keep=['score as rating', 'id', 'has as inside']"])
    assert pipeline.dataset.kept == [("id", "id"), ("score", "rating"), ("has", "inside")]


@pytest.mark.parametrize(
    ("declared", "kept"),
    [
        (" text", (" text", "text")),
        (" as index", ("", "index")),
        ('"a as b" as c', ("a as b", "c")),
        ('"a as b"', ("a as b", "a as b")),
        ('"say ""hi""" AS "x as y"', ('say "hi"', "x as y")),
        ('5" disk', ('5" disk', '5" disk')),
    ],
)
def test_a_name_in_quotes_may_hold_what_separates_names(tmp_path, declared, kept):
    path = write(tmp_path, f'name = "a"\n{MINIMAL}')
    assert load_pipeline(path, [f"dataset.keep=['{declared}']"]).dataset.kept == [kept]


REFUSED = {
    "dataset.keep=['a as b as c']": r"dataset\.keep = .*'a as b as c' is neither a column nor `column as name`",
    "dataset.encoding=klingon": r"dataset\.encoding = 'klingon': is no encoding of text",
    "dataset.encoding=base64": r"dataset\.encoding = 'base64': is no encoding of text",
    "dataset.escape=xx": r"dataset\.escape = 'xx': .*at most 1 character",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_no_reader_could_use_is_refused(tmp_path, override):
    with pytest.raises(ConfigError, match=REFUSED[override]):
        load_pipeline(write(tmp_path, f'name = "a"\n{MINIMAL}'), [override])


def test_a_field_of_json_is_refused_for_other_formats(tmp_path):
    path = write(tmp_path, f'name = "a"\n{MINIMAL}')
    assert load_pipeline(path, ["dataset.field=data"]).dataset.field == "data"
    with pytest.raises(ConfigError, match=r'dataset\.field = \'data\': is of JSON files, and dataset\.format = "csv"'):
        load_pipeline(path, ["dataset.format=csv", "dataset.field=data"])


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


PIPELINE = f'name = "a"\n{MINIMAL}'
ODD_FILES = {
    "a number of 5,000 digits": f"{PIPELINE}[limits]\nretries = {'9' * 5000}\n".encode(),
    "a number of 70 bits": f"{PIPELINE}[limits]\nretries = {2**70}\n".encode(),
    "a number below 64 bits": f"{PIPELINE}[dataset.types]\na = {-(2**63) - 1}\n".encode(),
    "infinity": f"{PIPELINE}[limits]\nmax_quarantine = inf\n".encode(),
    "no number": f"{PIPELINE}[cost]\nper_hour = nan\n".encode(),
    "a wait of ages": f"{PIPELINE}[lake]\nlock_timeout_seconds = 1e300\n".encode(),
    "ages of snapshots": f'{PIPELINE}[lake]\nkeep_snapshots = "{"9" * 400} days"\n'.encode(),
    "a store that no disk holds": f'{PIPELINE}[store]\nmax_bytes = "{"9" * 30} PB"\n'.encode(),
    "deep lists": f"{PIPELINE}[inference]\ndevice = {'[' * 50_000}{']' * 50_000}\n".encode(),
    "lists a little too deep": f"{PIPELINE}[inference]\ndevice = {'[' * 100}{']' * 100}\n".encode(),
    "deep tables": f"{PIPELINE}[inference]\ndevice = {'{a=' * 50_000}1{'}' * 50_000}\n".encode(),
    "a key of 100,000 parts": f"{PIPELINE}[inference]\n{'.'.join('a' * 100_000)} = 1\n".encode(),
    "a key of many characters": f"{PIPELINE}[inference]\n{'a' * 100_000} = 1\n".encode(),
    "many unknown keys": (PIPELINE + "".join(f"a{i} = 1\n" for i in range(20_000))).encode(),
    "a long value": f'{PIPELINE}[inference]\nengine = "{"x" * 500_000}"\n'.encode(),
    "a NUL": PIPELINE.encode() + b"\0",
    "a NUL by its name": f'{PIPELINE}[inference]\ndevice = "cpu\\u0000"\n'.encode(),
    "no UTF-8": PIPELINE.encode() + b'[inference]\ndevice = "\xff"\n',
    "UTF-16": PIPELINE.encode("utf-16"),
    "nothing": b"",
}


def assert_refused_shortly(path: str | Path, *overrides: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_pipeline(path, overrides)
    assert len(str(refused.value)) < 10_000
    str(refused.value).encode()


@pytest.mark.parametrize("odd", ODD_FILES)
def test_an_odd_pipeline_file_is_refused_in_one_short_message(tmp_path, odd):
    path = tmp_path / "pipeline.toml"
    path.write_bytes(ODD_FILES[odd])

    assert_refused_shortly(path)


def test_what_is_no_pipeline_file_is_refused_unread(tmp_path):
    os.mkfifo(tmp_path / "fifo.toml")
    with (tmp_path / "large.toml").open("wb") as file:
        file.truncate(10**9)

    for path in (tmp_path, tmp_path / "fifo.toml", tmp_path / "large.toml", f"{tmp_path}/a\0b.toml", "/dev/zero"):
        assert_refused_shortly(path)


@pytest.mark.parametrize(
    "override",
    [
        *(f"limits.retries={'9' * 5000}", f"limits.retries={2**64}", "limits.max_quarantine=nan"),
        *(f"inference.device={'[' * 5000}{']' * 5000}", f"{'.'.join('a' * 5000)}=1", f"inference.{'a' * 5000}=1"),
        *("inference.device=a\0b", "inference.device=\udcff", "=1", "inference", f"{'x' * 5000}"),
    ],
)
def test_an_odd_override_is_refused_in_one_short_message(tmp_path, override):
    assert_refused_shortly(write(tmp_path, PIPELINE), override)


def test_an_override_of_several_lines_is_one_bare_string(tmp_path):
    pipeline = load_pipeline(write(tmp_path, PIPELINE), ["dataset.split=1\nname = 'b'"])

    assert (pipeline.name, pipeline.dataset.split) == ("a", "1\nname = 'b'")


def test_a_file_from_another_editor_is_the_same_file(tmp_path):
    for content in (b"\xef\xbb\xbf" + PIPELINE.encode(), PIPELINE.replace("\n", "\r\n").encode()):
        (tmp_path / "pipeline.toml").write_bytes(content)
        assert load_pipeline(tmp_path / "pipeline.toml").name == "a"


def test_a_pipeline_file_may_come_from_the_shell():
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        file.write(PIPELINE)

    assert load_pipeline(f"/dev/fd/{reading}").name == "a"
    os.close(reading)
