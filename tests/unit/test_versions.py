"""What names a version: all that can change a prediction, and nothing that was added since it was named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.pipelines import MODEL
from tidemill.config import Pipeline
from tidemill.versions import VersionSpec, declared

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
WINDOWS = replace(SPEC, long_text="windows", overlap="auto", aggregate="mean")


def declare(**tokenizer):
    sections = {"dataset": {"path": "x", "text": "text"}, "model": {"path": str(MODEL)}, "tokenizer": tokenizer}
    return declared(Pipeline.model_validate({"name": "reviews", **sections}))


@pytest.mark.parametrize(("long_text", "name"), [("truncate", "6db7549e"), ("quarantine", "8a7e95d9")])
def test_versions_that_lakes_hold_keep_their_names_and_records(long_text, name):
    spec = replace(SPEC, long_text=long_text)

    assert spec.version == name
    assert not {"overlap", "aggregate"} & spec.to_json().keys()
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


def test_only_a_pipeline_that_reads_windows_declares_them():
    assert (declare().overlap, declare().aggregate) == (None, None)
    windows = declare(long_text="windows", overlap=3)
    assert (windows.overlap, windows.aggregate) == (3, "mean")
