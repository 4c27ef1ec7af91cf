"""`--help` says first what is needed first, with an example a command, and is there at once."""

from __future__ import annotations

import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.pipelines import ROOT
from tidemill.cli.everyday import app
from tidemill.cli.help import EVERYDAY, GROUPS, IN_ORDER, pipeline_files, summary

GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands


def help_of(*words: str, columns: int = 80) -> str:
    done = CliRunner().invoke(app, [*words, "-h"], prog_name="tidemill", env={"COLUMNS": str(columns)})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_a_group_and_examples_that_can_be_typed(name):
    command = COMMANDS[name]
    options = {option for param in command.params for option in param.opts}

    assert command.rich_help_panel in GROUPS
    assert command.epilog
    for example in command.epilog.splitlines():
        program, called, *words = shlex.split(example)
        assert (program, called) == ("tidemill", name)
        assert {word for word in words if word.startswith("--")} <= options
        assert f"  {example}\n" in help_of(name)


@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_the_terminal(name, columns):
    shown = help_of(*filter(None, [name]), columns=columns)

    assert max(map(len, shown.splitlines())) <= columns


def test_the_commands_of_every_day_come_first():
    shown = help_of()
    first = [line.split()[0] for line in shown.partition(f"{EVERYDAY}:\n")[2].splitlines() if line[2:3].isalpha()]

    assert first[: len(IN_ORDER)] == list(IN_ORDER)
    assert [shown.index(f"{group}:") for group in GROUPS] == sorted(shown.index(f"{group}:") for group in GROUPS)
    assert all(summary(command)[:40] in shown for command in COMMANDS.values())


def test_the_version_is_told():
    done = CliRunner().invoke(app, ["--version"])

    assert (done.exit_code, done.output) == (0, f"tidemill {version('tidemill')}\n")


def test_python_m_tidemill_is_tidemill_and_its_help_imports_nothing_heavy():
    heavy = ["duckdb", "numpy", "prefect", "prompt_toolkit", "pyarrow", "pydantic", "rich", "torch"]
    script = (
        "import runpy, sys; sys.argv = ['tidemill', '--help']\n"
        "try: runpy.run_module('tidemill', run_name='__main__')\n"
        f"except SystemExit: print([name for name in {heavy} if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.startswith("Usage: tidemill [OPTIONS] COMMAND")
    assert done.stdout.endswith("[]\n")


def test_a_shell_completes_commands_options_and_pipeline_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviews.toml").write_text("")
    (tmp_path / "reviews.csv").write_text("")
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "emails.toml").write_text("")

    def complete(words: str) -> list[str]:
        asked = {"COMP_WORDS": f"tidemill {words}", "COMP_CWORD": str(words.count(" ") + 1)}
        done = CliRunner().invoke(app, [], prog_name="tidemill", env={"_TIDEMILL_COMPLETE": "complete_bash", **asked})
        return done.output.split()

    assert complete("pl") == ["plan"]
    assert complete("run --lim") == ["--limit"]
    assert complete("run r") == ["reviews.toml"]
    assert complete("run pipelines/") == ["pipelines/emails.toml"]
    assert list(pipeline_files("")) == ["pipelines/", "reviews.toml"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_that_completes_is_printed_for_each_shell(shell, monkeypatch):
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))
    done = CliRunner().invoke(app, ["--show-completion"], prog_name="tidemill")

    assert "_TIDEMILL_COMPLETE" in done.output, Path(shell)
