"""JSON schemas of the pipeline file: read from where they are, and refused where nobody would check them."""

from __future__ import annotations

import json
from datetime import date

import pytest

from tidemill.errors import ConfigError
from tidemill.pipeline_file import overridden, read_file
from tidemill.structured import read_json_schema
from tidemill.structured.formats import FORMATS, format_checker

LABEL = {"type": "object", "properties": {"label": {"type": "string"}}}


def with_property(**schema):
    return {"type": "object", "properties": {"a": schema}}


def test_a_table_its_json_and_its_file_are_one_schema(tmp_path):
    path = tmp_path / "label.json"
    path.write_text(json.dumps(LABEL, indent=4), encoding="utf-8-sig")

    found = {read_json_schema(value) for value in (LABEL, json.dumps(LABEL), str(path))}

    assert found == {'{"type":"object","properties":{"label":{"type":"string"}}}'}


def test_properties_keep_their_order_in_which_they_are_written():
    one, other = ({"type": "object", "properties": {name: {} for name in names}} for names in ("ab", "ba"))

    assert read_json_schema(one) != read_json_schema(other)


def test_no_schema_is_none():
    assert read_json_schema(None) is None


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ("nowhere/label.json", "leads to no file"),
        ('{"type": "object"', "cannot be read: it is no JSON"),
        ('{"type": "object", "type": "object"}', "has the key 'type' twice"),
        ([LABEL], "is no JSON schema"),
        (7, "is no JSON schema"),
        ({"type": "array"}, 'set type = "object" at its top'),
        ({"properties": {"a": {}}}, 'set type = "object" at its top'),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, 'set type = "object" at its top'),
        (with_property(type="strin"), "is no JSON schema: 'strin' is not valid .*#/properties/a"),
        (with_property(type="string", pattern="("), "is no JSON schema"),
        (with_property(type="string", maxlength=3), 'has "maxlength" at #/properties/a.*did you mean "maxLength"'),
        (with_property(type="string", nullable=True), 'has "nullable"'),
        (with_property(format="iri"), 'asks for format "iri" at #/properties/a.*Known: date, '),
        (with_property(**{"$ref": "#/$defs/b"}), 'refers to "#/\\$defs/b" at #/properties/a, which is not in it'),
        (with_property(**{"$ref": "https://example.org/b.json"}), "which is not in it"),
        ({"type": "object", "properties": {"": {}}}, "a property without a name"),
        ({"type": "object", "properties": {"label": {}, "Label": {}}}, 'the properties "label" and "Label"'),
        (with_property(const=date(2026, 1, 1)), "holds what JSON cannot"),
        (with_property(minimum=float("nan")), "holds NaN"),
        (with_property(maximum=2**63), "more than 64 bits"),
    ],
)
def test_what_is_no_schema_or_is_checked_by_nobody_is_refused(schema, why):
    with pytest.raises(ValueError, match=why):
        read_json_schema(schema)


def test_properties_may_have_the_names_of_keywords_and_values_may_look_like_schemas():
    schema = {
        "type": "object",
        "properties": {"format": {"type": "string"}, "enum": {"enum": [{"format": "x", "$ref": "y"}]}, "$ref": {}},
        "x-made-by": "hand",
    }

    assert json.loads(read_json_schema(schema) or "") == schema


def pipeline_file(folder, options):
    path = folder / "pipeline.toml"
    path.write_text(f'name = "labels"\n[model]\npath = "some/model"\n{options}')
    return path


def schema_in(raw):
    return raw["model"]["options"]["json_schema"]


def test_a_pipeline_file_takes_in_the_file_that_it_names_from_its_own_folder(tmp_path):
    (tmp_path / "label.json").write_text(json.dumps(LABEL))

    raw = read_file(pipeline_file(tmp_path, '[model.options]\njson_schema = "label.json"'))

    assert json.loads(schema_in(raw)) == LABEL


def test_a_table_is_taken_in_with_its_order(tmp_path):
    options = '[model.options.json_schema]\ntype = "object"\nproperties.b.type = "string"\nproperties.a = {}'

    raw = read_file(pipeline_file(tmp_path, options))

    assert schema_in(raw) == '{"type": "object", "properties": {"b": {"type": "string"}, "a": {}}}'


def test_an_override_names_a_file_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "label.json").write_text(json.dumps(LABEL))
    monkeypatch.chdir(tmp_path)

    raw = overridden({"model": {}}, ["model.options.json_schema=label.json"])

    assert json.loads(schema_in(raw)) == LABEL


@pytest.mark.parametrize(
    ("content", "why"), [(None, "where no file is"), ("[1]", "holds no JSON object"), (b"\xff", "cannot be read")]
)
def test_a_file_that_holds_no_schema_is_named(tmp_path, content, why):
    if content is not None:
        (tmp_path / "label.json").write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(ConfigError, match=rf"json_schema = .label\.json. leads to|label\.json.*{why}"):
        read_file(pipeline_file(tmp_path, '[model.options]\njson_schema = "label.json"'))


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_checked_and_says_nothing_of_what_is_no_string(name):
    checker = format_checker()

    assert checker.conforms(7, name)
    assert not checker.conforms("no such thing: ?", name)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("date", "2024-02-29", "2023-02-29"),
        ("time", "23:59:60Z", "24:00:00Z"),
        ("time", "08:30:00.25+05:30", "08:30:00"),
        ("date-time", "2026-11-26T20:22:08Z", "2026-11-26 20:22:08"),
        ("duration", "P3DT4H", "P"),
        ("duration", "PT30M", "PT"),
        ("email", "ann@example.org", "ann at example.org"),
        ("hostname", "www.example.org", "-www.example.org"),
        ("ipv4", "10.0.0.1", "10.0.0.256"),
        ("ipv6", "::1", "10.0.0.1"),
        ("uri", "https://example.org/a?b=c", "example.org"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567e89b12d3a456426614174000"),
    ],
)
def test_formats_are_as_their_specifications_have_them(name, right, wrong):
    checker = format_checker()

    assert checker.conforms(right, name)
    assert not checker.conforms(wrong, name)
