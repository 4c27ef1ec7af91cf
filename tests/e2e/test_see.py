"""The pictures of docs/see.md are made by the command that the page names, over whatever table it is given."""

from __future__ import annotations

import importlib.util
import re
import struct
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.browser import find_browser
from tests.commands import tidemill, write_toml
from tests.pipelines import ROOT, reviews, write_parquet

DOCS = ROOT / "docs"
COMMAND = DOCS / "pictures.py"


@pytest.fixture(scope="module")
def command() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_pictures", COMMAND)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_walk_shows_each_picture_and_each_is_in_the_repository(command):
    shown = re.findall(r"\]\(pictures/([\w-]+)\.png\)", (DOCS / "see.md").read_text())

    assert sorted(shown) == sorted(shot.name for shot in command.SHOTS)
    assert {path.stem for path in (DOCS / "pictures").glob("*.png")} == set(shown)


@pytest.mark.skipif(find_browser() is None, reason="no browser (Debian: apt-get install chromium)")
def test_the_command_goes_through_the_walk_and_takes_its_pictures(command, tmp_path):
    write_parquet(tmp_path / "data" / "reviews-0-of-1.parquet", reviews(0, 60))
    pipeline = write_toml(tmp_path, f"{tmp_path}/data/*.parquet")
    pipeline.write_text(pipeline.read_text().replace('keep = ["rating"]', 'keep = ["rating", "domain"]'))

    def run(*words: str) -> str:
        done = tidemill(*words, home=tmp_path / "home")
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    command.main(["--pipeline", str(pipeline), "--to", str(tmp_path / "pictures")], run=run)

    widths = {path.stem: width_of(path) for path in (tmp_path / "pictures").glob("*.png")}
    assert sorted(widths) == ["agreement", "confusion", "flips", "labels", "moved", "phone"]
    assert widths["phone"] == 400
    assert all(400 <= width <= 900 for width in widths.values())


def width_of(picture: Path) -> int:
    """What the header of a PNG says, in pixels."""
    (width,) = struct.unpack(">I", picture.read_bytes()[16:20])
    return int(width)
