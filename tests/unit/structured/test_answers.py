"""Answers of a form: what a text must be to become a row, which columns it fills, and why it becomes none."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidemill.errors import ModelError
from tidemill.structured import AnswerSchema, Grammar, read_json_schema


def schema_of(required=(), **properties):
    return {"type": "object", "properties": properties, "required": list(required)}


def asked(form, **facts):
    """A schema, or choices."""
    grammar = Grammar.of(form) if isinstance(form, list) else Grammar.of(json_schema=read_json_schema(form))
    assert grammar is not None
    return AnswerSchema.of(grammar, **facts)


def parsed(form, *texts, finished=True):
    answers = asked(form)
    columns, reasons = answers.parse(pa.array(texts, pa.string()), np.full(len(texts), finished))
    return pa.table(columns, schema=answers.fields).to_pylist(), reasons.to_pylist()


def reason_of(form, text, **facts):
    (values,), (reason,) = parsed(form, text, **facts)
    assert not any(value is not None for value in values.values())
    return reason


OF_TYPES = {
    "string": ({"type": "string"}, "string"),
    "integer": ({"type": "integer"}, "int64"),
    "number": ({"type": "number"}, "double"),
    "boolean": ({"type": "boolean"}, "bool"),
    "list": ({"type": "array", "items": {"type": "number"}}, "list<item: double>"),
    "list of lists": (
        {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
        "list<item: list<item: string>>",
    ),
    "optional": ({"type": ["integer", "null"]}, "int64"),
    "optional as pydantic says it": ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string"),
    "optional list": (
        {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]},
        "list<item: int64>",
    ),
    "listed texts": ({"enum": ["a", "b"]}, "string"),
    "listed texts or null": ({"enum": ["a", None]}, "string"),
    "listed integers": ({"enum": [1, 2.0]}, "int64"),
    "listed numbers": ({"enum": [1, 2.5]}, "double"),
    "a listed number beyond 64 bits": ({"enum": [1e300]}, "double"),
    "one boolean": ({"const": True}, "bool"),
    "a definition": ({"$ref": "#/$defs/mood"}, "string"),
    "one of several definitions": ({"oneOf": [{"$ref": "#/$defs/mood"}, {"const": "x"}]}, "string"),
    "both of two": ({"allOf": [{"type": ["string", "integer"]}, {"type": ["string", "null"]}]}, "string"),
    "integer or number": ({"type": ["integer", "number"]}, "double"),
    "two types": ({"type": ["string", "integer"]}, None),
    "object": ({"type": "object"}, None),
    "anything": ({}, None),
    "null": ({"type": "null"}, None),
    "list of anything": ({"type": "array"}, None),
    "list of objects": ({"type": "array", "items": {"type": "object"}}, None),
    "a row of two": ({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}]}, None),
    "itself": ({"$ref": "#"}, None),
    "a list of itself": ({"$ref": "#/$defs/tree"}, None),
}


@pytest.mark.parametrize("case", OF_TYPES)
def test_a_property_is_a_column_of_its_type_or_text_with_its_json(case):
    of, expected = OF_TYPES[case]
    tree = {"type": "array", "items": {"$ref": "#/$defs/tree"}}
    schema = {**schema_of(a=of), "$defs": {"mood": {"enum": ["good", "bad"]}, "tree": tree}}

    assert str(asked(schema).fields.field("a").type) == (expected or "string")


def test_an_answer_fills_its_columns():
    schema = schema_of(
        label={"enum": ["good", "bad"]},
        stars={"type": "integer"},
        score={"type": "number"},
        is_new={"type": "boolean"},
        tags={"type": "array", "items": {"type": ["string", "null"]}},
        by={"type": "object"},
        any={},
    )
    text = (
        '{"label": "good", "stars": 4.0, "score": 1, "is_new": false, "tags": ["ü", null], '
        '"by": {"b": 0.10, "a": [1]}, "any": "x", "more": 1}'
    )

    (row,), reasons = parsed(schema, text)

    assert reasons == [None]
    assert row == {
        "label": "good",
        "stars": 4,
        "score": 1.0,
        "is_new": False,
        "tags": ["ü", None],
        "by": '{"b":0.1,"a":[1]}',
        "any": '"x"',
    }


def test_a_property_that_is_missing_or_null_is_null():
    schema = schema_of(a={"type": ["integer", "null"]}, b={"type": "string"}, c={})

    assert parsed(schema, '{"a": null, "c": null}') == ([{"a": None, "b": None, "c": None}], [None])


def test_a_row_without_a_text_has_neither_an_answer_nor_a_reason():
    assert parsed(schema_of(a={"type": "string"}), None) == ([{"a": None}], [None])


def test_rows_keep_their_places():
    rows, reasons = parsed(schema_of(a={"type": "integer"}), '{"a": 1}', "{", None, '{"a": 2}')

    assert [row["a"] for row in rows] == [1, None, None, 2]
    assert [reason is None for reason in reasons] == [True, False, True, True]


def test_no_rows_have_columns_all_the_same():
    assert parsed(schema_of(a={"type": "integer"})) == ([], [])


@pytest.mark.parametrize("text", ['{"a": 1}', '{"a": 1'])
def test_an_answer_that_was_cut_is_never_repaired(text):
    reason = reason_of(schema_of(a={"type": "integer"}), text, finished=False)

    assert "cut at the limit" in reason
    assert "model.options.max_new_tokens" in reason


@pytest.mark.parametrize(
    ("of", "value", "why"),
    [
        ({"type": "string", "pattern": "^[a-z]+$", "maxLength": 3}, '"abcd"', "too long"),
        ({"type": "string", "pattern": "^[a-z]+$", "maxLength": 3}, '"A"', "does not match"),
        ({"type": "integer", "multipleOf": 5}, "7", "is not a multiple of 5"),
        ({"type": "array", "uniqueItems": True}, "[1, 1.0]", "non-unique"),
        ({"type": "string", "format": "date"}, '"2023-02-29"', "is not a 'date'"),
        ({"not": {"type": "null"}}, "null", "should not be valid"),
        ({"type": "integer"}, "1.5", "is not of type 'integer'"),
        ({"type": "boolean"}, "1", "is not of type 'boolean'"),
        ({"enum": [1]}, "true", "is not one of"),
    ],
)
def test_what_no_grammar_holds_a_model_to_is_checked(of, value, why):
    reason = reason_of(schema_of(a=of), f'{{"a": {value}}}')

    assert why in reason
    assert "not as model.options.json_schema says at $.a" in reason


def test_numbers_are_checked_as_they_were_written():
    rows, reasons = parsed(schema_of(a={"type": "number", "multipleOf": 0.1}), '{"a": 0.3}', '{"a": 0.35}')

    assert reasons[0] is None
    assert reasons[1].endswith("at $.a: 0.35 is not a multiple of 0.1")
    assert rows[0] == {"a": 0.3}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is no JSON"),
        ("good", "it is no JSON"),
        ('{"a": 1} and more', "it is no JSON: Extra data"),
        ('```json\n{"a": 1}\n```', "it is no JSON"),
        ('{"a": 1, "a": 2}', "has the key 'a' twice"),
        ('{"b": {"c": 1, "c": 1}}', "has the key 'c' twice"),
        ('{"a": NaN}', "holds NaN"),
        ('{"a": -Infinity}', "holds -Infinity"),
        ('{"a": 9223372036854775808}', "more than 64 bits"),
        ('{"b": ' + "9" * 5000 + "}", "more than 64 bits"),
        ('{"b": 1e999}', "beyond a double"),
        ('{"b": "\\ud800"}', "half a character"),
        ('{"\\udc00": 1}', "half a character"),
        ('{"b": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deep"),
        ('[{"a": 1}]', "is not of type 'object'"),
        ('{"a": 1e300}', "is not of type 'integer'"),
    ],
)
def test_what_a_table_cannot_keep_is_refused_with_its_reason_in_one_short_line(text, why):
    reason = reason_of(schema_of(a={"type": "integer"}), text)

    assert why in reason
    assert len(reason) <= 300
    assert "\n" not in reason


def test_the_largest_numbers_of_64_bits_are_kept():
    text = '{"a": [-9223372036854775808, 9223372036854775807], "b": 1.7976931348623157e308}'

    (row,), reasons = parsed(schema_of(a={"type": "array", "items": {"type": "integer"}}, b={"type": "number"}), text)

    assert reasons == [None]
    assert row == {"a": [-(2**63), 2**63 - 1], "b": 1.7976931348623157e308}


def test_a_reason_does_not_repeat_a_long_answer():
    reason = reason_of(schema_of(a={"type": "array", "maxItems": 1}), json.dumps({"a": ["x" * 50] * 100}))

    assert "maxItems is 1" in reason
    assert len(reason) <= 300


def test_the_text_column_holds_the_answer_without_the_blank_before_it():
    answers = asked(schema_of(a={}))

    assert answers.texts(pa.array([' {"a": 1}', '{"a": 1} ', None])).to_pylist() == ['{"a": 1}', '{"a": 1} ', None]


def test_of_choices_only_the_choices_themselves_are_answers():
    _, reasons = parsed(["yes", "no"], "yes", " no", "Yes", "yes.", "", None)

    assert [reason is None for reason in reasons] == [True, True, False, False, False, True]
    assert reasons[2] == "the answer 'Yes' is none of model.options.choices"


@pytest.mark.parametrize("name", ["text", "Finish_Reason", "row_number", "_text_hash"])
def test_a_property_with_the_name_of_another_column_is_refused_with_the_way_out(name):
    with pytest.raises(ModelError, match=rf'has the property "{name}".*Rename the property') as refused:
        asked(schema_of(**{name: {}}), taken=["text", "finish_reason"])

    assert f'"answer_{name.strip("_")}"' in str(refused.value)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"])
LISTED = st.lists(st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from([0.5, 2.0, 1e300, "a"]), min_size=1)
SCHEMAS = st.recursive(
    st.lists(TYPES, min_size=1, unique=True).map(lambda types: {"type": types})
    | LISTED.map(lambda values: {"enum": values}),
    lambda inner: (
        inner.map(lambda items: {"type": "array", "items": items})
        | st.lists(inner, min_size=1, max_size=2).map(lambda several: {"anyOf": several})
        | st.lists(inner, min_size=1, max_size=2).map(lambda several: {"allOf": several})
    ),
    max_leaves=4,
)


def exactly(text: str) -> Any:
    """A JSON text's value, whose numbers are as they are written: 1.803789170004155e+16 is no float."""
    return json.loads(text, parse_float=Decimal)


# Hypothesis warns once of a long value that it drew, and a warning is an error here: another turn would differ.
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
@given(SCHEMAS, VALUES)
@example({"type": ["string", "integer"]}, 1.803789170004155e16)
def test_whatever_a_schema_allows_its_columns_hold_and_the_rest_has_a_reason(of, value):
    answers = AnswerSchema.of(Grammar(json.dumps({"json_schema": schema_of(a=of)})))

    (column,), reasons = answers.parse(pa.array([json.dumps({"a": value})]), np.array([True]))

    (found,), (reason,) = column.to_pylist(), reasons.to_pylist()
    if reason is not None or value is None:
        assert found is None
    elif column.type == pa.string() and not isinstance(value, str):
        assert exactly(found) == exactly(json.dumps(value))
    else:
        assert found in (value, json.dumps(value, ensure_ascii=False))
