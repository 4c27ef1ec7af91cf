"""What names a version: all that can change a prediction, and nothing that was added since it was named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from pydantic import ValidationError

from tests.pipelines import MODEL, ROOT
from tidemill.config import Pipeline
from tidemill.errors import ModelError
from tidemill.planning.versions import (
    VersionSpec,
    configuration_folder,
    declared,
    model_folder,
    recognized,
    relocated,
    tokenizer_folder,
)
from tidemill.values.columns import JoinedText

SPEC = VersionSpec(
    task="text-classification",
    model_path="m",
    model="commit:1",
    tokenizer_path="m",
    tokenizer="commit:1",
    text=("text",),
    text_separator="\n",
    max_length="auto",
    long_text="truncate",
    dtype="auto",
    all_scores=False,
    trust_remote_code=False,
)
BUNDLED = ROOT / "data" / "models" / "tiny-sentiment"
PAIRS = replace(SPEC, text_pair=("reply",), truncation="longest_first")
WINDOWS = replace(SPEC, long_text="windows", overlap="auto", aggregate="mean")


def declare(model: object = MODEL, *, trusted: bool = False, pair: object = (), **tokenizer):
    model = {"path": str(model), "trust_remote_code": trusted}
    dataset = {"path": "x", "text": "text", "text_pair": pair}
    sections = {"dataset": dataset, "model": model, "tokenizer": tokenizer}
    return declared(Pipeline.model_validate({"name": "reviews", **sections}))


@pytest.mark.parametrize(("long_text", "name"), [("truncate", "6db7549e"), ("quarantine", "8a7e95d9")])
def test_versions_that_lakes_hold_keep_their_names_and_records(long_text, name):
    spec = replace(SPEC, long_text=long_text)

    assert spec.version == name
    assert not {"overlap", "aggregate", "pad_token_id", "text_pair", "truncation"} & spec.to_json().keys()
    assert VersionSpec.from_json(spec.to_json()) == spec


def test_how_windows_are_cut_and_pooled_is_part_of_the_version():
    others = [replace(WINDOWS, overlap=64), replace(WINDOWS, aggregate="max"), replace(WINDOWS, max_length=128), SPEC]

    assert len({spec.version for spec in (WINDOWS, *others)}) == 5
    assert VersionSpec.from_json(WINDOWS.to_json()) == WINDOWS


def test_differences_name_what_windows_have():
    assert WINDOWS.differences(replace(WINDOWS, overlap=64, aggregate="max")) == [
        "overlap: auto → 64",
        "aggregate: mean → max",
    ]
    assert SPEC.differences(WINDOWS) == [
        "long_text: truncate → windows",
        "overlap: none → auto",
        "aggregate: none → mean",
    ]


def test_what_a_pair_is_made_of_and_which_text_is_cut_is_part_of_the_version():
    others = [replace(PAIRS, text_pair=("a", "b")), replace(PAIRS, truncation="only_second"), SPEC]
    swapped = replace(PAIRS, text=("reply",), text_pair=("text",))
    joined = replace(SPEC, text=("text", "reply"))

    assert len({spec.version for spec in (PAIRS, swapped, joined, *others)}) == 6
    assert VersionSpec.from_json(json.loads(json.dumps(PAIRS.to_json()))) == PAIRS
    assert PAIRS.joined_text == JoinedText(("text",), "\n", ("reply",))


def test_only_a_pipeline_of_pairs_declares_how_they_are_truncated():
    assert (declare().text_pair, declare().truncation) == (None, None)
    assert (declare(pair="b").text_pair, declare(pair="b").truncation) == (("b",), "longest_first")
    assert declare(pair=["b", "c"], truncation="only_second").truncation == "only_second"


def test_only_a_pipeline_that_reads_windows_declares_them():
    assert (declare().overlap, declare().aggregate) == (None, None)
    windows = declare(long_text="windows", overlap=3)
    assert (windows.overlap, windows.aggregate) == (3, "mean")


def test_the_bundled_model_keeps_the_names_that_lakes_hold():
    names = {
        "2b2f1bab": declare(BUNDLED),
        "6e9ba20b": declare(BUNDLED, path=str(BUNDLED)),
        "0dfd0ae3": declare(BUNDLED, long_text="windows"),
        "f0ba9f9a": declare(BUNDLED, trusted=True),
    }

    assert [spec.version for spec in names.values()] == list(names)


FILES = {
    "config.json": '{"model_type": "bert"}',
    "model.safetensors": "weights",
    "tokenizer.json": "{}",
    "all_results.json": '{"eval_loss": 0.5}',
    "handler.py": "pass",
}
"""Of which a version took all, whether they were read or not, before it took the ones that are."""


@pytest.fixture
def trained(tmp_path):
    """A folder as a training run leaves it."""
    folder = tmp_path / "trained"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("file", ["all_results.json", "trainer_state.json", "README.md", "requirements.txt", "a.py"])
def test_a_file_that_is_not_read_makes_no_other_version(trained, file):
    before = declare(trained)

    (trained / file).write_text("new")

    assert declare(trained) == before


@pytest.mark.parametrize(
    "file",
    [
        *("config.json", "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
        *("vocab.json", "merges.txt", "spiece.model", "tekken.json"),
    ],
)
def test_every_file_that_is_read_makes_another_version(trained, file):
    before = declare(trained)

    (trained / file).write_text("new")

    assert declare(trained).version != before.version


def test_code_counts_where_it_is_trusted(trained):
    before = declare(trained, trusted=True)

    (trained / "handler.py").write_text("new")

    assert declare(trained, trusted=True).version != before.version


BEFORE = "sha256:46111671324eac49b2c727a72ae5d2b2"
"""What a version called `FILES` when every JSON file counted."""


def test_a_version_recorded_when_unrelated_files_counted_is_recognized_and_opened(trained):
    now = declare(trained)
    recorded = replace(now, model=BEFORE, tokenizer=BEFORE)
    assert recorded.version == "e6baca09" != now.version

    assert recognized(now, [SPEC, recorded]) == recorded
    assert model_folder(recorded) == tokenizer_folder(recorded) == trained

    (trained / "model.safetensors").write_text("others!")
    assert recognized(declare(trained), [recorded]).version not in (recorded.version, now.version)
    with pytest.raises(ModelError, match="no longer holds"):
        model_folder(recorded)


def test_a_tokenizer_recorded_when_unrelated_files_counted_is_recognized_too(trained):
    now = declare(trained, path=str(trained))
    recorded = replace(now, model=BEFORE, tokenizer="sha256:dc55c54811fe6c6d1815ba3cacaa5272")
    assert recorded.version == "ed823cd9"

    assert recognized(now, [recorded]) == recorded
    assert recognized(now, [replace(recorded, max_length=7)]) == now


def test_a_folder_that_was_moved_is_found_where_the_pipeline_file_says_it_is_now(trained, tmp_path):
    """As a worker finds it whose lake recorded a path of another machine."""
    recorded = declare(trained)
    moved = trained.rename(tmp_path / "moved")
    pipeline = Pipeline.model_validate(
        {"name": "x", "dataset": {"path": "x", "text": "text"}, "model": {"path": str(moved)}}
    )
    found = relocated(recorded, pipeline)
    assert (found.version, model_folder(found), tokenizer_folder(found)) == (recorded.version, moved, moved)


def test_a_commit_that_changes_no_file_that_is_read_is_no_other_version(hub):
    repo = hub.add_model("carded/sentiment")
    repo.commit({name: text.encode() for name, text in FILES.items()})
    first = declare("carded/sentiment")
    repo.commit({"README.md": b"moved", "all_results.json": None, "onnx/config.json": b"{}"})
    second = declare("carded/sentiment")
    repo.commit({"tokenizer.json": b'{"version": "1.0"}'})
    third = declare("carded/sentiment")
    assert len({first.version, second.version, third.version}) == 3

    assert recognized(second, [SPEC, first]) == first
    assert recognized(third, [first]) == third
    assert recognized(declare("carded/sentiment", trusted=True), [first]).version != first.version


def test_a_models_configuration_is_found_where_it_was_fetched_to_and_asked_of_nobody(hub):
    hub.add_model("fetched/sentiment").commit({name: text.encode() for name, text in FILES.items()})
    spec = declare("fetched/sentiment")
    assert configuration_folder(spec) is None
    folder = model_folder(spec, weights=False)
    hub.reset()

    assert configuration_folder(spec) == folder
    assert list(hub.log) == []
    assert configuration_folder(declare(BUNDLED)) == BUNDLED


def test_a_commit_that_is_gone_is_not_taken_for_the_one_that_is_there(hub):
    hub.add_model("squashed/sentiment").commit({name: text.encode() for name, text in FILES.items()})
    now = declare("squashed/sentiment")
    gone = replace(now, model=f"commit:{'0' * 40}", tokenizer=f"commit:{'0' * 40}")

    assert recognized(now, [gone]) == now


def test_a_model_in_a_folder_of_the_one_that_is_named_is_that_model(tmp_path):
    shutil.copytree(MODEL, tmp_path / "all" / "small" / "first")
    sections = {"dataset": {"path": "x", "text": "text"}, "model": {"path": str(tmp_path / "all")}}
    sections["model"]["subfolder"] = "small/first/"
    spec = declared(Pipeline.model_validate({"name": "reviews", **sections}))

    assert spec.version == declare().version
    assert model_folder(spec) == tokenizer_folder(spec) == tmp_path / "all" / "small" / "first"


@pytest.mark.parametrize("subfolder", ["..", "a/../b", "/a", "", "a//b", "."])
def test_a_subfolder_lies_in_the_models_folder(subfolder):
    for section in (
        {"model": {"path": "m", "subfolder": subfolder}},
        {"tokenizer": {"path": "m", "subfolder": subfolder}},
    ):
        with pytest.raises(ValidationError, match="is not a folder within the model's"):
            Pipeline.model_validate(
                {"name": "x", "dataset": {"path": "x", "text": "t"}, "model": {"path": "m"}} | section
            )


def test_a_tokenizers_subfolder_counts_only_with_its_path():
    with pytest.raises(ValidationError, match=r"counts only with tokenizer\.path"):
        declare(subfolder="a")
