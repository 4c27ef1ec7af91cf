"""The one boundary to PostgreSQL's sessions: how they are begun, and what it means that one is lost."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from tidemill.errors import LakeError, LakeUnavailable, TidemillError
from tidemill.retry import waiting_for

RECONNECT_SECONDS = 30.0
"""How long a server that was there may be away: one that restarts is back by then."""
CONNECT_SECONDS = 10
BOUNDS = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
POLL_SECONDS = 0.2
_LOST = (
    "server closed the connection",
    "terminating connection",
    "the connection is closed",
    "the connection is lost",
    "no connection to the server",
    "connection to server",
    "unable to connect to postgres",
    "failed to resolve host",
    "connection refused",
    "connection reset",
    "connection timed out",
    "connection timeout expired",
    "broken pipe",
    "the database system is",
    "ssl connection has been closed",
    "ssl syscall error",
    # All that DuckDB tells of a commit whose connection was lost.
    'failed to execute query "rollback"',
)
_WRONG = (
    "does not exist",
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "permission denied",
)


def is_lost(error: BaseException) -> bool:
    """Whether an error of psycopg's or DuckDB's says that the server is away, or has let go of a session."""
    text = str(error).lower()
    return any(sign in text for sign in _LOST) and not any(sign in text for sign in _WRONG)


def meaning(error: BaseException, shown: str) -> TidemillError:
    """What an error of a session's is to the user; `shown` is the catalog without its password."""
    if is_lost(error):
        return LakeUnavailable(
            f"The lake's catalog {shown} does not answer: {_line(error)}. What was committed stays. Give the same "
            "command again when PostgreSQL is there, or correct lake.catalog."
        )
    return LakeError(f"PostgreSQL refuses {shown}: {_line(error)}. Check lake.catalog.")


def connect(conninfo: str) -> Any:
    """A connection that says whose it is, and that neither begins nor answers for ever where the network is cut."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    own: dict[str, Any] = {"application_name": f"tidemill, process {os.getpid()} on {socket.gethostname()}", **BOUNDS}
    return psycopg.connect(make_conninfo(**{**own, **conninfo_to_dict(conninfo)}), autocommit=True)


class Session:
    """One session, begun when it is first used. `shown` is the catalog without its password."""

    def __init__(self, conninfo: str, shown: str) -> None:
        self._conninfo, self._shown = conninfo, shown
        self._connection: Any = None
        self._is_patient = False
        """Whether the server was there and has not been given up since."""

    @property
    def connection(self) -> Any:
        """The connection as it is; None if there is none that is open."""
        return None if self._connection is None or self._connection.closed else self._connection

    def connected(self) -> tuple[Any, bool]:
        """The connection, and whether it is a new one, which holds no locks yet.

        Raises:
            LakeUnavailable: the server is away; one that was there before is waited for.
            LakeError: it does not let us in.
        """
        if self.connection is not None:
            return self.connection, False
        patience = RECONNECT_SECONDS if self._is_patient else 0.0
        deadline = time.monotonic() + patience
        with waiting_for(f"PostgreSQL at {self._shown}, for up to {max(patience, CONNECT_SECONDS):g} s"):
            while (found := self._connect(last=time.monotonic() >= deadline)) is None:
                time.sleep(POLL_SECONDS)
        self._connection, self._is_patient = found, True
        return found, True

    def _connect(self, *, last: bool) -> Any:
        import psycopg

        try:
            return connect(self._conninfo)
        except psycopg.Error as e:
            if last or not is_lost(e):
                self._is_patient = False
                raise meaning(e, self._shown) from e
            return None

    def lose(self) -> None:
        """Let go of the connection; what it held is free."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def held_lock(connection: Any, key: int) -> str:
    """Who holds an advisory lock, to be added to a message; empty if nobody does any more."""
    holder = connection.execute(
        "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' "
        "AND granted AND objsubid = 1 AND (classid::BIGINT << 32) + objid::BIGINT = %s",
        [key],
    ).fetchone()
    return f", held by {holder[0]}" if holder else ""


def _line(error: BaseException) -> str:
    """What of an error says what is wrong, without the address that DuckDB puts before it."""
    lines = [line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if any(sign in line.lower() for sign in _LOST)), lines[0] if lines else "")
    return told[max(0, told.lower().find("connection to server")) :] or type(error).__name__
