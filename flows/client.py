"""The one boundary to the configured Prefect server: every way in which it cannot be used is told with the way out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tidemill.errors import ConfigError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

ANSWER_SECONDS = 10.0
NONE_CONFIGURED = (
    "PREFECT_API_URL names no Prefect server, and a temporary one would forget what is deployed. Start one with "
    "`tidemill up` or `prefect server start`, then: export PREFECT_API_URL=http://127.0.0.1:4200/api"
)
CONFIGURED = "Start it with `tidemill up` or `prefect server start`, or set PREFECT_API_URL to another."


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
    """
    url = server_url()
    if url is None:
        raise ConfigError(NONE_CONFIGURED)
    check_server(url, ANSWER_SECONDS, way_out=CONFIGURED)
    from prefect import get_client

    with get_client(sync_client=True) as client:
        yield client


def check_server(url: str, seconds: float, *, way_out: str) -> None:
    """Raises:
    ConfigError: the server does not answer within `seconds`, or not to us.
    """
    import httpx
    from prefect import get_client
    from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    try:
        with (
            temporary_settings({PREFECT_API_REQUEST_TIMEOUT: seconds, PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True) as client,
        ):
            client.api_version()
            client.request("POST", "/work_pools/count", json={}).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as e:
        if isinstance(e, httpx.HTTPStatusError) and e.response.status_code in (401, 403):
            raise ConfigError(
                f"The Prefect server at {url} wants credentials. Set PREFECT_API_AUTH_STRING to what it was started "
                "with as PREFECT_SERVER_API_AUTH_STRING, such as user:password."
            ) from e
        raise ConfigError(f"The Prefect server at {url} does not answer: {e or type(e).__name__}. {way_out}") from e
