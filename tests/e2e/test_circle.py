"""The script that the docs show goes from labels to a promoted model, on a part of the bundled e-mails."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.commands import environment
from tests.pipelines import MODEL, ROOT
from tests.processes import PATIENCE_SECONDS


def test_the_circle_ends_with_the_better_model_promoted(tmp_path):
    options = {"files": f"{ROOT}/data/emails/emails-00000*", "base": MODEL, "folder": tmp_path / "circle"}
    options |= {"few": 60, "many": 300, "max-length": 48}
    words = [f"--{name}={value}" for name, value in options.items()]

    done = subprocess.run(
        [sys.executable, ROOT / "data" / "circle.py", *words],
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    first, second = map(float, re.findall(r"accuracy (0\.\d+), macro F1", done.stdout)[:2])
    assert second > first
    assert "is promoted, in place of" in done.stdout
    assert "that a model learned from are left out" in done.stdout
