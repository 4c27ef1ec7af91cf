"""A result column of arrays of one size: kept as lists, shown as arrays, and of no other size."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tests.lakes import lake_at
from tidemill.errors import SchemaError
from tidemill.lake import Lake
from tidemill.lake.tables import (
    ResultTable,
    create_result_table,
    existing_columns,
    insert_rows,
    is_shown,
    kept_as,
    point_view,
    shown_type,
    size_of_arrays,
)
from tidemill.results.commit.writing import _refuse_other_sizes

NUM_ROWS, SIZE = 2_500, 3
TABLE = ResultTable("notes", "0a1b2c3d", (("id", "BIGINT"),), (("embedding", f"FLOAT[{SIZE}]"),), num_keys=1)


@pytest.fixture
def lake(tmp_path):
    """More rows than DuckDB reads at a time."""
    vectors = np.random.default_rng(0).standard_normal(NUM_ROWS * SIZE, dtype=np.float32)
    rows = pa.table({"id": range(NUM_ROWS), "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors), SIZE)})
    with Lake(lake_at(tmp_path)) as lake:
        lake.write(lambda cursor: create_result_table(cursor, TABLE), message="begin")
        lake.write(lambda cursor: insert_rows(cursor, TABLE.name, rows), message="fill")
        lake.write(lambda cursor: point_view(cursor, TABLE), message="show")
        yield lake, vectors.reshape(-1, SIZE)


def test_the_view_has_arrays_that_sql_can_search_and_the_table_lists(lake):
    lake, vectors_RE = lake
    cursor = lake.cursor()
    lengths_R = np.linalg.norm(vectors_RE, axis=1)
    similarity_R = vectors_RE @ vectors_RE[17] / (lengths_R * lengths_R[17])

    found = cursor.execute(
        "WITH asked AS (SELECT embedding FROM notes WHERE id = 17) "
        "SELECT id, array_cosine_similarity(notes.embedding, asked.embedding) AS similarity "
        "FROM notes, asked ORDER BY similarity DESC LIMIT 10"
    ).fetchall()

    assert [row for row, _ in found] == np.argsort(-similarity_R)[:10].tolist()
    assert dict(existing_columns(cursor, "notes"))["embedding"] == "FLOAT[3]"
    assert dict(existing_columns(cursor, TABLE.name))["embedding"] == "FLOAT[]"
    assert is_shown(cursor, "notes", TABLE.name)


def test_values_come_back_as_they_were_computed(lake):
    lake, vectors_RE = lake

    found = lake.cursor().execute("SELECT embedding FROM notes ORDER BY id").to_arrow_table()["embedding"]

    assert found.type == pa.list_(pa.float32(), SIZE)
    assert np.array_equal(found.combine_chunks().flatten().to_numpy().reshape(-1, SIZE), vectors_RE)


@pytest.mark.parametrize(
    ("arrow", "shown", "kept", "size"),
    [
        (pa.list_(pa.float32(), 384), "FLOAT[384]", "FLOAT[]", 384),
        (pa.list_(pa.float32()), "FLOAT[]", "FLOAT[]", None),
        (pa.float32(), "FLOAT", "FLOAT", None),
        (pa.map_(pa.string(), pa.float32()), "MAP(VARCHAR, FLOAT)", "MAP(VARCHAR, FLOAT)", None),
    ],
)
def test_types_are_shown_with_their_size_and_kept_without(arrow, shown, kept, size):
    assert (shown_type(arrow), kept_as(shown), size_of_arrays(shown)) == (shown, kept, size)


def test_arrays_of_another_size_than_the_tables_are_refused():
    ours = pa.chunked_array([pa.array([[0.5] * 3, None], pa.list_(pa.float32(), 3))])
    theirs = pa.chunked_array([pa.array([[0.5] * 3, [0.5] * 4], pa.list_(pa.float32()))])

    _refuse_other_sizes("embedding", "FLOAT[3]", ours)
    _refuse_other_sizes("embedding", "FLOAT[]", theirs)
    with pytest.raises(SchemaError, match=r"column embedding has 3 numbers a row, and what was computed has 4"):
        _refuse_other_sizes("embedding", "FLOAT[3]", theirs)
