from __future__ import annotations

import json
from datetime import datetime
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.formats.sources import all_rows, reader_of, reasons, slices_and_rows, texts
from tidemill.errors import FormatError, SchemaError
from tidemill.formats import without_nulls

KEPT_N = (("n", "n"),)


@given(st.lists(st.tuples(st.text(max_size=10), st.none() | st.integers(-(2**63), 2**63 - 1))), st.booleans())
def test_what_pythons_json_module_writes_is_read_back_exactly(records, ensure_ascii):
    lines = [json.dumps({"text": text, "n": n}, ensure_ascii=ensure_ascii) for text, n in records]
    rows = all_rows("\n".join(lines).encode(), "a.jsonl", shard_bytes=50, kept=KEPT_N, types=(("n", pa.int64()),))
    assert [(row["text"], row["n"]) for row in rows] == records


ODD_LINES = [
    "",
    " ",
    "\t \r",
    "\r",
    "{",
    "[]",
    '{"text": "a"}',
    ' {"text": "b"} ',
    '{"text": 1}',
    '{"text": "c\u2028"}',
]


@given(st.lists(st.sampled_from(ODD_LINES), max_size=30), st.integers(1, 60), st.booleans())
def test_records_are_the_lines_that_are_not_blank_wherever_slices_are_cut(lines, shard_bytes, newline):
    lines = ['{"text": "first"}', *lines]
    data = ("\n".join(lines) + "\n" * newline).encode()
    expected = [line for line in lines if line.strip()]
    slices, rows = slices_and_rows(reader_of(data, "a.jsonl"), shard_bytes)
    assert [row["row_number"] for row in rows] == list(range(len(expected)))
    good = {'{"text": "first"}': "first", ODD_LINES[6]: "a", ODD_LINES[7]: "b", ODD_LINES[9]: "c\u2028"}
    assert texts(rows) == [good.get(line) for line in expected]
    assert all(after.start == before.stop for before, after in pairwise(slices))


def test_malformed_records_are_quarantined_in_their_place_and_blank_lines_are_none():
    lines = [
        '{"text": "a"}',
        "",
        "{broken",
        "  ",
        "[1]",
        "null",
        '{"text": 5}',
        '{"text": null}',
        "{}",
        '{"text": "b"}',
    ]
    rows = all_rows("\r\n".join(lines).encode(), "a.jsonl")
    assert [row["row_number"] for row in rows] == list(range(8))
    assert texts(rows) == ["a", None, None, None, None, None, None, "b"]
    assert rows[1]["reason"].startswith("malformed record: Expecting property name")
    assert "'{broken" in rows[1]["reason"]
    assert reasons(rows)[2:7] == [
        "malformed record: an array, not an object: [1]",
        "malformed record: null, not an object: None",
        "text is a number, not a string: 5",
        "text is null",
        "text is null",
    ]


def test_bytes_that_are_no_utf8_and_lone_surrogates_are_quarantined_and_the_key_is_kept():
    lines = [b'{"text": "a", "id": "1"}', b'{"text": "b\xff", "id": "2"}', rb'{"text": "c\ud800", "id": "3"}']
    lines += [rb'{"text": "d", "id": "4\udfff"}', rb'{"text": "e", "id": "5", "other": "\ud800"}']
    rows = all_rows(b"\n".join(lines), "a.jsonl", kept=(("id", "id"),))
    assert texts(rows) == ["a", None, None, None, "e"]
    assert [row["id"] for row in rows] == ["1", "2", "3", "4�", "5"]
    assert rows[1]["reason"].startswith("malformed record: not valid UTF-8 at byte 11")
    assert reasons(rows)[2:4] == [
        "text holds a lone surrogate at character 1",
        "id holds a lone surrogate at character 1",
    ]


