"""The one boundary to the configured Prefect server: every way in which it cannot be used is told with the way out."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tidemill.errors import ConfigError, RunFailed
from tidemill.flows import stack
from tidemill.flows.names import LOOPBACK
from tidemill.flows.password import password_file, read_password
from tidemill.places import home
from tidemill.retry import waiting_for

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

ANSWER_SECONDS = 10.0
"""For an answer in the middle of a run, which then goes on without the server."""
BUSY_SECONDS = 30.0
"""For an answer without which a command cannot go on: a server that starts, or that shares its cores, is late."""
NONE_CONFIGURED = (
    "PREFECT_API_URL names no Prefect server, and a temporary one would forget what is deployed. Start one with "
    "`tidemill up` or `prefect server start`, then: export PREFECT_API_URL=http://127.0.0.1:4200/api"
)
CONFIGURED = (
    "PREFECT_API_URL names it: start it with `tidemill up` or `prefect server start`, or set the variable to another."
)


def server_url() -> str | None:
    """The address of the configured server.

    Raises:
        ConfigError: Prefect is not installed.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")  # Else Prefect prints a notice on the user's terminal at first use.
    try:
        from prefect.settings import get_current_settings
    except ModuleNotFoundError as e:
        raise ConfigError("Prefect is not installed. pip install prefect, or run with --direct.") from e
    return get_current_settings().api.url


@contextmanager
def configured_server() -> Iterator[SyncPrefectClient]:
    """A client of the configured server, which answers.

    Raises:
        ConfigError: none is configured, or it does not answer, or it wants credentials.
        RunFailed: it stopped answering meanwhile.
    """
    url = server_url()
    if url is None:
        raise ConfigError(NONE_CONFIGURED)
    with reaching(url, seconds=BUSY_SECONDS):
        check_configured(url, way_out=CONFIGURED)
        import httpx
        from prefect import get_client

        try:
            with get_client(sync_client=True) as client:
                yield client
        except httpx.HTTPError as e:
            raise RunFailed(_told(e, url, "The same command goes on from there.")) from e


@contextmanager
def reaching(url: str, *, password: str | None = None, seconds: float = ANSWER_SECONDS) -> Iterator[None]:
    """Let Prefect's clients ask the server at `url`; the one that `tidemill up` started, with its password.

    Someone waits at a terminal: each request is tried twice, and by default six times for a minute each.
    """
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_API_URL,
        PREFECT_CLIENT_MAX_RETRIES,
        temporary_settings,
    )

    settings = {PREFECT_API_URL: url, PREFECT_API_REQUEST_TIMEOUT: seconds, PREFECT_CLIENT_MAX_RETRIES: 1}
    if known := password or PREFECT_API_AUTH_STRING.value() or _password_of(url):
        settings[PREFECT_API_AUTH_STRING] = known
    with temporary_settings(settings):
        yield


def _password_of(url: str) -> str | None:
    """The password of this folder's stack, if `url` is where it answers: nobody else is told."""
    try:
        asked = urlsplit(url)
        found = stack.running(home())
        its_own = found is not None and asked.hostname in LOOPBACK and asked.port == found.port
    except ValueError:  # No address; whoever asks there is told so.
        return None
    return read_password(home()) if its_own and password_file(home()).exists() else None


def check_configured(url: str, *, way_out: str) -> None:
    """Raises:
    ConfigError: no Prefect server answers soon, or not to us.
    """
    with waiting_for(f"the Prefect server at {url}, {BUSY_SECONDS:.0f} s at most"):
        check_server(url, BUSY_SECONDS, way_out=way_out)


def check_server(url: str, seconds: float, *, way_out: str) -> None:
    """Raises:
    ConfigError: no Prefect server answers within `seconds`, or not to us.
    """
    answers: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    # In a thread of its own: httpx bounds each read, and so never ends with a server that sends a byte now and then.
    context = copy_context()
    threading.Thread(target=lambda: answers.put(context.run(_ask, seconds)), daemon=True).start()
    try:
        error = answers.get(timeout=seconds)
    except queue.Empty:
        raise ConfigError(f"The Prefect server at {url} did not answer within {seconds:.0f} s. {way_out}") from None
    if error is not None:
        raise ConfigError(_told(error, url, way_out)) from error


def _ask(seconds: float) -> Exception | None:
    """What goes wrong when the server is asked something that needs credentials."""
    from prefect import get_client
    from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    try:
        with (
            temporary_settings({PREFECT_API_REQUEST_TIMEOUT: seconds, PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True) as client,
        ):
            client.api_version()
            client.request("POST", "/work_pools/count", json={}).raise_for_status()
    except Exception as e:  # noqa: BLE001 — whatever answers there may be no Prefect server.
        return e
    return None


def _told(error: Exception, url: str, way_out: str) -> str:
    import httpx

    said = str(error).rstrip(".") or type(error).__name__
    if isinstance(error, httpx.HTTPStatusError):
        answered = f"{error.response.status_code} to {error.request.method} {error.request.url.path}"
        if error.response.status_code in (401, 403):
            return (
                f"The Prefect server at {url} wants credentials: it answers {answered}. Set PREFECT_API_AUTH_STRING to "
                "what it was started with as PREFECT_SERVER_API_AUTH_STRING, such as user:password. For one that "
                "`tidemill up` started, set TIDEMILL_HOME to its folder."
            )
        return f"The Prefect server at {url} answers {answered}. {way_out}"
    if isinstance(error, httpx.HTTPError | httpx.InvalidURL):
        return f"The Prefect server at {url} does not answer: {said}. {way_out}"
    return f"What answers at {url} is not a Prefect server ({said}). {way_out}"
