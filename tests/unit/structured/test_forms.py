"""Tasks whose answers have a form: their options, their columns and their rows."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from transformers import AutoTokenizer, GPT2Config, T5Config

from tests.tiny_writers import write_words
from tidemill.encoding.items import prepared_rows
from tidemill.encoding.pooling import Pooling
from tidemill.engines.writing.generation.written import LENGTH, STOP, Written, answers_of, failed, outputs_of
from tidemill.errors import ConfigError, ModelError
from tidemill.models.tasks import find_task, task_options

LABEL = {"type": "object", "properties": {"label": {"enum": ["cat", "dog"]}, "stars": {"type": "integer"}}}
NOTHING = prepared_rows(pa.array([[1]], pa.list_(pa.int32())))


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return write_words(tmp_path_factory.mktemp("words"))


def opened(words, tag="text-generation", **options):
    config = GPT2Config(vocab_size=400) if tag == "text-generation" else T5Config(vocab_size=400)
    config.name_or_path = str(words)
    task = find_task(tag)(config, task_options(tag, options))
    task.decode_with(words)
    return task


def rows_of(task, words, *written):
    """Of texts and how they ended; a `Written` stands for itself, None for a row that was not computed."""
    encode = AutoTokenizer.from_pretrained(words).encode
    items = [
        each if isinstance(each, Written | None) else Written([*encode(each[0]), 0], each[1], 3, 5) for each in written
    ]
    known = answers_of(outputs_of([item for item in items if item is not None]))
    ends = [0, *(sum(item is not None for item in items[: i + 1]) for i in range(len(items)))]
    lists = pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), known, mask=pa.array([i is None for i in items], pa.bool_())
    )
    table, reasons = task.rows(lists, NOTHING)
    return table.to_pylist(), reasons.to_pylist()


def test_an_answer_in_json_has_a_column_for_each_property(words):
    task = opened(words, json_schema=LABEL)

    rows, reasons = rows_of(task, words, (' {"label": "cat", "stars": 4}', STOP))

    assert task.schema.names == [
        *("text", "finish_reason", "num_prompt_tokens", "num_new_tokens"),
        *("label", "stars"),
    ]
    assert reasons == [None]
    assert rows == [
        {
            "text": '{"label": "cat", "stars": 4}',
            "finish_reason": "stop",
            "num_prompt_tokens": 3,
            "num_new_tokens": 5,
            "label": "cat",
            "stars": 4,
        }
    ]


def test_a_row_whose_answer_has_not_its_form_has_no_value_and_one_reason(words):
    task = opened(words, json_schema=LABEL)
    good = '{"label": "dog", "stars": 1}'

    rows, reasons = rows_of(
        task, words, ('{"stars": 1.5}', STOP), (good, LENGTH), failed("no room"), None, (good, STOP)
    )

    assert [set(row.values()) for row in rows[:4]] == [{None}] * 4
    assert "not as model.options.json_schema says at $.stars" in reasons[0]
    assert "cut at the limit" in reasons[1]
    assert reasons[2:] == ["no room", None, None]
    assert rows[4]["label"] == "dog"


def test_a_choice_is_the_text_without_the_blank_before_it(words):
    task = opened(words, "summarization", choices=["cat", "dog"])

    rows, reasons = rows_of(task, words, (" cat", STOP), ("the cat", STOP))

    assert task.schema.names[0] == "summary_text"
    assert [row["summary_text"] for row in rows] == ["cat", None]
    assert reasons == [None, "the answer 'the cat' is none of model.options.choices"]


def test_no_rows_have_the_columns_of_the_form(words):
    assert rows_of(opened(words, json_schema=LABEL), words) == ([], [])


def test_the_engine_is_told_the_form_and_a_text_of_any_form_has_none(words):
    assert opened(words, choices=["cat"]).settings.grammar.choices == ("cat",)
    assert opened(words).settings.grammar is None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"choices": []}, r"choices = \[\]: is empty"),
        ({"choices": ["cat", "cat "]}, "holds 'cat' more than once"),
        ({"choices": "cat"}, "valid list"),
        ({"json_schema": {"type": "array"}}, 'set type = "object" at its top'),
        ({"json_schema": "nowhere.json"}, "leads to no file"),
        ({"choices": ["cat"], "json_schema": LABEL}, "take one of them out"),
        ({"choices": ["cat"], "thinking": True}, "thinking = true"),
    ],
)
def test_what_gives_answers_no_form_or_two_is_refused(options, why):
    with pytest.raises(ConfigError, match=why):
        task_options("text-generation", options)


def test_the_version_holds_what_a_schema_says_and_not_where_it_lay(tmp_path):
    (tmp_path / "label.json").write_text(json.dumps(LABEL, indent=2))

    by_path, by_table = (
        task_options("text-generation", {"json_schema": value}) for value in (str(tmp_path / "label.json"), LABEL)
    )

    assert by_path == by_table
    assert task_options("text-generation", by_path.model_dump(mode="json", exclude_defaults=True)) == by_path


def test_a_property_named_as_a_column_of_the_task_is_refused_before_anything_runs(words):
    with pytest.raises(ModelError, match='has the property "finish_reason"'):
        opened(words, json_schema={"type": "object", "properties": {"finish_reason": {}}}).schema  # noqa: B018


def test_windows_have_no_answer_of_one_form(words):
    config = T5Config(vocab_size=400)
    config.name_or_path = str(words)

    with pytest.raises(ModelError, match='Set long_text to "truncate"'):
        find_task("summarization")(
            config, task_options("summarization", {"choices": ["cat"]}), pooling=Pooling("mean", num_special=0)
        )