def test_nested_values_are_kept_and_a_missing_key_is_null():
    lines = [{"text": "a", "n": {"tags": ["x"], "deep": {"f": 1.5}}}, {"text": "b"}, {"text": "c", "n": {"tags": []}}]
    rows = all_rows("\n".join(map(json.dumps, lines)).encode(), "a.jsonl", kept=KEPT_N)
    assert [row["n"] for row in rows] == [
        {"tags": ["x"], "deep": {"f": 1.5}},
        None,
        {"tags": [], "deep": None},
    ]


@pytest.mark.parametrize(
    ("type_", "fitting", "given_back", "unfitting"),
    [
        (pa.int64(), "1", 1, "2.5"),
        (pa.int64(), '"7"', 7, "true"),
        (pa.int64(), "3.0", 3, '"x"'),
        (pa.float64(), "1", 1.0, '"x"'),
        (pa.bool_(), "true", True, "1"),
        (pa.list_(pa.int64()), "[1]", [1], "1"),
        (pa.timestamp("s"), '"1970-01-01T00:00:00"', datetime(1970, 1, 1), '"soon"'),
    ],
)
def test_a_cell_that_does_not_fit_its_columns_type_is_quarantined(type_, fitting, given_back, unfitting):
    data = f'{{"text": "a", "n": {fitting}}}\n{{"text": "b", "n": {unfitting}}}\n{{"text": "c"}}\n'.encode()
    rows = all_rows(data, "a.jsonl", kept=KEPT_N, types=(("n", type_),), converted=("n",))
    assert [row["n"] for row in rows] == [given_back, None, None]
    assert texts(rows) == ["a", None, "c"]
    assert rows[1]["reason"].endswith(f"is not {type_}; dataset.types can settle the column's type")


def test_numbers_in_a_column_of_strings_are_kept_as_their_json():
    data = b'{"text": "a", "n": "x"}\n{"text": "b", "n": 1.0}\n{"text": "c", "n": [true]}\n'
    assert [row["n"] for row in all_rows(data, "a.jsonl", kept=KEPT_N)] == ["x", "1.0", "[true]"]


def test_types_are_found_in_the_first_records():
    data = b'{"text": "a", "n": 1, "f": 1, "s": "x", "none": null, "tags": []}\n{"f": 2.5, "b": true, "mixed": 1}\n'
    data += b'{"mixed": "x"}\n'
    string = pa.string()
    types = [string, pa.int64(), pa.float64(), string, pa.null(), pa.list_(pa.null()), pa.bool_(), string]
    assert reader_of(data, "a.jsonl").schema().types == types


def test_not_a_number_is_a_number():
    rows = all_rows(b'{"text": "a", "n": 1.5}\n{"text": "b", "n": NaN}\n', "a.jsonl", kept=KEPT_N)
    assert str(rows[1]["n"]) == "nan"
    assert texts(rows) == ["a", "b"]


def test_a_declared_nested_type_takes_what_fits_it_and_nothing_else():
    lines = ['{"text": "a", "n": {"p": 1}}', '{"text": "b", "n": {"p": 2.75}}', '{"text": "c", "n": {"p": "1"}}']
    to = pa.struct([("p", pa.float64()), ("q", pa.list_(pa.string()))])
    rows = all_rows("\n".join(lines).encode(), "a.jsonl", kept=KEPT_N, types=(("n", to),), converted=("n",))
    assert [row["n"] for row in rows] == [{"p": 1.0, "q": None}, {"p": 2.75, "q": None}, None]
    assert rows[2]["reason"].startswith("n.p = '1' is not double;")


def test_a_string_of_digits_is_no_number_unless_the_pipeline_says_so():
    data = b'{"text": "a", "n": 1}\n{"text": "b", "n": "7"}\n'
    options: dict[str, Any] = {"kept": KEPT_N, "types": (("n", pa.int64()),)}
    assert all_rows(data, "a.jsonl", **options)[1]["reason"].startswith("n = '7' is not int64;")
    assert all_rows(data, "a.jsonl", **options, converted=("n",))[1]["n"] == 7


