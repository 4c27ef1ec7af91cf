"""Rows that did not change: whose answers are found, which are never, and what is computed beside them."""

from __future__ import annotations

import doctest
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.lakes import lake_at
from tidemill.encoding import text_hashes as hashing
from tidemill.encoding.items import prepared_rows
from tidemill.encoding.text_hashes import text_hashes
from tidemill.errors import PlaceUnusable
from tidemill.inference.unchanged import predict_others
from tidemill.inference.work import Predictions, Stats
from tidemill.lake import Lake, ResultTable, ensure_system_tables
from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.pipelines import Target
from tidemill.lake.requests import request_ids
from tidemill.lake.tables import TEXT_HASH, existing_columns
from tidemill.results.adoption import Adoption, adopt
from tidemill.results.answers import former as former_shards
from tidemill.results.answers.former import MOST_SIBLINGS, Former, FormerShard
from tidemill.results.answers.known import Answers, are_answered, find_answers, has_answers
from tidemill.results.commit import Computed, commit_shards
from tidemill.results.verify import verify_pipeline
from tidemill.shards import Shard, Slice, SourceFile

NAMES = ("label", "score", "scores")
RESULTS = (("label", "VARCHAR"), ("score", "FLOAT"), ("scores", "MAP(VARCHAR, FLOAT)"))
TABLE = ResultTable("values", "0a1b2c3d", (), RESULTS)
TARGET = Target("values", "0a1b2c3d", "r1", "made-up", TABLE, "kept")
SCORES = pa.map_(pa.string(), pa.float32())


def answers_of(texts: list[str | None]) -> pa.Table:
    """What a model says of texts: something else of each, in the columns and types that it gives."""
    scores = [None if text is None else np.float32(1 / (1 + len(text))) for text in texts]
    columns = [
        pa.array([text and f"LABEL {text}" for text in texts], pa.string()),
        pa.array(scores, pa.float32()),
        pa.array([None if score is None else [("a", score), ("b", 1 - score)] for score in scores], SCORES),
    ]
    return pa.table(dict(zip(NAMES, columns, strict=True)))


def shard_of(path: str, texts: list[str | None]) -> Shard:
    return Shard(SourceFile(path, path, 9, f"content of {path}"), Slice(0, len(texts), 0, 0, f"slice of {path}", 9))


def loaded(texts: list[str | None]) -> tuple[pa.Table, pa.Table]:
    numbers = pa.array(range(len(texts)), pa.int64())
    predictions = answers_of(texts).append_column("row_number", numbers)
    for name, values in {
        "num_tokens": pa.array([3] * len(texts), pa.int32()),
        "truncated": pa.array([False] * len(texts)),
        "stage": pa.array([None if text else "ingest" for text in texts], pa.string()),
        "reason": pa.array([None if text else "text is null" for text in texts], pa.string()),
        TEXT_HASH: text_hashes(pa.array(texts, pa.string())),
    }.items():
        predictions = predictions.append_column(name, values)
    return pa.table({"row_number": numbers}), predictions


@pytest.fixture
def catalog() -> str | None:
    """None is SQLite's."""
    return None


@pytest.fixture
def lake_folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def lake(lake_folder: Path, catalog: str | None):
    """Two files of three and two texts, of which one is null."""
    files: dict[str, list[str | None]] = {"a": ["one", "two", "two"], "b": ["three", None]}
    shards = [shard_of(path, texts) for path, texts in files.items()]
    with Lake(lake_at(lake_folder, catalog)) as lake:
        ensure_system_tables(lake)
        adoption = Adoption(
            files=[(shard.file, 1) for shard in shards],
            shards=shards,
            requests=[(shard.shard_id, "new") for shard in shards],
            spec={},
            kept=[],
            dataset={},
            expected_target=None,
        )
        assert adopt(lake, TARGET, adoption)
        ids = request_ids(lake.cursor(), TARGET, [shard.shard_id for shard in shards])
        items = [
            Computed(shard, ids[shard.shard_id], partial(loaded, texts), {"num_unchanged": 0})
            for shard, texts in zip(shards, files.values(), strict=True)
        ]
        assert commit_shards(lake, TARGET, items).num_rows == 4
        yield lake


def ids(*paths: str) -> list[str]:
    return [shard_of(path, [None] * {"a": 3, "b": 2}[path]).shard_id for path in paths]


