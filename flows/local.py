"""`tidemill run`: the flow, here and now, at the configured Prefect server or a temporary one."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tidemill.config import Pipeline
from tidemill.errors import RunFailed
from tidemill.flows.client import check_configured, check_server, reaching, server_url
from tidemill.flows.names import TAG, pipeline_tag
from tidemill.flows.server import temporary_server
from tidemill.masking import shown_setting
from tidemill.progress import Progress
from tidemill.retry import waiting_for
from tidemill.running.recording import RunResult
from tidemill.running.run import Run

if TYPE_CHECKING:
    from tidemill.flows.flow_run import Here

START_SECONDS = 120.0
DRAIN_SECONDS = 10.0
OF_PREFECT = ("prefect", "EventsWorker", "APILogWorker")
"""The loggers that Prefect names so."""
LEFT_BEHIND = threading.Event()
"""Set where threads of Prefect's still wait for a server: the process is not to wait for them."""
CONFIGURED = "Start it, set PREFECT_API_URL to another, unset it to get a temporary one, or run with --direct."
TEMPORARY = "It was to serve this run only. Set PREFECT_API_URL to one that runs, or run with --direct."


def run_under_prefect(
    pipeline: Pipeline, *, yes: bool = False, progress: Progress, run: Run | None = None
) -> RunResult:
    """Run the flow in this process and thread; `run` is one that is planned already.

    Raises:
        ConfigError: Prefect is not installed, or its configured server does not answer.
        TidemillError: whatever the run itself raises.
    """
    if url := server_url():
        with quietly(url):
            check_configured(url, way_out=CONFIGURED)
            return _run_flow(pipeline, yes, progress, run)
    progress.doing("starting Prefect's temporary server")
    with temporary_server() as server, quietly(server.url, password=server.password):
        with waiting_for(f"Prefect's temporary server, {START_SECONDS:.0f} s at most", progress.note):
            import tidemill.flows.run  # noqa: F401  # And with it all that the run needs, while the server starts.

            check_server(server.url, START_SECONDS, way_out=TEMPORARY)
        return _run_flow(pipeline, yes, progress, run)


def _run_flow(pipeline: Pipeline, yes: bool, progress: Progress, run: Run | None) -> RunResult:
    from tidemill.flows.flow_run import Here
    from tidemill.flows.run import run_pipeline

    here = Here(pipeline, progress, run)
    return run_here(here, lambda: run_pipeline(parameter(pipeline), yes=yes, return_state=True))


def run_here(here: Here, flow: Callable[[], Any]) -> RunResult:
    """Call a flow in this process and thread, with what it needs of the caller."""
    import httpx
    from prefect import tags

    from tidemill.flows.flow_run import HERE

    token = HERE.set(here)
    try:
        with tags(TAG, pipeline_tag(here.pipeline.name)):
            state = flow()
        if here.result is None:
            state.result()
    except httpx.HTTPError as e:
        if here.result is None:
            raise RunFailed(f"The Prefect server stopped answering: {e}. Run again, or with --direct.") from e
        here.lose_server(e)
    finally:
        HERE.reset(token)
        _part(from_lost_server=here.server_lost)
    assert here.result is not None
    return here.result


def parameter(pipeline: Pipeline) -> dict[str, Any]:
    """The pipeline as Prefect stores and shows it: without secrets."""
    shown: dict[str, Any] = shown_setting("", pipeline.model_dump(mode="json", exclude_unset=True))
    return shown


@contextmanager
def quietly(url: str, *, password: str | None = None) -> Iterator[None]:
    """Talk to the server at `url`, and keep the terminal for the run's own progress."""
    with _quiet_console(), reaching(url, password=password), _settings():
        yield


@contextmanager
def _settings() -> Iterator[None]:
    """Without heartbeats, whose thread takes a second to end: a terminal sees for itself when its run is gone."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def _part(*, from_lost_server: bool) -> None:
    """Send what is still queued for the server, which may be gone afterwards; what it does not take in time is left.

    Then, and after Ctrl-C, Prefect's threads would keep the process: it asks seven
    seconds for each event, and waits for all of them when the interpreter ends.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    LEFT_BEHIND.set()
    if from_lost_server:
        return
    events: Any = EventsWorker.drain_all(timeout=DRAIN_SECONDS, at_exit=False)
    logs: Any = APILogWorker.drain_all(timeout=DRAIN_SECONDS, at_exit=False)
    if not events.not_done and not logs.not_done:
        LEFT_BEHIND.clear()


@contextmanager
def _quiet_console() -> Iterator[None]:
    """Keep Prefect's log lines from the terminal, unless its user asked for them; its server gets them all."""
    import prefect.main  # noqa: F401  # Sets up logging.
    from prefect.logging.handlers import PrefectConsoleHandler

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return "PREFECT_LOGGING_LEVEL" in os.environ or not record.name.startswith(OF_PREFECT)

    consoles = [
        *(handler for handler in logging.getLogger().handlers if isinstance(handler, PrefectConsoleHandler)),
        *logging.getLogger("prefect._internal").handlers,
    ]
    for console in consoles:
        console.addFilter(from_elsewhere)
    # Where it is true, Prefect writes to stderr itself what it could not send to its server, and its threads that are
    # left behind go on sending.
    raise_exceptions, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        if not LEFT_BEHIND.is_set():
            logging.raiseExceptions = raise_exceptions
        for console in consoles:
            console.removeFilter(from_elsewhere)
