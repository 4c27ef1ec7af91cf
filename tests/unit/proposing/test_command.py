"""`tidemill init` as it is typed: where the file goes, what is said, and what ends with which exit code."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.pipelines import MODEL
from tests.unit.proposing.test_columns import TEXTS, parquet
from tidemill.cli import start
from tidemill.cli.main import main
from tidemill.config import load_pipeline
from tidemill.errors import ConfigError
from tidemill.proposing.models import ChosenModel
from tidemill.proposing.writing import place_in, publish


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table in it, where the command is typed."""
    parquet(tmp_path, {"id": list(range(60)), "text": TEXTS}, "My reviews.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["tidemill", "init", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "home")


def test_the_file_and_the_pipeline_take_the_sources_name(here, monkeypatch, capsys):
    assert init(monkeypatch, "My reviews.parquet", "--model", str(MODEL)) == 0
    assert load_pipeline("my_reviews.toml").name == "my_reviews"
    assert capsys.readouterr().out.endswith("Run it: tidemill run my_reviews.toml\n")


def test_they_take_another_name_if_told(here, monkeypatch):
    (here / "sub").mkdir()
    assert init(monkeypatch, "My reviews.parquet", "--model", str(MODEL), "-o", "sub/Other one.toml") == 0
    written = (here / "sub" / "Other one.toml").read_text()
    assert 'name = "other_one"' in written
    assert 'path = "../My reviews.parquet"' in written


def test_nothing_is_asked_of_the_hub_where_source_and_model_are_here(here, monkeypatch, hub):
    assert init(monkeypatch, "My reviews.parquet", "--model", str(MODEL)) == 0
    assert hub.log == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "taken.toml"], "There is a file taken.toml already"),
        (["-o", "dangling.toml"], "There is a file dangling.toml already"),
        (["-o", "none/file.toml"], "There is no folder none"),
        (["-o", "file.txt"], "does not end in .toml"),
        (["--task", "text-clasification"], "text-classification"),
        (["--model", "./none"], "There is no model folder ./none"),
        ([], "--model FOLDER"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(here, monkeypatch, capsys, words, message):
    (here / "taken.toml").write_text("mine")
    (here / "dangling.toml").symlink_to("nowhere")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = [] if not words or "--model" in words else ["--model", str(MODEL)]
    assert init(monkeypatch, "My reviews.parquet", *model, *words) == 2
    assert message in capsys.readouterr().err
    assert files(here) == ["My reviews.parquet", "dangling.toml", "taken.toml"]
    assert (here / "taken.toml").read_text() == "mine"


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path):
    (tmp_path / "a.toml").write_text("mine")
    with pytest.raises(ConfigError, match="-o FILE"):
        publish("ours", tmp_path / "a.toml")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ("/project/data/a.csv", "data/a.csv"),
        ("/project/data", "./data"),
        ("/project/data/*.csv", "data/*.csv"),
        ("/elsewhere/a.csv", "/elsewhere/a.csv"),
        ("/project/../srv/a.csv", "/srv/a.csv"),
    ],
)
def test_a_place_is_written_from_the_files_folder_unless_it_lies_elsewhere(path, written):
    assert place_in(Path("/project"), path) == written


def test_a_place_that_was_given_from_here_is_written_from_the_files_folder(here):
    (here / "sub").mkdir()
    assert place_in(Path("sub"), "a.csv") == "../a.csv"
    assert place_in(Path(), "../a.csv") == "../a.csv"


def test_on_a_terminal_the_user_chooses_and_enter_takes_the_first(monkeypatch):
    models = [ChosenModel(f"org/{name}", "text-classification", ("no", "yes"), is_local=False) for name in "abc"]
    for typed, chosen in ((b"\n", "org/a"), (b"7\n2\n", "org/b")):
        ours, theirs = os.openpty()
        with os.fdopen(theirs, "r+b", buffering=0) as terminal:
            monkeypatch.setattr(sys, "stdin", open(terminal.fileno(), closefd=False))  # noqa: SIM115
            monkeypatch.setattr(sys, "stderr", open(terminal.fileno(), "w", closefd=False))  # noqa: SIM115
            os.write(ours, typed)
            assert start._choose_model(models).path == chosen
        os.close(ours)


def test_without_a_terminal_the_first_is_taken(capsys):
    models = [ChosenModel(f"org/{name}", "text-classification", ("no", "yes"), is_local=False) for name in "ab"]
    assert start._choose_model(models).path == "org/a"
    assert capsys.readouterr().err == ""


def test_a_model_that_a_server_has_is_written_with_its_address_and_asked_of_nobody(here, monkeypatch, hub):
    words = ["--model", "qwen3:8b", "--endpoint", "http://127.0.0.1:9/v1", "--option", "max_new_tokens=9"]
    assert init(monkeypatch, "My reviews.parquet", *words) == 0
    pipeline = load_pipeline("my_reviews.toml")
    assert (pipeline.model.task, pipeline.model.path) == ("text-generation", "qwen3:8b")
    assert pipeline.model.options == {"max_new_tokens": 9}
    assert (pipeline.inference.engine, pipeline.inference.endpoint.base_url) == ("endpoint", "http://127.0.0.1:9/v1")
    assert hub.log == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--endpoint", "http://127.0.0.1:9"], "Name its model: --model NAME"),
        (
            ["--endpoint", "http://h:9", "--model", "m", "--task", "text-classification"],
            "A server goes on with prompts",
        ),
        (["--endpoint", "there", "--model", "m"], "is no address of a server"),
    ],
)
def test_a_server_without_an_address_a_name_or_prompts_is_refused(here, monkeypatch, capsys, words, message):
    assert init(monkeypatch, "My reviews.parquet", *words) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert files(here) == ["My reviews.parquet"]
