"""What is proposed for odd tables: the text, the key, the kept columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipelines import MODEL, reviews
from tidemill.config import load_pipeline
from tidemill.errors import DatasetError, SchemaError
from tidemill.proposing.proposal import Proposal, check_proposal, propose
from tidemill.proposing.prose import choose_text
from tidemill.proposing.sample import cells_at, text_places
from tidemill.proposing.writing import pipeline_file

TEXTS = [str(text) for text in reviews(0, 60)["text"].to_pylist()]


def proposed(source: Path | str, **options: Any) -> Proposal:
    """What is proposed, which a run would take."""
    found = propose(str(source), name="table", model=str(MODEL), task=None, **options)
    check_proposal(found, pipeline_file(found, Path.cwd()))
    return found


def parquet(folder: Path, columns: dict[str, Any], name: str = "table.parquet") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def declared(found: Proposal) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    return found.text.column, found.columns.key, found.columns.keep


def test_text_is_the_column_that_reads_like_prose_whatever_it_is_called(tmp_path):
    table = {
        "text": [f"A{i:05}" for i in range(60)],
        "address": [f"https://example.org/the/long/way/to/page/{i}?and=back" for i in range(60)],
        "notice": ["This product is sold under the licence that was printed on its box, and no other."] * 60,
        "words": TEXTS,
    }
    assert proposed(parquet(tmp_path, table)).text.column == "words"


def test_names_decide_between_columns_that_are_about_equal(tmp_path):
    table = {"raw": TEXTS, "comment": [text.lower() for text in TEXTS], "number": list(range(60))}
    assert proposed(parquet(tmp_path, table)).text.column == "comment"


def test_texts_without_blanks_are_read_by_their_characters(tmp_path):
    table = {
        "码": [f"c{i}" for i in range(4)],
        "文": ["今天天气很好我们去公园", "这部电影真难看", "服务很好", "不会再买了"],
    }
    found = proposed(parquet(tmp_path, table))
    assert (found.text.column, found.language) == ("文", "zh")


def test_a_table_of_one_column_has_a_text_and_nothing_else(tmp_path):
    assert declared(proposed(parquet(tmp_path, {"text": TEXTS}))) == ("text", (), ())


def test_a_table_without_text_is_refused_by_what_it_has(tmp_path):
    with pytest.raises(SchemaError, match=r"No column of .* holds text. It has: a \(int64\), b \(double\)"):
        proposed(parquet(tmp_path, {"a": [1, 2], "b": [0.5, 1.5]}))


@pytest.mark.parametrize("name", ["empty.csv", "header.csv", "empty.jsonl"])
def test_a_source_without_rows_is_refused(tmp_path, name):
    (tmp_path / name).write_text("id,text\n" if name == "header.csv" else "")
    with pytest.raises(DatasetError, match="no rows"):
        proposed(tmp_path / name)


def test_of_unique_columns_the_one_with_a_keys_name_is_the_key_and_the_first_in_case_of_doubt(tmp_path):
    numbers = list(range(60))
    table = {"index": numbers, "code": numbers, "other": numbers, "text": TEXTS}
    assert proposed(parquet(tmp_path, table)).columns.key == ("code",)
    table = {"votes": numbers, "review_id": numbers[::-1], "text": TEXTS}
    assert proposed(parquet(tmp_path, table)).columns.key == ("review_id",)


def test_a_column_called_id_that_is_not_unique_is_no_key(tmp_path):
    table = {"id": [i // 2 for i in range(60)], "slug": [f"s{i}" for i in range(60)], "text": TEXTS}
    assert declared(proposed(parquet(tmp_path, table))) == ("text", ("slug",), ("id",))


def test_a_duplicate_far_from_the_head_is_found(tmp_path):
    ids = [*range(5_000), 17]
    table = {"id": ids, "text": [TEXTS[i % 60] for i in range(len(ids))]}
    found = proposed(parquet(tmp_path, table))
    assert found.columns.key == ()
    assert found.columns.keep == ("id",)


def test_a_duplicate_in_another_file_is_found_and_a_pair_with_the_folders_column_taken(tmp_path):
    for day in ("2024-01-01", "2024-01-02"):
        parquet(tmp_path, {"id": list(range(30)), "text": TEXTS[:30]}, f"events/day={day}/part.parquet")
    found = proposed(tmp_path / "events")
    assert declared(found) == ("text", ("day", "id"), ())


@pytest.mark.parametrize("missing", [None, ""])
def test_a_column_with_a_cell_that_holds_nothing_is_no_key(tmp_path, missing):
    names: list[str | None] = [f"s{i}" for i in range(60)]
    names[41] = missing
    assert declared(proposed(parquet(tmp_path, {"name": names, "text": TEXTS}))) == ("text", (), ("name",))


def test_two_columns_that_would_meet_by_chance_and_never_do_are_a_key(tmp_path):
    table = {
        "user": [i // 6 for i in range(60)],
        "turn": [i % 6 for i in range(60)],
        "stars": [i % 5 for i in range(60)],
        "text": TEXTS,
    }
    assert proposed(parquet(tmp_path, table)).columns.key == ("user", "turn")


def test_two_columns_of_many_values_are_no_key_for_being_different(tmp_path):
    table = {"a": [i - i % 59 // 58 for i in range(60)], "b": [i - i % 58 // 57 for i in range(60)], "text": TEXTS}
    assert proposed(parquet(tmp_path, table)).columns.key == ()


def test_measures_and_dates_are_no_keys_though_no_two_are_alike(tmp_path):
    table = {
        "weight": [i / 7 for i in range(60)],
        "day": pa.array(range(60), pa.int32()).cast(pa.date32()),
        "text": TEXTS,
    }
    assert declared(proposed(parquet(tmp_path, table))) == ("text", (), ("weight", "day"))


def test_one_row_shows_no_key(tmp_path):
    assert declared(proposed(parquet(tmp_path, {"id": [1], "text": TEXTS[:1]}))) == ("text", (), ("id",))


def test_columns_with_the_names_of_results_are_renamed(tmp_path):
    names = ("label", "score", "Score", "rating", "num_tokens", "row_id", "order", "")
    table = {"id": list(range(60)), **{name: [i % 3 for i in range(60)] for name in names}, "text": TEXTS}
    found = proposed(parquet(tmp_path, table))
    assert found.columns.keep == (
        "label as true_label",
        "score as source_score",
        "Score as source_Score_2",
        "rating",
        "num_tokens as source_num_tokens",
        "row_id as source_row_id",
        "order",
        '"" as column',
    )


def test_what_the_lake_cannot_hold_and_what_is_long_is_left_out_with_its_name(tmp_path):
    table = {
        "id": list(range(60)),
        "took": pa.array(range(60), pa.duration("us")),
        "picture": [b"\x89PNG"] * 60,
        "vector": [[0.1, 0.2]] * 60,
        "summary": [text[:40] for text in TEXTS],
        "page": [" ".join([text[:30]] * 10) for text in TEXTS],
        "text": [" ".join(TEXTS[i:] + TEXTS[:i])[:900] + str(i) for i in range(60)],
    }
    found = proposed(parquet(tmp_path, table))
    assert declared(found) == ("text", ("id",), ("summary",))
    assert dict(found.columns.left_out) == {
        "took": "the lake has no type for duration[us]",
        "picture": "it holds bytes",
        "vector": "it holds lists of numbers",
        "page": "its values are long",
    }


def test_a_column_whose_type_differs_from_file_to_file_is_left_out(tmp_path):
    parquet(tmp_path, {"id": [1, 2], "size": [3, 4], "text": TEXTS[:2]}, "sizes/a.parquet")
    parquet(tmp_path, {"id": [3, 4], "size": ["L", "M"], "text": TEXTS[2:4]}, "sizes/b.parquet")
    found = proposed(tmp_path / "sizes")
    assert declared(found) == ("text", ("id",), ())
    assert dict(found.columns.left_out) == {"size": "its type differs from file to file"}


def test_a_column_that_a_file_lacks_is_neither_text_nor_key(tmp_path):
    parquet(tmp_path, {"id": [1, 2], "code": ["a", "b"], "body": TEXTS[:2], "text": ["so", "so"]}, "some/a.parquet")
    parquet(tmp_path, {"code": ["c", "d"], "text": ["no", "good"]}, "some/b.parquet")
    assert declared(proposed(tmp_path / "some"))[:2] == ("text", ("code",))


def test_a_uuid_is_a_key(tmp_path):
    storage = pa.array([bytes([i]) * 16 for i in range(60)], pa.binary(16))
    table = {"number": pa.ExtensionArray.from_storage(pa.uuid(), storage), "text": TEXTS}
    assert proposed(parquet(tmp_path, table)).columns.key == ("number",)


def test_a_column_that_a_csv_file_has_twice_is_left_out(tmp_path):
    lines = [f"{i},{i % 3},{i % 4},{text!r}" for i, text in enumerate(text.replace(",", "") for text in TEXTS)]
    (tmp_path / "twice.csv").write_text("\n".join(["id,part,part,text", *lines, ""]))
    found = proposed(tmp_path / "twice.csv")
    assert declared(found) == ("text", ("id",), ())
    assert dict(found.columns.left_out) == {"part": "there are several of that name"}


def test_a_malformed_record_keeps_no_column_from_being_the_key(tmp_path):
    (tmp_path / "bad.csv").write_text('id,text\n1,"Fine and good"\n2,Fine, but late\n3,"Late and bad"\n')
    assert declared(proposed(tmp_path / "bad.csv")) == ("text", ("id",), ())


CONVERSATIONS = [
    [{"role": "user", "content": text}, {"role": "assistant", "content": "I do not know."}] for text in TEXTS
]


def test_a_text_within_a_nested_column_is_found_by_its_path(tmp_path):
    table = {"id": list(range(60)), "model": ["small"] * 60, "conversation": CONVERSATIONS}
    found = proposed(parquet(tmp_path, table))
    assert declared(found) == ("conversation[0].content", ("id",), ("model",))
    assert dict(found.columns.left_out) == {"conversation": "the text is in it"}


def test_bytes_are_the_text_where_there_are_no_strings(tmp_path):
    bodies = [text.encode() for text in TEXTS]
    table = {"id": list(range(60)), "picture": [b"\x89PNG\xff"] * 60, "body": bodies}
    assert declared(proposed(parquet(tmp_path, table))) == ("body", ("id",), ())


@pytest.mark.parametrize(
    ("column", "path"),
    [
        (CONVERSATIONS, "talk[0].content"),
        ([[{"content": "You are of help."}, {"content": text}] for text in TEXTS], "talk[1].content"),
        ([{"a.b": text, "c": 1} for text in TEXTS], 'talk."a.b"'),
        ([["so", text] for text in TEXTS], "talk[1]"),
        ([{"a": {"b": {"c": text}}} for text in TEXTS], "talk.a.b.c"),
    ],
)
def test_the_path_within_a_nested_column_is_written_as_a_pipeline_file_has_it(column, path):
    table = pa.table({"talk": column})
    texts = {
        place: cells_at(table["talk"], steps) for place, steps in text_places("talk", table.schema.field("talk").type)
    }
    chosen, _ = choose_text(texts) or pytest.fail("there is no text")
    assert chosen.column == path


ODD_NAMES = [
    *("with blank", " leading", "trailing ", 'quo"te', "apos'trophe", "do.t", "a[0]", "back\\slash", "größe", "列"),
    *(
        "line\nbreak",
        "tab\tbed",
        "del\x7f",
        "#hash",
        "x = 1",
        "as",
        "known as this",
        "AS as as",
        "as is",
        "such as",
        '"quoted"',
        '"',
    ),
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_what_is_written_for_an_odd_name_is_toml_that_means_it(tmp_path, name):
    path = parquet(tmp_path, {"id": list(range(60)), name: [i % 3 for i in range(60)], "text": TEXTS})
    found = proposed(path)
    (tmp_path / "table.toml").write_text(pipeline_file(found, tmp_path))
    kept = load_pipeline(tmp_path / "table.toml").dataset.kept
    assert kept == [("id", "id"), (name, name.strip())]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_text_and_key_may_have_odd_names_too(tmp_path, name):
    path = tmp_path / "table.jsonl"
    path.write_text("".join(json.dumps({"id": i, name: text}) + "\n" for i, text in enumerate(TEXTS)))
    assert proposed(path).text.column == name