def test_a_column_that_comes_late_needs_a_settled_type():
    data = b'{"text": "a"}\n' * 100_000 + b'{"text": "b", "n": 1}\n'
    with pytest.raises(SchemaError, match="has no column 'n'"):
        all_rows(data, "a.jsonl", kept=KEPT_N)
    assert all_rows(data, "a.jsonl", kept=KEPT_N, types=(("n", pa.int64()),))[-1]["n"] == 1


def test_a_text_column_without_strings_is_refused_by_its_type():
    with pytest.raises(SchemaError, match=r"text column 'n' has type int64, not string.*: text"):
        list(reader_of(b'{"text": "a", "n": 1}\n', "a.jsonl", "n").slices(shard_bytes=1))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b'[{"text": "a"}]', r'one JSON array\. Set dataset\.format = "json"'),
        (b'[\n{"text": "a"},\n{"text": "b"},\n{"text": "c"}\n]\n', r'one JSON array\. Set dataset\.format = "json"'),
        (b'[{"text": "a"},\n{"text": "b"}]', r'one JSON array\. Set dataset\.format = "json"'),
        (b'\xef\xbb\xbf[\r\n  {"text": "a"}\r\n]', r'one JSON array\. Set dataset\.format = "json"'),
        (
            b'{\n  "text": "a",\n  "tags": [\n{"text": "b"}\n]}\n',
            r"a JSON object over several lines\. Set dataset\.field",
        ),
        (b'{"text": "a"},\n{"text": "b"},\n', "not JSON Lines .*Extra data.* Write one JSON object a line"),
        (b'{"text": "a"}{"text": "b"}\n', "not JSON Lines .*Extra data.* Write one JSON object a line"),
        (b"text\na\n", "not JSON Lines .* Write one JSON object a line"),
    ],
)
def test_a_file_that_is_not_json_lines_is_refused_with_what_to_do(data, what):
    with pytest.raises(FormatError, match=rf"a\.json is {what}"):
        list(reader_of(data, "a.json").slices(shard_bytes=1))


def test_a_carriage_return_alone_ends_a_record_too():
    rows = all_rows(b'{"text": "a"}\r{"text": "b"}\r\r\n{"text": "c"}\r', "a.jsonl", shard_bytes=1)
    assert texts(rows) == ["a", "b", "c"]


SHOWN = b'{"text": "a", "m": {"price": 1, "tags": ["x"]}}\n'


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ('{"price": 2.75}', "m.price = 2.75 is not int64; dataset.types can settle the column's type"),
        ('{"price": 1e300}', "m.price = 1e300 is not int64;"),
        ('{"price": true}', "m.price = True is not int64;"),
        ('{"price": "1"}', "m.price = '1' is not int64;"),
        ('{"price": 9223372036854775808}', "m.price = 9223372036854775808 is not int64;"),
        ('{"tags": ["x", 5]}', "m.tags[1] = 5 is not string;"),
        ('{"tags": {}}', "m.tags = {} is not list<"),
        ('{"tags": ["\\ud800"]}', "m.tags[0] holds a lone surrogate at character 0"),
        ('{"size": 5}', "m.size = 5 is a field that the first records do not show; dataset.types can settle"),
        ('{"Price": 5}', "m.Price = 5 is a field that the first records do not show;"),
        ("[1]", "m = [1] is not struct<"),
        ('{"price": 1, "price": 2}', "malformed record: the key m.price is there twice: "),
    ],
)
def test_what_a_nested_type_would_change_or_drop_is_quarantined_with_its_path(value, reason):
    shown = reader_of(SHOWN, "a.jsonl").schema().field("m").type
    data = b'{"text": "b", "m": %b}\n' % value.encode() + SHOWN
    bad, last = all_rows(data, "a.jsonl", kept=(("m", "m"),), types=(("m", shown),))
    assert (bad["text"], bad["m"]) == (None, None)
    assert bad["reason"].startswith(reason)
    assert last["m"] == {"price": 1, "tags": ["x"]}


