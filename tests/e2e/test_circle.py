"""The script that the docs show goes from labels to a promoted model, on a part of the bundled e-mails."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from subprocess import CompletedProcess

from tests.commands import tidemill
from tests.pipelines import MODEL, ROOT


def test_the_circle_ends_with_the_better_model_promoted(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("circle", ROOT / "data" / "circle.py")
    assert spec is not None
    assert spec.loader is not None
    circle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(circle)
    said: list[str] = []

    def forked(words: Sequence[str], *, asked: bool = False) -> CompletedProcess[str]:
        done = tidemill(*words, home=tmp_path / "home", cwd=ROOT)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
        return done

    monkeypatch.setattr(circle, "tidemill", forked)
    options = {"files": f"{ROOT}/data/emails/emails-00000*", "base": MODEL, "folder": tmp_path / "circle"}
    options |= {"few": 60, "many": 300, "max-length": 48}

    circle.main([f"--{name}={value}" for name, value in options.items()])

    whole = "".join(said)
    first, second = map(float, re.findall(r"accuracy (0\.\d+), macro F1", whole)[:2])
    assert second > first
    assert "is promoted, in place of" in whole
    assert "its model is of the training spam: accuracy" in whole
    assert "that a model learned from are left out" in whole
