"""How much a service takes on at one time."""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """What one client, or all of them together, may ask.

    A call is what a client asks in one HTTP request. `queue_rows` may wait for the model, of all calls; `call_rows` and
    `body_bytes` are of one. A batch that is not full waits `wait_seconds` for company. A call that has no answer
    after `deadline_seconds` gets none.
    """

    queue_rows: int = 2_048
    call_rows: int = 1_000
    body_bytes: int = 4 * 2**20
    wait_seconds: float = 0.002
    deadline_seconds: float = 30.0
    connections: int = 1_000
    header_seconds: float = 10.0
    """A connection that has not said within this what it wants is closed."""
    body_seconds: float = 20.0
    """In which a body has to come."""
    stop_seconds: float = 30.0
    """How long the calls that a service has may take when it is asked to stop."""
    linger_seconds: float = 1.0
    """How long it still takes new ones then, each with the word that the connection ends."""

    def __post_init__(self) -> None:
        if self.call_rows > self.queue_rows:
            raise ConfigError(
                f"--max-rows {self.call_rows} rows of one request do not fit --queue {self.queue_rows}. Raise --queue, "
                "or lower --max-rows."
            )