def test_a_nested_type_is_what_the_first_records_show_together():
    lines = ['{"text": "a", "m": {"n": 1, "none": null}}', '{"text": "b", "m": {"n": 2.75, "late": [1]}}']
    lines += ['{"text": "c", "m": {"none": {"deep": 1}}}', '{"text": "d", "m": null}']
    rows = all_rows("\n".join(lines).encode(), "a.jsonl", kept=(("m", "m"),))
    assert [row["m"] for row in rows] == [
        {"n": 1.0, "none": None, "late": None},
        {"n": 2.75, "none": None, "late": [1]},
        {"n": None, "none": {"deep": 1}, "late": None},
        None,
    ]


HUGE = ["18446744073709551616", "18446744073709551617", "-9223372036854775809", "1" * 40]


@pytest.mark.parametrize("first", ["", '{"text": "a", "n": 1}\n'])
def test_integers_beyond_64_bits_are_text_and_stay_apart(first):
    data = (first + "".join(f'{{"text": "a", "n": {n}, "m": {{"n": [{n}]}}}}\n' for n in HUGE)).encode()
    rows = all_rows(data, "a.jsonl", kept=(("n", "n"), ("m", "m")))[-len(HUGE) :]
    assert [row["n"] for row in rows] == HUGE
    assert [row["m"] for row in rows] == [f'{{"n": [{n}]}}' for n in HUGE]


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize("type_", [pa.int64(), pa.float64(), pa.struct([("n", pa.float64())])], ids=str)
def test_an_integer_that_comes_late_and_is_too_large_is_quarantined(type_, number):
    value, path = (f'{{"n": {number}}}', "n.n") if pa.types.is_struct(type_) else (number, "n")
    data = f'{{"text": "a", "n": {value}}}\n{{"text": "b"}}\n'.encode()
    rows = all_rows(data, "a.jsonl", kept=KEPT_N, types=(("n", type_),))
    assert rows[0]["n"] is None
    assert rows[0]["reason"].startswith(f"{path} = {number} is not ")
    assert texts(rows) == [None, "b"]


@pytest.mark.parametrize(("depth", "opens", "closes"), [(260, '{"a":', "}"), (990, "[", "]"), (100_000, "[", "]")])
def test_a_value_of_any_depth_spoils_its_row_at_most(depth, opens, closes):
    deep = opens * depth + "1" + closes * depth
    for name in ("n", "other"):
        data = f'{{"text": "a", "n": "x"}}\n{{"text": "b", "{name}": {deep}}}\n{{"text": "c", "n": "y"}}\n{deep}\n'
        rows = all_rows(data.encode(), "a.jsonl", kept=KEPT_N)
        assert [row["n"] for row in (rows[0], rows[2])] == ["x", "y"]
        assert texts(rows) in (["a", "b", "c", None], ["a", None, "c", None])
        first = all_rows(data.splitlines()[1].encode() + b'\n{"text": "d", "n": "x"}', "a.jsonl", kept=KEPT_N)
        assert texts(first)[1:] == ["d"]


def test_doubles_that_happen_to_be_huge_are_doubles():
    data = b'{"text": "a", "n": 1e300}\n{"text": "b", "n": -2.5e19}\n{"text": "c", "n": 0.5}\n'
    assert [row["n"] for row in all_rows(data, "a.jsonl", kept=KEPT_N)] == [1e300, -2.5e19, 0.5]


LONG = ["0.1234567890123456789", "0.1234567890123456788"]


def test_a_key_of_more_digits_than_a_double_is_text_as_it_was_written():
    data = "".join(f'{{"text": "a", "n": {n}}}\n' for n in LONG).encode()
    assert [row["n"] for row in all_rows(data, "a.jsonl", kept=KEPT_N, num_keys=1)] == LONG
    assert {row["n"] for row in all_rows(data, "a.jsonl", kept=KEPT_N)} == {float(LONG[0])}


