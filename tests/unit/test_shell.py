"""The shell of `tidemill sql`, at a terminal that is a pipe; and scripts, which go the same way."""

from __future__ import annotations

import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from duckdb import InterruptException
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from tidemill.cli import pager
from tidemill.cli.pager import page_out
from tidemill.cli.printers import Pieces
from tidemill.cli.query import Reader, write_out
from tidemill.cli.script import read_script, run_script, split
from tidemill.cli.shell import Shell, candidates, history_file, is_complete, new_session, read_lines
from tidemill.cli.sql_words import Words, completions
from tidemill.config import Lake as Section
from tidemill.errors import ConfigError, InputError
from tidemill.lake import Cursor, Lake

CTRL_C, CTRL_D = "\x03", "\x04"
WORDS = Words(
    {"reviews": [("id", "BIGINT"), ("label", "VARCHAR"), ("order", "DATE")], "emails": [("id", "BIGINT")]},
    ("from", "label", "limit", "order", "select"),
    frozenset(["from", "limit", "order", "select"]),
)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Section:
    def tables(cursor: Cursor) -> None:
        cursor.execute("CREATE TABLE reviews__v AS SELECT i AS id, 'POSITIVE' AS label FROM range(3) r(i)")
        cursor.execute("CREATE VIEW reviews AS FROM reviews__v")
        cursor.execute('CREATE TABLE _runs AS SELECT 1 AS "the run"')

    folder = tmp_path_factory.mktemp("lake")
    spec = Section(catalog=f"sqlite:{folder}/lake.sqlite", data=f"{folder}/lake")
    with Lake(spec) as lake:
        lake.write(tables, message="make")
    return spec


@pytest.fixture
def shell(spec: Section) -> Iterator[Shell]:
    with Reader(spec) as reader:
        yield Shell(reader, "csv", write_out)


@pytest.fixture
def typed(shell: Shell) -> Callable[..., list[str]]:
    """What the shell keeps in its history of keys that were pressed, until Ctrl-D."""

    def press(keys: str, history: Path | None = None) -> list[str]:
        with create_pipe_input() as terminal:
            terminal.send_text(keys + CTRL_D)
            session = new_session(shell, history, input=terminal, output=DummyOutput())
            read_lines(shell, session)
            return list(session.history.get_strings())

    return press


def test_a_statement_may_have_several_lines_and_ends_with_its_semicolon(typed, capfd):
    typed("SELECT count(*) AS n\rFROM reviews\r;\rSELECT 2 AS m; -- two\r")

    assert capfd.readouterr().out == "n\n3\nm\n2\n"


def test_ctrl_c_gives_up_what_is_typed_and_the_shell_goes_on(typed, capfd):
    typed(f"SELECT nothing\r{CTRL_C}SELECT 1 AS n;\r")

    assert capfd.readouterr().out == "n\n1\n"


def test_what_is_wrong_is_told_and_the_shell_goes_on(typed, capfd):
    typed("SELEC;\rDROP TABLE _runs;\rSELECT x FROM reviews;\r.nothing\rSELECT 1 AS n;\r")

    syntax, *_, one = (out := capfd.readouterr().out).splitlines()
    assert 'syntax error at or near "SELEC"' in syntax
    assert "`tidemill sql` only reads; this is DROP" in out
    assert 'column "x" not found' in out
    assert "There is no .nothing. See .help." in out
    assert one == "1"


def test_each_statement_sees_the_newest_snapshot(shell, spec, capfd):
    shell.do("SELECT max(id) AS n FROM reviews;")
    with Lake(spec) as lake:
        lake.write(lambda cursor: cursor.execute("INSERT INTO reviews__v VALUES (7, 'NEGATIVE')"), message="add")
    shell.do("SELECT max(id) AS n FROM reviews;")
    with Lake(spec) as lake:
        lake.write(lambda cursor: cursor.execute("DELETE FROM reviews__v WHERE id = 7"), message="remove")

    assert capfd.readouterr().out == "n\n2\nn\n7\n"


def test_a_query_that_is_cancelled_leaves_the_shell_as_it_was(spec, capfd):
    def left_at_once(pieces: Pieces) -> None:
        if next(pieces).startswith(b"range"):
            pieces.close()
            raise KeyboardInterrupt
        told.append("more")

    told: list[str] = []
    with Reader(spec) as reader:
        assert Shell(reader, "csv", left_at_once).do("FROM range(100_000_000_000);")
        assert Shell(reader, "csv", write_out).do("SELECT 1 AS n;")

    assert told == ["more"]
    assert capfd.readouterr().out == "n\n1\n"


def test_to_cancel_ends_the_query_that_is_at_work_in_other_threads(spec):
    def run_endlessly() -> None:
        with pytest.raises(InterruptException):
            reader.cursor.execute(
                "SELECT count(*) FROM range(100_000_000_000) a(i), range(100) b(j) WHERE i * j % 7 = 3"
            )
        ended.set()

    ended = threading.Event()
    with Reader(spec) as reader:
        query = threading.Thread(target=run_endlessly)
        query.start()
        while query.is_alive():
            reader.cancel()

    assert ended.is_set()


