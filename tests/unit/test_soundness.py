"""What a check of the tables says of values, in columns of every kind that a model task may have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from tests.lakes import PIPELINE, TABLE, VERSION, commit_rows, lake_at
from tidemill.lake import Lake
from tidemill.lake.checksums import set_checksums
from tidemill.lake.tables import kept_as, shown_type
from tidemill.results.soundness import unsound_values
from tidemill.results.verify import verify_pipeline

TEXTS = ["Anna 😀 in Berlin", "", "Bob"]
KEPT = pa.table({"text": TEXTS})
ENTITY = pa.struct(
    {"entity": pa.string(), "score": pa.float32(), "word": pa.string(), "start": pa.int32(), "end": pa.int32()}
)


def entity(start: int | None, end: int | None, score: float = 0.5) -> dict[str, Any]:
    return {"entity": "PER", "score": score, "word": "x", "start": start, "end": end}


RESULTS = pa.table(
    {
        "label": ["a", "b", "a"],
        "score": pa.array([0.5, -7.0, 0.25], pa.float32()),
        "scores": pa.array([{"a": 0.5}, {"b": 0.5}, {}], pa.map_(pa.string(), pa.float32())),
        # The emoji is four tokens with one span; neighbours share a character; a span may be empty.
        "entities": pa.array(
            [[entity(0, 4), *[entity(5, 6)] * 4, entity(5, 9), entity(16, 16)], [], []], pa.list_(ENTITY)
        ),
        "embedding": pa.array([[0.5, -0.5], [1e38, 3e38], [1e-45, 0.0]], pa.list_(pa.float32(), 2)),
        "numbers": pa.array([[], [0.0], [1.0, 2.0]], pa.list_(pa.float32())),
    }
)


COLUMNS = [(name, shown_type(kind)) for name, kind in zip(RESULTS.column_names, RESULTS.schema.types, strict=True)]


@pytest.fixture
def cursor() -> Iterator[Any]:
    """Rows of two shards, as a check finds them."""
    with duckdb.connect() as cursor:
        rows = RESULTS.append_column("text", KEPT["text"]).append_column("x", KEPT["text"])
        cursor.register("rows", rows.append_column("shard_id", pa.array(["s", "s", "t"])))
        columns = ", ".join(f"{name}::{kept_as(kind)} AS {name}" for name, kind in COLUMNS)
        cursor.execute(f"CREATE TABLE results AS SELECT text, x, shard_id, {columns} FROM rows")
        yield cursor


def problems(cursor: Any) -> dict[str, set[str]]:
    return {problem: shards for problem, shards in unsound_values(cursor, COLUMNS, "text") if shards}


def test_empty_repeated_and_neighbouring_spans_and_numbers_of_any_size_are_sound(cursor):
    assert problems(cursor) == {}


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("label", "NULL", "label: there is no value"),
        ("score", "'nan'::FLOAT", "score: a number is not finite"),
        ("scores", "MAP {'a': 'inf'::FLOAT}", "scores: a number is not finite"),
        ("entities", "NULL", "entities: there is no value"),
        (
            "entities",
            "[{entity: 'X', score: 'nan', word: 'x', start: 0, \"end\": 1}]",
            "entities: a number is not finite",
        ),
        (
            "entities",
            "[{entity: 'X', score: 1, word: 'x', start: 2, \"end\": 1}]",
            "entities: a span lies outside of its text",
        ),
        (
            "entities",
            "[{entity: 'X', score: 1, word: 'x', start: -1, \"end\": 1}]",
            "entities: a span lies outside of its text",
        ),
        (
            "entities",
            "[{entity: 'X', score: 1, word: 'x', start: NULL, \"end\": 1}]",
            "entities: a span lies outside of its text",
        ),
        (
            "entities",
            "[{entity: 'X', score: 1, word: 'x', start: 3, \"end\": 4}]",
            "entities: a span lies outside of its text",
        ),
        ("embedding", "[1, 'nan'::FLOAT]", "embedding: a number is not finite"),
        ("embedding", "[0, 0]::FLOAT[]", "embedding: a vector has no direction"),
        ("embedding", "[1, 2, 3]::FLOAT[]", "embedding: a vector has not the size of 2"),
        ("numbers", "['-inf'::FLOAT, 1]", "numbers: a number is not finite"),
    ],
)
def test_a_value_that_no_model_task_gives_is_found_and_its_shard_is_named(cursor, column, value, problem):
    cursor.execute(f"UPDATE results SET {column} = {value} WHERE text = 'Bob'")

    assert problems(cursor) == {problem: {"t"}}


def test_a_span_is_not_held_against_a_text_that_is_not_kept(cursor):
    cursor.execute("UPDATE results SET entities = [{entity: 'X', score: 1, word: 'x', start: 3, \"end\": 17}]")

    assert not any(shards for _, shards in unsound_values(cursor, COLUMNS))


@pytest.mark.slow
def test_a_check_of_the_tables_reads_the_values_and_the_kept_text(tmp_path):
    spec = lake_at(tmp_path)
    commit_rows(spec, KEPT, [1, 2], results=RESULTS)
    with Lake(spec, read_only=True) as lake:
        assert verify_pipeline(lake, PIPELINE).problems == []

    def body(cursor: Any) -> None:
        outside = "[{entity: 'X', score: 1, word: 'x', start: 0, \"end\": 4}]"
        cursor.execute(f"UPDATE {TABLE} SET entities = {outside} WHERE text = 'Bob'")
        set_checksums(cursor, PIPELINE, VERSION, TABLE)  # As if the value had been committed.

    with Lake(spec) as lake:
        lake.write(body, message="another value")
        found = verify_pipeline(lake, PIPELINE)

    (problem,) = found.problems
    assert f"{VERSION}: entities: a span lies outside of its text: 1 found" in problem
    assert [len(shards) for shards in found.wrong_shards.values()] == [1]


OF_A_WRITER = [
    ("text", "VARCHAR"),
    ("finish_reason", "VARCHAR"),
    ("num_prompt_tokens", "INTEGER"),
    ("num_new_tokens", "INTEGER"),
    ("rating", "DOUBLE"),
]


def problems_of_written(**values: str) -> set[str]:
    """What a check says of a row that a model wrote, but for these values."""
    row = {"text": "''", "finish_reason": "'stop'", "num_prompt_tokens": "3", "num_new_tokens": "0", "rating": "0.5"}
    columns = ", ".join(
        f"({value})::{kind} AS {name}" for (name, kind), value in zip(OF_A_WRITER, (row | values).values(), strict=True)
    )
    with duckdb.connect() as cursor:
        cursor.execute(f"CREATE TABLE results AS SELECT 's' AS shard_id, {columns}")
        return {problem for problem, shards in unsound_values(cursor, OF_A_WRITER) if shards}


def test_what_a_model_wrote_may_be_empty_and_its_counts_and_fields_unknown():
    assert problems_of_written() == set()
    assert problems_of_written(finish_reason="'length'", num_prompt_tokens="NULL", num_new_tokens="NULL") == set()
    assert problems_of_written(rating="NULL") == set()


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("text", "NULL", "text: there is no value"),
        ("finish_reason", "NULL", "finish_reason: there is no value"),
        ("finish_reason", "'other'", "finish_reason: it is none of stop, length"),
        ("num_prompt_tokens", "-1", "num_prompt_tokens: a count is below 0"),
        ("num_new_tokens", "-1", "num_new_tokens: a count is below 0"),
        ("rating", "'nan'", "rating: a number is not finite"),
    ],
)
def test_a_value_that_no_model_writes_is_found(column, value, problem):
    assert problems_of_written(**{column: value}) == {problem}