def ask(lake: Lake, shard_ids: list[str], texts: list[str | None]) -> Answers:
    return find_answers(lake, TARGET, shard_ids, text_hashes(pa.array(texts, pa.string())).storage, NAMES)


def found(answers: Answers) -> list[str | None]:
    return answers.columns["label"].take(answers.index).to_pylist() if len(answers.columns.column_names) else []


def test_the_docstrings_say_what_is_so():
    assert doctest.testmod(hashing).failed == doctest.testmod(former_shards).failed == 0


def test_a_text_has_its_answer_bit_by_bit_in_whatever_row_it_stands(lake):
    texts = ["two", "new", "one", None, "three", "two"]
    answers = ask(lake, ids("a", "b"), texts)
    assert answers.is_known.tolist() == [True, False, True, False, True, True]
    known = answers.columns.take(answers.index.drop_null())
    assert known.cast(answers_of([]).schema).equals(answers_of(["two", "one", "three", "two"]))


class TestOnPostgres:
    @pytest.fixture
    def catalog(self, postgres_catalog: str) -> str:
        return postgres_catalog

    def test_answers_are_found_and_counted_there_as_well(self, lake):
        assert found(ask(lake, ids("a", "b"), ["two", "new", "three"])) == ["LABEL two", None, "LABEL three"]
        hashes = text_hashes(pa.array(["two", "new"])).storage
        assert are_answered(lake, TABLE.name, ids("a"), hashes).tolist() == [True, False]


@pytest.mark.slow
def test_only_the_shards_that_are_named_are_asked(lake):
    assert found(ask(lake, ids("b"), ["one", "three"])) == [None, "LABEL three"]
    assert not ask(lake, [], ["one"]).is_known.any()


@pytest.mark.slow
def test_a_shard_whose_rows_are_not_those_committed_gives_no_answer(lake):
    [shard_id] = ids("a")
    lake.write(
        lambda cursor: cursor.execute(f"UPDATE {TABLE.name} SET label = 'WRONG' WHERE label = 'LABEL one'"),
        message="as damage would",
    )
    answers = ask(lake, ids("a", "b"), ["one", "two", "three"])
    assert found(answers) == [None, None, "LABEL three"]
    assert shard_id in verify_pipeline(lake, "values").wrong_shards[TABLE.version]


@pytest.mark.slow
def test_a_hash_that_was_exchanged_is_noticed_as_any_value_is(lake):
    swapped = (
        f"UPDATE {TABLE.name} t SET {TEXT_HASH} = (SELECT any_value({TEXT_HASH}) FROM {TABLE.name} o "
        "WHERE o.shard_id = t.shard_id AND o.label <> t.label) WHERE num_tokens = 3 AND label <> 'LABEL three'"
    )
    lake.write(lambda cursor: cursor.execute(swapped), message="as damage would")
    assert found(ask(lake, ids("a", "b"), ["one", "two", "three"])) == [None, None, "LABEL three"]
    assert verify_pipeline(lake, "values").problems


def test_where_a_file_cannot_be_read_there_are_no_answers(lake):
    for file in Path(lake.spec.data).rglob(f"{TABLE.name}/*.parquet"):
        file.unlink()
    assert not ask(lake, ids("a", "b"), ["one"]).is_known.any()
    assert not are_answered(lake, TABLE.name, ids("a", "b"), text_hashes(pa.array(["one"])).storage).any()
    assert has_answers(lake.cursor(), TABLE.pipeline, TABLE.version)


class TestInAPlaceThatIsRefused:
    @pytest.fixture
    def lake_folder(self, tmp_path: Path) -> Path:
        """DuckDB says which file it could not open: so its message is as that of a system that refuses one."""
        return tmp_path / "permission denied"

    def test_where_the_system_refuses_a_file_there_are_no_answers(self, lake):
        for file in Path(lake.spec.data).rglob(f"{TABLE.name}/*.parquet"):
            file.unlink()
        with pytest.raises(PlaceUnusable), lake.reached():
            lake.cursor().execute(f"SELECT label FROM {TABLE.name}").fetchall()
        assert not ask(lake, ids("a", "b"), ["one"]).is_known.any()
        assert not are_answered(lake, TABLE.name, ids("a", "b"), text_hashes(pa.array(["one"])).storage).any()


