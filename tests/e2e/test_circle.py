"""The script that the docs show: from labels to a model that others load and ask, on a part of the bundled e-mails."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from subprocess import CompletedProcess

import pytest

from tests.commands import tidemill
from tests.pipelines import MODEL, ROOT, reviews, write_parquet
from tests.publications import commits_of

SHARED = [("datasets", "spam-table"), ("models", "spam")]


@pytest.fixture
def circle(hub, tmp_path, monkeypatch):
    """The script, whose commands are forked, and what they say."""
    spec = importlib.util.spec_from_file_location("circle", ROOT / "data" / "circle.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    said: list[str] = []

    def forked(words: Sequence[str], *, asked: bool = False) -> CompletedProcess[str]:
        done = tidemill(*words, home=tmp_path / "home", hub=hub.url, cwd=ROOT, HF_TOKEN=hub.token)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
        return done

    monkeypatch.setattr(script, "tidemill", forked)
    return script, said


def test_the_circle_ends_with_the_better_model_shared_and_served(hub, circle, tmp_path, monkeypatch, capfd):
    script, said = circle
    options = {"files": f"{ROOT}/data/emails/emails-00000*", "base": MODEL, "folder": tmp_path / "circle"}
    options |= {"few": 60, "many": 300, "max-length": 48, "asked": 60, "share": "circle"}
    monkeypatch.setenv("HF_TOKEN", hub.token)

    script.main([f"--{name}={value}" for name, value in options.items()])

    whole = "".join(said)
    first, second = map(float, re.findall(r"accuracy (0\.\d+), macro F1", whole)[:2])
    assert second > first
    assert "is promoted, in place of" in whole
    assert "its model is of the training spam: accuracy" in whole
    assert "that a model learned from are left out" in whole
    assert [len(commits_of(hub, kind, f"circle/{name}")) for kind, name in SHARED] == [1, 1]
    same = re.findall(r"(\S+) says what the table says of 60 e-mails", capfd.readouterr().out)
    assert same == ["`datasets.load_dataset`", "`from_pretrained`", "service"]


@pytest.mark.soak
def test_on_reviews_the_new_head_is_held_against_the_base_it_was_made_of(circle, tmp_path):
    script, said = circle
    files = write_parquet(tmp_path / "reviews.parquet", reviews(0, 300))
    options = {"reviews": files, "base": MODEL, "folder": tmp_path / "circle", "many": 100, "max-length": 48}

    script.main([f"--{name}={value}" for name, value in options.items()])

    compared = said[-1]
    assert "100 that a model learned from are left out" in compared
    assert re.search(r"difference [+-]0\.\d+ \(-0\.\d+ to \+0\.\d+\)", compared), compared
    assert "movie: " in compared
