"""`tidemill sql` without a query: a shell over a lake, each of whose statements sees the lake's newest snapshot."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _duckdb as duckdb  # As tidemill.lake.ducklake.connection does.

from tidemill.cli.pager import page_out
from tidemill.cli.printers import Pieces
from tidemill.cli.query import Reader
from tidemill.cli.script import split
from tidemill.cli.sql_words import Words, completions
from tidemill.cli.terminal import printable
from tidemill.errors import TidemillError
from tidemill.lake.ducklake.catalog import LakeSpec
from tidemill.lake.ducklake.connection import is_interrupt
from tidemill.masking import masked

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings

MODES = ("table", "csv", "json", "markdown")
COMMANDS = {
    ".tables": "the lake's tables: pipelines, their versions, and the system tables",
    ".schema [TABLE]": "the columns of a table, or of all",
    f".mode {'|'.join(MODES)}": "how results are printed",
    ".help": "this",
    ".quit": "leave, as Ctrl-D does",
}
INTRODUCTION = "Statements end with ; and .help says more."
PROMPT, CONTINUED = "tidemill> ", "     ...> "


class Shell:
    """What the shell does with a line, once it is complete; `write` shows text and results, piece by piece."""

    def __init__(self, reader: Reader, output: str, write: Callable[[Pieces], None]) -> None:
        self._reader, self.mode, self._write = reader, output, write
        self._words: Words | None = None

    @property
    def words(self) -> Words:
        """What there is to complete, as the lake was at the last statement."""
        if self._words is None:
            try:
                self._words = Words.of(self._reader.cursor)
            except duckdb.Error:  # To complete nothing is no reason to end.
                return Words()
        return self._words

    def do(self, text: str) -> bool:
        """Carry out a command or statements, and show what they give, or what is wrong; False to leave."""
        if text.strip().startswith("."):
            return self._command(*text.split())
        try:
            for _, statement in split(text):
                self._run(statement)
        except KeyboardInterrupt:
            self._cancel()
        except TidemillError as e:
            self._say(masked(str(e)))
        except Exception as e:
            if not is_interrupt(e):
                raise
            self._cancel()
        return True

    def _cancel(self) -> None:
        self._reader.cancel()
        self._say("Cancelled.")

    def _run(self, statement: str) -> None:
        self._renew()
        *before, last = self._reader.judged(statement)
        for each in before:
            self._reader.execute(each)
        self._write(self._reader.printed(last, self.mode))

    def _renew(self) -> None:
        self._reader.renew()
        self._words = None

    def _command(self, name: str, *given: str) -> bool:
        match name, given:
            case ".quit" | ".exit", ():
                return False
            case ".help", ():
                self._say("\n".join(f"{command:<32}{what}" for command, what in COMMANDS.items()))
            case ".mode", (mode,) if mode in MODES:
                self.mode = mode
            case ".tables", ():
                self._renew()
                self._say("\n".join(self.words.tables) or "The lake has no tables yet.")
            case ".schema", () | (_,):
                self._renew()
                self._say(self._schema(*given))
            case _:
                self._say(f"There is no {' '.join([name, *given])}. See .help.")
        return True

    def _schema(self, table: str | None = None) -> str:
        wanted = table.strip('";') if table else None
        tables = {name: columns for name, columns in self.words.tables.items() if wanted in (None, name)}
        if not tables:
            return f"The lake has no table {wanted}. See .tables."
        return "\n".join(_described(name, columns, self.words) for name, columns in tables.items())

    def _say(self, text: str) -> None:
        self._write(piece for piece in [f"{printable(text)}\n".encode()])


def run_shell(spec: LakeSpec, output: str, folders: Sequence[str] = (), *, source: str) -> None:
    """Read statements from the terminal until Ctrl-D.

    Raises:
        LakeError: the lake cannot be opened.
    """
    with Reader(spec, folders) as reader, _ctrl_c_cancels():
        shell = Shell(reader, output if output in MODES else "table", page_out)
        print(f"{printable(source)}, read-only. {INTRODUCTION}")  # noqa: T201
        read_lines(shell, new_session(shell, history_file()))


def read_lines(shell: Shell, session: PromptSession[str]) -> None:
    """Read and do until the end of the input; Ctrl-C gives up what is typed."""
    while True:
        try:
            text = session.prompt(PROMPT, prompt_continuation=CONTINUED)
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if text.strip() and not shell.do(text):
            return


def new_session(shell: Shell, history: Path | None, **terminal: Any) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.lexers import PygmentsLexer
    from pygments.lexers.sql import SqlLexer

    return PromptSession(
        multiline=True,
        history=InMemoryHistory() if history is None else FileHistory(str(history)),
        auto_suggest=AutoSuggestFromHistory(),
        lexer=PygmentsLexer(SqlLexer),
        completer=_completer(shell),
        complete_while_typing=False,
        key_bindings=_enter_ends_statements(),
        **terminal,
    )


def is_complete(text: str) -> bool:
    """Whether Enter ends the input: a command, nothing, or statements of which the last has its semicolon."""
    if not text.strip() or text.lstrip().startswith("."):
        return True
    tokens = duckdb.tokenize(text)
    return bool(tokens) and text.encode()[tokens[-1][0] : tokens[-1][0] + 1] == b";"


def history_file() -> Path | None:
    """The file of what was typed, for its user's eyes only; None where there can be none."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")  # noqa: PTH111
    path = Path(data) / "tidemill" / "sql_history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        path.chmod(0o600)
    except OSError:
        return None
    return path


def _completer(shell: Shell) -> Any:
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document

    class OfShell(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            typed = document.get_word_before_cursor(WORD=document.text.startswith("."))
            for text, kind in candidates(shell, document.text, document.cursor_position):
                yield Completion(text, start_position=-len(typed) if _is_word(typed) else 0, display_meta=kind)

    return OfShell()


def candidates(shell: Shell, text: str, cursor: int) -> Iterator[tuple[str, str]]:
    """What the word before the cursor may be, and what that is."""
    if not text.startswith("."):
        yield from completions(text, cursor, shell.words)
        return
    command, space, typed = text[:cursor].partition(" ")
    if not space:
        yield from ((name.split()[0], what) for name, what in COMMANDS.items() if name.startswith(command))
    given = {".mode": MODES, ".schema": tuple(shell.words.tables)}.get(command, ()) if space else ()
    yield from ((name, "") for name in given if name.startswith(typed))


def _is_word(typed: str) -> bool:
    return typed.startswith(".") or typed.replace("_", "a").isalnum()


def _enter_ends_statements() -> KeyBindings:
    from prompt_toolkit.application.current import get_app
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import completion_is_selected, has_focus
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    bindings = KeyBindings()

    @bindings.add("enter", filter=has_focus(DEFAULT_BUFFER) & ~completion_is_selected)
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_complete(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    @bindings.add("enter", filter=has_focus(DEFAULT_BUFFER) & completion_is_selected)
    def _(event: KeyPressEvent) -> None:
        get_app().current_buffer.complete_state = None

    return bindings


@contextmanager
def _ctrl_c_cancels() -> Iterator[None]:
    """Ctrl-C cancels what runs and nothing more, however often: of a command's own handler the second ends it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _described(table: str, columns: Sequence[tuple[str, str]], words: Words) -> str:
    names = [words.quoted(name) for name, _ in columns]
    width = max(map(len, names), default=0)
    lines = [f"  {name:<{width}}  {kind}" for name, (_, kind) in zip(names, columns, strict=True)]
    return "\n".join([words.quoted(table), *lines])
