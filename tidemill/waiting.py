"""Nothing waits in silence: a wait that lasts says once what it waits for.

The message goes to the logger `tidemill`, which a command line shows on stderr,
unless whoever waits has somebody to tell it to.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUIET_SECONDS = 3.0
"""How long a wait may last before it is told."""

logger = logging.getLogger("tidemill")


@contextmanager
def waiting_for(what: str | Callable[[], str], tell: Callable[[str], object] = logger.warning) -> Iterator[None]:
    """Tell `what` is waited for, once, if the block lasts longer than `QUIET_SECONDS`.

    A callable is asked at that moment, in another thread: so it may say how far
    the wait is. The bound of the wait is the block's own; the message should name it.
    """
    timer = threading.Timer(QUIET_SECONDS, lambda: tell(f"waiting for {what if isinstance(what, str) else what()}"))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
