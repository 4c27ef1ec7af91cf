"""What comes from data cannot command the terminal that shows it."""

from __future__ import annotations

import json
import re

import pytest

from tidemill.cli.common import print_facts
from tidemill.cli.live import LineProgress, LiveProgress
from tidemill.cli.main import _say
from tidemill.cli.query import run_query
from tidemill.cli.terminal import printable
from tidemill.config import Lake as Section
from tidemill.errors import ConfigError
from tidemill.lake import Lake

RETITLE = "\x1b]0;owned\x07"
TEXTS = [RETITLE, "\x9b2J", "a\rb", "a\x08b", "\x7f", "\u202egpj.exe"]
COMMANDS = re.compile(r"[^\n\t\x20-\x7e\xa0-\u2029\u202f-\u2065\u206a-\U0010ffff]")


@pytest.mark.parametrize("text", TEXTS)
def test_what_a_terminal_takes_for_a_command_is_spelled_out(text, capsys):
    line = LineProgress()
    line.note(text)
    line.failed(text, ConfigError(text))
    with LiveProgress() as live:
        live.failed(text, ConfigError(text))
    _say(text)
    print_facts([text], lambda facts: f"reviews\n{facts[0]}", False)

    out, err = capsys.readouterr()
    assert printable(text) in out
    assert not COMMANDS.findall(out)
    # The live bar moves the cursor by commands of its own.
    assert text not in err


def test_lines_tabs_and_letters_stay():
    assert printable("a\tb\né漢 🙂") == "a\tb\né漢 🙂"


def test_a_table_of_a_query_spells_them_out_and_json_escapes_them(tmp_path, capsys):
    spec = Section(catalog=f"sqlite:{tmp_path}/lake.sqlite", data=f"{tmp_path}/lake")
    Lake(spec).close()
    query = "SELECT chr(27) || ']0;owned' || chr(7) || chr(155) AS cell, 1 AS \"\x1b[31mname\""

    run_query(spec, query, "table")
    table = capsys.readouterr().out
    run_query(spec, query, "json")
    (row,) = json.loads(capsys.readouterr().out)

    assert "owned" in table
    assert not COMMANDS.findall(table)
    assert row == {"cell": f"{RETITLE}\x9b", "\x1b[31mname": 1}
