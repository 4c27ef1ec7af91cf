"""The entry point: what of a command line needs no parser, and what errors end in."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import NoReturn

from tidemill.cli.terminal import printable
from tidemill.errors import TidemillError
from tidemill.masking import masked

PLAIN_FORMATS: dict[tuple[str, ...], str] = {
    (): "table",
    ("--json",): "json",
    **{("--format", name): name for name in ("table", "csv", "json", "markdown", "parquet")},
}
"""What may follow the query of `tidemill sql` without a parser, and how it prints then."""
STOPPED = "stopped. What was committed stays; the same command goes on from there."
WITH_THREADS = ("tidemill.flows.local", "tidemill.publishing.repositories.writing")
"""What may leave threads behind that nothing interrupts."""
SAME_MOMENT_SECONDS = 0.5
SHOW_CURSOR = "\x1b[?25h"

_asked: float | None = None
"""When the process was first asked to stop."""


def main() -> None:
    """Run a command; every error that Tidemill raises ends in one message and an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.excepthook = _print_traceback
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Else whoever started the command ignores it.
        signal.signal(signal.SIGINT, _interrupt)
    try:
        _run(sys.argv[1:])
    except SystemExit as e:
        _end_if_threads_wait(e.code if isinstance(e.code, int) else 0)
        raise
    except TidemillError as e:
        _say(str(e))
        _end_if_threads_wait(e.exit_code)
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        _say_stopped()
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except Exception as e:
        # DuckDB takes a Ctrl-C that arrives within a query for itself.
        if type(e).__name__ == "InterruptException" or str(e) == "Query interrupted":
            _say_stopped()
        message = _meaning(e)
        if message is None:
            raise
        _say(message)
        sys.exit(1)


def _run(words: Sequence[str]) -> None:
    match words:
        # To import the parser takes as long as a short query.
        case ["sql", source, query, *options] if tuple(options) in PLAIN_FORMATS and not _has_option(source, query):
            from tidemill.cli.query import find_lake, run_query

            run_query(find_lake(source), query, PLAIN_FORMATS[tuple(options)])
        case _:
            from tidemill.cli import everyday

            everyday.app(prog_name="tidemill")


def _meaning(error: Exception) -> str | None:
    """What the system or a database refused, wherever it was; None of an error that is Tidemill's own."""
    if type(error).__module__ in ("duckdb", "_duckdb", "sqlite3"):
        return f"the lake cannot be read or written: {error}"
    if isinstance(error, OSError) and error.errno is not None:
        from tidemill.places import system_error

        return system_error(error)
    return None


def _has_option(*words: str) -> bool:
    """SQL may begin with a comment, which begins as an option does."""
    return any(word.startswith("-") and len(word.split()) == 1 for word in words)


def _say(message: str) -> None:
    sys.stderr.write(f"tidemill: {printable(masked(message))}\n")


def _print_traceback(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Of an error that nobody foresaw: it may repeat what the user wrote."""
    from traceback import format_exception

    sys.stderr.write(masked("".join(format_exception(kind, error, traceback))))


def _say_stopped() -> NoReturn:
    _say(STOPPED)
    _end(1)


def _end_if_threads_wait(code: int) -> None:
    if any(name in sys.modules and sys.modules[name].LEFT_BEHIND.is_set() for name in WITH_THREADS):
        _end(code)


def _end(code: int) -> NoReturn:
    """End the process without waiting for threads, which the interpreter would do: all is said and done."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _interrupt(*_: object) -> None:
    """The first time, stop as soon as nothing is half done; when asked again, at once.

    Whoever is asked by a group of processes may be asked twice in one moment.
    """
    global _asked
    now, before = time.monotonic(), _asked
    _asked = before or now
    if before is None:
        raise KeyboardInterrupt
    if now - before > SAME_MOMENT_SECONDS:
        os.write(2, f"{SHOW_CURSOR if os.isatty(2) else ''}tidemill: {STOPPED}\n".encode())
        os._exit(1)


if __name__ == "__main__":
    main()