@pytest.mark.slow
def test_rows_without_hashes_have_none_to_give(lake):
    def migrate(cursor: Cursor) -> None:
        cursor.execute(f"UPDATE {TABLE.name} SET {TEXT_HASH} = NULL")
        cursor.execute("UPDATE _ledger SET num_unchanged = NULL")

    assert has_answers(lake.cursor(), TABLE.pipeline, TABLE.version)
    lake.write(migrate, message="as a migration")
    assert not has_answers(lake.cursor(), TABLE.pipeline, TABLE.version)
    assert not ask(lake, ids("a", "b"), ["one"]).is_known.any()


def test_a_plan_counts_the_texts_that_have_an_answer(lake):
    hashes = text_hashes(pa.array(["new", "one", None, "one", "three"])).storage
    assert are_answered(lake, TABLE.name, ids("a"), hashes).tolist() == [False, True, False, True, False]
    assert not are_answered(lake, TABLE.name, [], hashes).any()


def test_no_view_shows_the_hashes(lake):
    cursor = lake.cursor()
    assert TEXT_HASH not in dict(existing_columns(cursor, "values"))
    assert existing_columns(cursor, TABLE.name)[-1] == (TEXT_HASH, "UUID")
    assert verify_pipeline(lake, "values").problems == []


def test_the_model_is_given_the_rows_without_an_answer_in_their_order():
    texts = ["new 1", "old 1", None, "new 2", "old 2", "old 1"]
    answers = Answers(pa.array([None, 0, None, None, 1, 0]), answers_of(["old 1", "old 2"]))
    given = []

    def predict(prepared: pa.Table) -> Predictions:
        given.extend(prepared["token_ids"].to_pylist())
        reason = pa.array([None, None, "the model failed"])
        return Predictions(answers_of(["new 1", None, None]), reason, Stats(num_distinct=2))

    token_ids = pa.chunked_array([pa.array([[1], [2], None]), pa.array([[3], [4], [2]])])
    predictions = predict_others(prepared_rows(token_ids), answers, predict)

    assert given == [[1], None, [3]]
    expected = [None if text in (None, "new 2") else text for text in texts]
    assert predictions.columns.combine_chunks().equals(answers_of(expected).combine_chunks())
    assert predictions.reason.to_pylist() == [None, None, None, "the model failed", None, None]
    assert predictions.stats.num_distinct == 2


@pytest.mark.parametrize("known", [[0, 1], [None, None]])
def test_without_a_row_left_no_model_is_asked_and_without_an_answer_it_has_all(known):
    token_ids = pa.chunked_array([pa.array([[1], [2]])])
    asked = []

    def predict(prepared: pa.Table) -> Predictions:
        asked.append(prepared.num_rows)
        return Predictions(answers_of(["x", "y"]), pa.nulls(2, pa.string()), Stats())

    predictions = predict_others(
        prepared_rows(token_ids), Answers(pa.array(known, pa.int64()), answers_of(["x", "y"])), predict
    )
    assert predictions.columns.equals(answers_of(["x", "y"]))
    assert asked == ([] if known == [0, 1] else [2])


def test_a_row_without_tokens_is_no_reason_to_ask_a_model():
    def refuse(_: pa.Table) -> Predictions:
        raise AssertionError("the model was asked")

    token_ids = pa.chunked_array([pa.array([[1], None]), pa.array([[2]])])
    predictions = predict_others(
        prepared_rows(token_ids), Answers(pa.array([1, None, 0]), answers_of(["x", "y"])), refuse
    )
    assert predictions.columns.combine_chunks().equals(answers_of(["y", None, "x"]).combine_chunks())
    assert predictions.reason.null_count == 3
    assert predictions.stats.num_rows == 0


def test_no_more_siblings_are_asked_than_are_soon_read_and_those_that_left_first():
    shards = {f"day/{i:04}": [FormerShard(f"{i:04}", 0, 10)] for i in range(0, 2000, 2)}
    former = Former(shards, {"day/0000", "day/1998"})
    near = former.near(shard_of("day/0999", ["x"]))
    assert near[:4] == ["0000", "1998", "0998", "1000"]
    assert len(near) == MOST_SIBLINGS
    assert former.near(shard_of("night/0999", ["x"])) == []


@pytest.mark.slow
def test_of_a_large_file_the_nearest_shards_are_asked():
    shards = {"a": [FormerShard(str(i), i * 900_000, 900_000) for i in range(9)]}
    near = Former(shards).near(Shard(SourceFile("a", "a", 9, "new"), Slice(2_700_000, 9, 0, 0, "new", 9)))
    assert near == ["3", "2"]
