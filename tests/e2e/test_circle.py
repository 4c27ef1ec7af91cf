"""The script that the docs show: from labels to a model that others load and ask, on a part of the bundled e-mails."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from subprocess import CompletedProcess

from tests.commands import tidemill
from tests.pipelines import MODEL, ROOT
from tests.publications import commits_of

SHARED = [("datasets", "spam-table"), ("models", "spam")]


def test_the_circle_ends_with_the_better_model_shared_and_served(hub, tmp_path, monkeypatch, capfd):
    spec = importlib.util.spec_from_file_location("circle", ROOT / "data" / "circle.py")
    assert spec is not None
    assert spec.loader is not None
    circle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(circle)
    said: list[str] = []

    def forked(words: Sequence[str], *, asked: bool = False) -> CompletedProcess[str]:
        done = tidemill(*words, home=tmp_path / "home", hub=hub.url, cwd=ROOT, HF_TOKEN=hub.token)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
        return done

    monkeypatch.setattr(circle, "tidemill", forked)
    options = {"files": f"{ROOT}/data/emails/emails-00000*", "base": MODEL, "folder": tmp_path / "circle"}
    options |= {"few": 60, "many": 300, "max-length": 48, "asked": 60, "share": "circle"}
    monkeypatch.setenv("HF_TOKEN", hub.token)

    circle.main([f"--{name}={value}" for name, value in options.items()])

    whole = "".join(said)
    first, second = map(float, re.findall(r"accuracy (0\.\d+), macro F1", whole)[:2])
    assert second > first
    assert "is promoted, in place of" in whole
    assert "its model is of the training spam: accuracy" in whole
    assert "that a model learned from are left out" in whole
    assert [len(commits_of(hub, kind, f"circle/{name}")) for kind, name in SHARED] == [1, 1]
    same = re.findall(r"(\S+) says what the table says of 60 e-mails", capfd.readouterr().out)
    assert same == ["`datasets.load_dataset`", "`from_pretrained`", "service"]
