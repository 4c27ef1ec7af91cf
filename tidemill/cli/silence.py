"""A command that takes more than a moment says what it does, if it has said nothing until then."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tidemill.cli.terminal import printable

MOMENT_SECONDS = 1.5

_waiting: list[threading.Timer] = []


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Say `what` on stderr in a moment, unless the block has ended or said something by then."""
    timer = threading.Timer(MOMENT_SECONDS, _say, [what])
    timer.daemon = True
    _waiting.append(timer)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _waiting.remove(timer)


def break_silence() -> None:
    """To be called by whatever speaks to the user: nothing needs to be said in its place."""
    for timer in _waiting:
        timer.cancel()


def _say(what: str) -> None:
    print(f"{printable(what)} ...", file=sys.stderr, flush=True)  # noqa: T201