def test_a_late_key_of_more_digits_than_a_double_is_quarantined():
    data = f'{{"text": "a", "n": 0.5}}\n{{"text": "b", "n": {LONG[0]}}}\n'.encode()
    rows = all_rows(data, "a.jsonl", kept=KEPT_N, num_keys=1, types=(("n", pa.float64()),))
    assert [row["n"] for row in rows] == [0.5, None]
    assert (
        rows[1]["reason"] == f"n = {LONG[0]} has more digits than a double; dataset.types can settle the column's type"
    )


def test_numbers_among_strings_keep_their_digits():
    data = b'{"text": "a", "n": "x"}\n{"text": "b", "n": 1.10}\n{"text": "c", "n": 1e5}\n'
    data += b'{"text": "d", "n": {"a":[1.50,"\xc3\xa9",null,true]}}\n'
    shown = ["x", "1.10", "1e5", '{"a": [1.50, "é", null, true]}']
    assert [row["n"] for row in all_rows(data, "a.jsonl", kept=KEPT_N)] == shown


@pytest.mark.parametrize(
    ("record", "path"),
    [
        ('{"text": "b", "text": "c", "n": 1}', "text"),
        ('{"text": "b", "n": 1, "n" : 2}', "n"),
        ('{"text": "say \\"n\\": 5", "n": 1, "n": 1}', "n"),
        ('{"text": "b", "n": 1, "list": [{"a": 1, "a": 2}]}', None),
        ('{"text": "b", "n": 1, "other": 1, "other": 2}', None),
        ('{"text": "b", "n"  : 1, "other": "\\u0022:"}', None),
    ],
)
def test_a_key_that_is_there_twice_spoils_the_row_that_reads_it(record, path):
    rows = all_rows(f'{{"text": "a", "n": 1}}\n{record}\n'.encode(), "a.jsonl", kept=KEPT_N)
    assert rows[0]["reason"] is None
    if path:
        assert rows[1]["reason"].startswith(f"malformed record: the key {path} is there twice: ")
    else:
        assert (rows[1]["reason"], rows[1]["n"]) == (None, 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=6,
)


@given(st.lists(JSON, min_size=1, max_size=6), st.lists(JSON, max_size=6))
def test_what_is_kept_is_what_pythons_json_module_reads_or_the_row_is_quarantined(first, later):
    def lines(values: list[object]) -> bytes:
        return "".join(json.dumps({"text": "a", "n": value}) + "\n" for value in values).encode()

    (shown,) = reader_of(lines(first), "a.jsonl").schema().types[1:]
    to = without_nulls(shown)
    rows = all_rows(lines(first + later), "a.jsonl", kept=KEPT_N, types=(("n", to),))
    for value, row in zip(first + later, rows, strict=True):
        if row["reason"] is None:
            assert same(row["n"], value if not pa.types.is_string(to) or isinstance(value, str) else as_text(value))
    assert reasons(rows)[: len(first)] == [None] * len(first)


def as_text(value: object) -> object:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def same(kept: object, value: object) -> bool:
    """Equal, but for keys that one of the first records had and this one lacks: those are null."""
    if isinstance(kept, dict) and isinstance(value, dict):
        return value.keys() <= kept.keys() and all(same(kept[name], value.get(name)) for name in kept)
    if isinstance(kept, list) and isinstance(value, list):
        return len(kept) == len(value) and all(map(same, kept, value))
    return kept == value and isinstance(kept, bool) == isinstance(value, bool)


def test_texts_survive_exactly():
    awkward = ["", "  ", "\0", "אבג", "é", "\u2028\u0085", "x" * 10_000_000]
    lines = "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in awkward)
    _, rows = slices_and_rows(reader_of(lines.encode(), "a.jsonl"), 50)
    assert texts(rows) == awkward
