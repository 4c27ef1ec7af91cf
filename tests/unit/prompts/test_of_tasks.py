"""What the tasks of models that write make of their options and of a model's configuration."""

from __future__ import annotations

import pyarrow as pa
import pytest
import transformers

from tests.chats import write_chat
from tests.pipelines import MODEL, make_pipeline
from tests.translators import write_m2m100, write_marian, write_t5
from tidemill.checkpoints.fast_tokenizer import load_whole
from tidemill.errors import ConfigError, ModelError
from tidemill.models.tasks import Reading, find_task, task_options
from tidemill.planning.versions import declared

PREFIXES = {
    "summarization": {"prefix": "summarize: "},
    "translation_en_to_de": {"prefix": "translate English to German: "},
    "translation_en_to_fr": {"prefix": "translate English to French: "},
}


def task_of(name, folder, config=None, **options):
    config = config or transformers.T5Config(task_specific_params=PREFIXES)
    config.name_or_path = str(folder)
    return find_task(name)(config, task_options(name, options))


def texts_of(task, folder, text):
    found = task.preparer(folder, Reading(max_length=100)).prepare(pa.table({"text": [text]}))
    whole = load_whole(folder, trust_remote_code=False)
    return [whole.decode(ids) for ids in found["token_ids"].to_pylist()]


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    write_t5(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "options", "prefix"),
    [
        ("summarization", {}, "summarize: "),
        ("summarization", {"prefix": "say: "}, "say: "),
        ("summarization", {"prefix": ""}, ""),
        ("text2text-generation", {}, ""),
        ("translation", {"src_lang": "en", "tgt_lang": "fr"}, "translate English to French: "),
        ("translation", {"prefix": "in French: "}, "in French: "),
    ],
)
def test_what_a_model_was_trained_to_read_before_a_text_stands_there(t5, name, options, prefix):
    assert texts_of(task_of(name, t5, **options), t5, "a film") == [f"{prefix}a film</s>"]


@pytest.mark.parametrize("options", [{}, {"src_lang": "en", "tgt_lang": "ger"}, {"tgt_lang": "de"}])
def test_two_languages_that_a_model_has_no_prefix_for_are_refused(t5, options):
    task = task_of("translation", t5, **options)

    with pytest.raises(ModelError, match=r"has prefixes for translation_en_to_de, translation_en_to_fr\. Set .*\"en\""):
        task.preparer(t5, Reading(max_length=100))


def test_an_answer_in_a_language_begins_with_its_token(tmp_path):
    theirs = write_m2m100(tmp_path)
    task = task_of("translation", tmp_path, transformers.M2M100Config(), src_lang="de", tgt_lang="fr")

    assert task.settings.generation.forced_bos_token_id == theirs.get_lang_id("fr")


def test_marian_is_told_the_language_in_the_source_alone(tmp_path):
    write_marian(tmp_path, languages=("fra", "deu"))
    task = task_of("translation", tmp_path, transformers.MarianConfig(), tgt_lang="fra")

    assert task.settings.generation.forced_bos_token_id is None
    assert texts_of(task, tmp_path, "a film")[0].startswith(">>fra<<")


def test_a_field_of_a_prompt_that_no_column_has_is_refused_before_anything_is_read(tmp_path):
    options = {"prompt": "Rate {titel}"}
    pipeline = make_pipeline(
        tmp_path,
        str(tmp_path / "nothing.parquet"),
        dataset={"text": ["title", "body"]},
        model={"path": str(MODEL), "task": "text-generation", "options": options},
    )

    with pytest.raises(ConfigError, match=r"Did you mean \{title\}\?"):
        declared(pipeline)


def test_columns_of_a_prompt_come_apart_and_those_of_other_tasks_joined(tmp_path):
    model = {"path": str(MODEL), "task": "text-generation"}
    texts = {"text": ["title", "body"]}

    writing = declared(make_pipeline(tmp_path, "x.parquet", dataset=texts, model=model))
    others = declared(make_pipeline(tmp_path, "x.parquet", dataset=texts))

    assert (writing.joined_text.as_parts, others.joined_text.as_parts) == (True, False)


def test_another_chat_template_is_another_version(tmp_path):
    model = {"path": str(tmp_path), "task": "text-generation"}
    write_chat(tmp_path, "chatml")
    transformers.LlamaConfig().save_pretrained(tmp_path)

    before = declared(make_pipeline(tmp_path / "lake", "x.parquet", model=model))
    template = tmp_path / "chat_template.jinja"
    template.write_text(template.read_text() + "\n")
    after = declared(make_pipeline(tmp_path / "lake", "x.parquet", model=model))

    assert before.version != after.version
