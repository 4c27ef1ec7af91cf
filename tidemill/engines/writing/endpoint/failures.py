"""What becomes of a request that was not answered well. None of these leaves the room: rows fail, or the run ends."""

from __future__ import annotations


class Failure(Exception):
    """`wait_seconds` is how long the server asked us to wait, if it did."""

    def __init__(self, reason: str, *, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.wait_seconds = reason, wait_seconds


class Busy(Failure):
    """The server is at its limit, or is not there: that says nothing of the row, and every request waits."""


class Trouble(Failure):
    """The same request may go well another time: it has so many tries."""


class Mistake(Trouble):
    """So it may; and the server is there, for it answered."""


class Refusal(Failure):
    """This request will never go well; others may."""


class Unusable(Failure):
    """No request will go well until somebody changes something, as the reason says."""


class NotThere(Unusable):
    """The server has nothing at the address."""