def test_commands_show_tables_and_columns_and_change_how_results_are_printed(typed, capfd):
    typed(".tables\r.schema reviews\r.schema _runs\r.mode json\rSELECT 1 AS n;\r.mode xml\r.quit\r")

    assert capfd.readouterr().out == (
        "reviews\nreviews__v\n_runs\n"
        "reviews\n  id     BIGINT\n  label  VARCHAR\n"
        '_runs\n  "the run"  INTEGER\n'
        '[\n\t{"n":1}\n]\n'
        "There is no .mode xml. See .help.\n"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT * FROM ", ["reviews", "emails"]),
        ("SELECT * FROM r", ["reviews"]),
        ("SELECT r.| FROM reviews r", ["id", "label", '"order"']),
        ("SELECT lab| FROM reviews", ["label"]),
        ("SELECT LI", ["LIMIT"]),
        ("sel", ["select"]),
        ("SELECT 1; L", ["LABEL", "LIMIT"]),
        ("SELECT nothing.", []),
        ('SELECT "emails".', ["id"]),
    ],
)
def test_what_is_completed_depends_on_where_it_stands(text, expected):
    before, _, after = text.partition("|")

    assert [name for name, _ in completions(before + after, len(before), WORDS)] == expected


def test_commands_are_completed_and_what_they_take(shell):
    def complete(text: str) -> list[str]:
        return [name for name, _ in candidates(shell, text, len(text))]

    assert complete(".sc") == [".schema"]
    assert complete(".mode j") == ["json"]
    assert complete(".schema rev") == ["reviews", "reviews__v"]


def test_the_completer_replaces_the_word_alone(shell):
    session = new_session(shell, None, output=DummyOutput())
    document = Document("SELECT lab FROM reviews", 10)

    assert session.completer is not None
    found = next(iter(session.completer.get_completions(document, CompleteEvent())))

    assert (found.text, found.start_position) == ("label", -3)


@pytest.mark.parametrize(
    "text", ["SELECT 1;", "SELECT 1; -- one", ".tables", "", "SELECT ';';", "SELECT 1;\n/* two */"]
)
def test_enter_ends_what_is_complete(text):
    assert is_complete(text)


@pytest.mark.parametrize("text", ["SELECT 1", "SELECT ';", "-- SELECT 1;", "SELECT 1 /* ;", "SELECT 1; SELECT 2"])
def test_enter_goes_on_with_what_is_not(text):
    assert not is_complete(text)


def test_what_was_typed_is_kept_for_its_user_alone(typed, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    file = history_file()
    assert file is not None
    typed("SELECT 1\r;\r", file)

    assert typed("", file) == ["SELECT 1\n;"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_without_a_place_for_it_nothing_is_kept(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))

    assert history_file() is None


def test_a_long_result_goes_through_the_pager_and_a_short_one_does_not(tmp_path, monkeypatch, capfd):
    (tmp_path / "pager").write_text(f"#!{sys.executable}\nimport sys\nprint('paged', len(sys.stdin.readlines()))\n")
    (tmp_path / "pager").chmod(0o755)
    monkeypatch.setenv("PAGER", str(tmp_path / "pager"))
    monkeypatch.setenv("LINES", "10")
    page_out(b"line\n" for _ in range(9))
    page_out(b"line\n" for _ in range(5_000))

    assert capfd.readouterr().out == 9 * "line\n" + "paged 5000\n"


def test_who_leaves_the_pager_cancels_the_query(tmp_path, monkeypatch):
    (tmp_path / "pager").write_text(f"#!{sys.executable}\n")
    (tmp_path / "pager").chmod(0o755)
    monkeypatch.setenv("PAGER", str(tmp_path / "pager"))
    ended: list[bool] = []

    def endless():
        try:
            while True:
                yield b"line\n"
        finally:
            ended.append(True)

    page_out(endless())

    assert ended == [True]


def test_there_may_be_no_pager(monkeypatch):
    monkeypatch.setenv("PAGER", "")
    assert pager.pager() is None
    monkeypatch.setenv("PAGER", "no-such-pager -x")
    assert pager.pager() is None


def test_statements_are_told_apart_by_their_semicolons_and_keep_their_lines():
    text = "SELECT ';' -- a;b\n; /* ; */ SELECT 2;\n\n-- x\nSELECT $$;$$, é"

    assert list(split(text)) == [(1, "SELECT ';' -- a;b\n;"), (2, "SELECT 2;"), (5, "SELECT $$;$$, é")]


def test_a_script_prints_the_result_of_each_statement(spec, capfd):
    run_script(spec, "SELECT 1 AS n;\nPIVOT reviews ON label USING count(*);\nSELECT 3 AS n", "csv")

    assert capfd.readouterr().out.splitlines()[::2] == ["n", "id,POSITIVE", "1,1", "n"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("SELECT x\n  FROM reviews;", r"q\.sql, line 3: .*column \"x\" not found"),
        ("SELECT id\n  FRM reviews WHERE;", r"q\.sql, line 4: .*syntax error"),
        ("DROP TABLE reviews;", r"q\.sql, line 3: `tidemill sql` only reads; this is DROP"),
        ("SELECT 'open;", r"q\.sql, line 3: .*unterminated"),
    ],
)
def test_a_script_says_in_which_line_it_is_wrong(spec, wrong, says):
    with pytest.raises(InputError, match=says):
        run_script(spec, f"SELECT 1;\n\n{wrong}", "csv", name="q.sql")


def test_nothing_of_a_script_runs_if_a_part_of_it_would_write(spec, capfd):
    with pytest.raises(InputError, match="only reads"):
        run_script(spec, "SELECT 1; DELETE FROM reviews__v", "csv")

    assert capfd.readouterr().out == ""


def test_a_script_that_is_not_there_or_says_nothing_is_refused(spec, tmp_path):
    with pytest.raises(ConfigError, match=r"There is no file .*q\.sql\. Give --file one"):
        read_script(str(tmp_path / "q.sql"))
    (tmp_path / "q.sql").write_bytes(b"SELECT '\xff'")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_script(str(tmp_path / "q.sql"))
    with pytest.raises(ConfigError, match="There is no statement in standard input"):
        run_script(spec, "-- nothing\n", "csv")
