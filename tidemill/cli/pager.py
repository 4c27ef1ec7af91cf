"""Long results on a terminal, through the user's pager."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from contextlib import closing, suppress
from itertools import chain

from tidemill.cli.printers import Pieces
from tidemill.cli.query import for_terminal, write_out


def page_out(pieces: Pieces) -> None:
    """Write to stdout, through the pager what takes more lines than the terminal has.

    Who leaves the pager before the end cancels the query.
    """
    with closing(for_terminal(pieces)) as shown:
        first, words = _screenful(shown), pager()
        whole = (piece for piece in chain(first, shown))
        if words and b"".join(first).count(b"\n") >= shutil.get_terminal_size().lines:
            _page(words, whole)
        else:
            write_out(whole)


def _screenful(pieces: Pieces) -> list[bytes]:
    """The first pieces, as many as fill the terminal."""
    found, left = [], shutil.get_terminal_size().lines
    for piece in pieces:
        found.append(piece)
        left -= piece.count(b"\n")
        if left <= 0:
            break
    return found


def pager() -> list[str] | None:
    """What `PAGER` says, or less; None where there is none, or `PAGER` is empty."""
    words = shlex.split(os.environ.get("PAGER", "less"))
    return words if words and shutil.which(words[0]) else None


def _page(words: list[str], pieces: Pieces) -> None:
    sys.stdout.flush()
    with subprocess.Popen(words, stdin=subprocess.PIPE, env={"LESS": "FRX", **os.environ}) as process:
        assert process.stdin is not None
        try:
            for piece in pieces:
                process.stdin.write(piece)
        except BrokenPipeError:
            pass
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()
            _wait(process)


def _wait(process: subprocess.Popen[bytes]) -> None:
    """For the user to leave the pager, for which Ctrl-C has a meaning of its own."""
    while True:
        try:
            process.wait()
            return
        except KeyboardInterrupt:
            continue
