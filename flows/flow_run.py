"""What every flow run does around its one engine call: name itself, show how far it is, and say how it ended."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from logging import Logger, LoggerAdapter
from typing import TYPE_CHECKING, Any, Protocol

import httpx
from prefect import get_run_logger
from prefect.client.schemas import FlowRun, State
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.states import AwaitingRetry, Cancelled, Completed, Failed

from tidemill.config import Pipeline, load_pipeline, pipeline_of
from tidemill.errors import ConfigError, RunFailed, Stopped, counted
from tidemill.flows.artifacts import Artifacts
from tidemill.flows.due import name_scheduled
from tidemill.flows.failures import failed, in_one_line, record_failure, record_unread, tell_errors_plainly
from tidemill.flows.names import pipeline_resource
from tidemill.flows.progress import Logged, Shown
from tidemill.flows.report import leave_report
from tidemill.flows.stopping import stopping_gently
from tidemill.flows.webhooks import with_webhook
from tidemill.lake import Lake, catalog_exists
from tidemill.lake.runs import finished_at, last_fresh
from tidemill.masking import message_of
from tidemill.pipeline_file import overridden
from tidemill.progress import Progress
from tidemill.reports.alerts import Kind, alert, recovery, staleness
from tidemill.reports.changes import what_changed
from tidemill.running.recording import RunResult
from tidemill.running.run import Run

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

IN_VAIN_SECONDS = 0.1


class Engine(Protocol):
    """A run of the engine, ready to be executed."""

    @property
    def run_id(self) -> str: ...

    def execute(self) -> RunResult: ...


@dataclass
class Here:
    """What a caller in this process hands to the flow and takes from it, beside parameters, which are JSON."""

    pipeline: Pipeline
    progress: Progress
    run: Run | None = None
    """A run that is planned already."""
    result: RunResult | None = None
    server_lost: bool = False

    def lose_server(self, error: httpx.HTTPError) -> None:
        """Go on without the server, and say so once."""
        if not self.server_lost:
            self.server_lost = True
            self.progress.note(
                f"The Prefect server stopped answering ({str(error) or type(error).__name__}). It is not needed: "
                "`tidemill status` tells how it ended."
            )


HERE: ContextVar[Here | None] = ContextVar("HERE", default=None)


@dataclass(frozen=True)
class Surroundings:
    """What the engine is given of the flow run that it runs in."""

    pipeline: Pipeline
    progress: Progress
    flow_run: FlowRun

    @property
    def flow_run_id(self) -> str:
        return str(self.flow_run.id)

    @property
    def deployed(self) -> bool:
        return self.flow_run.deployment_id is not None

    def why(self, otherwise: str) -> str:
        """Who asked for the flow run, if nobody said why."""
        if self.flow_run.auto_scheduled:
            return "schedule"
        creator = self.flow_run.created_by
        return creator.display_value or otherwise if creator and creator.type == "AUTOMATION" else otherwise


def carry_out(
    kind: str,
    given: dict[str, Any] | str,
    overrides: list[str] | None,
    make: Callable[[Surroundings], Engine],
    *,
    afterwards: Callable[[Surroundings], None] | None = None,
) -> RunResult | State[Any]:
    """Make the engine's run and execute it; the flow run ends as it does.

    A run that was stopped because its worker ends waits to be run again; one
    that someone stopped is cancelled. What was committed stays either way.
    """
    context, logger = FlowRunContext.get(), get_run_logger()
    assert context is not None
    assert context.flow_run is not None
    client: SyncPrefectClient = context.client  # type: ignore[assignment]
    flow_run = context.flow_run
    tell_errors_plainly()
    if worker := os.environ.get("PREFECT__WORKER_NAME"):
        os.environ.setdefault("TIDEMILL_WORKER", worker)
    here = HERE.get()
    if here is None:
        try:
            here = Here(read_pipeline(given, overrides or []), Logged(logger))
        except ConfigError as e:
            record_unread(given, kind, flow_run, e, logger)
            return failed(e)
    pipeline = here.pipeline

    def lose_server(error: httpx.HTTPError) -> None:
        here.lose_server(error)
        if flow_run.deployment_id is None:  # Someone waits for this process: what Prefect still asks, it asks in vain.
            client._client.timeout = httpx.Timeout(IN_VAIN_SECONDS)

    artifacts = Artifacts(client, flow_run.id, pipeline, kind, lose_server)
    around = Surroundings(pipeline, Shown(here.progress, artifacts), flow_run)
    teller = Teller(pipeline, client, flow_run, logger) if around.deployed else None
    run = None
    try:
        run = make(around)
        with stopping_gently() if around.deployed else nullcontext():
            here.result = result = run.execute()
        artifacts.result(result)
        if result.state == "done":
            _emit_finished(pipeline, result)
            if around.deployed and kind == "run":
                leave_report(pipeline, artifacts, logger)
            if afterwards is not None:
                afterwards(around)
    except Exception as e:  # noqa: BLE001 — whatever it is, the flow run ends by it.
        if around.deployed:
            run_id, why = run.run_id if run else None, around.why(kind)
            record_failure(pipeline.lake, pipeline.name, kind, flow_run, e, logger, run_id=run_id, why=why)
        if teller:
            teller.failed(message_of(e))
        return failed(e)
    if teller:
        teller.ended(result)
    if flow_run.auto_scheduled and flow_run.deployment_id:
        with suppress(httpx.HTTPError):
            name_scheduled(client, flow_run.deployment_id, kind, pipeline.name, pipeline.schedule.timezone)
    return _state(result, waits=around.deployed and not _cancelling(client, flow_run))


def look_after(
    kind: str,
    given: dict[str, Any] | str,
    overrides: list[str] | None,
    work: Callable[[Pipeline, Logger | LoggerAdapter[Any]], tuple[dict[str, Any], State[Any] | None]],
) -> State[Any] | None:
    """Do for a pipeline what is no run of its table, and show the facts that `work` gives.

    The flow run ends in the state beside them, or by the error of `work`, which
    is recorded where the engine recorded none.
    """
    context, logger = FlowRunContext.get(), get_run_logger()
    assert context is not None
    assert context.flow_run is not None
    flow_run = context.flow_run
    tell_errors_plainly()
    try:
        pipeline = read_pipeline(given, overrides or [])
    except ConfigError as e:
        record_unread(given, kind, flow_run, e, logger)
        return failed(e)

    def refused(error: httpx.HTTPError) -> None:
        logger.warning("The Prefect server does not take artifacts: %s", error)

    artifacts = Artifacts(context.client, flow_run.id, pipeline, kind, refused)  # type: ignore[arg-type]
    began = datetime.now(UTC)
    try:
        facts, state = work(pipeline, logger)
    except Exception as e:  # noqa: BLE001 — whatever it is, the flow run ends by it.
        record_failure(pipeline.lake, pipeline.name, kind, flow_run, e, logger, since=began)
        return failed(e)
    artifacts.facts(facts)
    return state


def read_pipeline(given: dict[str, Any] | str, overrides: list[str]) -> Pipeline:
    if isinstance(given, str):
        return load_pipeline(given, overrides)
    return pipeline_of(overridden(given, overrides), "The parameter pipeline")


def _state(result: RunResult, *, waits: bool) -> State[Any]:
    if result.state == "stopped":
        if message := result.stopped_at_cost:
            return Cancelled(message=message, data=Stopped(message))
        if waits:
            return AwaitingRetry(message="Its worker ended. What was committed stays; it goes on with the next one.")
        message = "Stopped. What was committed stays; run again to go on."
        return Cancelled(message=message, data=Stopped(message))
    if result.state == "failed":
        lines = [*result.notes, *(f"{failure['path']}: {failure['message']}" for failure in result.failures[:5])]
        message = in_one_line("; ".join(lines)) or "The run failed."
        return Failed(message=message, data=RunFailed(message))
    return Completed(message=_summary(result), data=result)


def _summary(result: RunResult) -> str:
    """What a run did, in a line; more is in its artifact and in `_runs`."""
    if not (result.num_shards or result.num_rows_removed or result.num_rewritten):
        return "Up to date: there was nothing to do."
    shards = "1 shard" if result.num_shards == 1 else f"{result.num_shards:,} shards"
    return (
        f"{shards}, {result.num_rows:,} rows, {result.num_quarantined:,} quarantined, "
        f"{result.num_rows_removed:,} removed in {result.seconds:.1f} s."
    )


def _cancelling(client: SyncPrefectClient, flow_run: FlowRun) -> bool:
    state = client.read_flow_run(flow_run.id).state
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def _emit_finished(pipeline: Pipeline, result: RunResult) -> None:
    """Events that others wait for: the next stage for what this one did, an alert for a table that is fresh."""
    resource = pipeline_resource(pipeline.name)
    counts = {"run_id": result.run_id, "num_shards": result.num_shards, "num_rows": result.num_rows}
    if result.kind == "run" or result.num_shards:
        emit_event(f"tidemill.{result.kind}.finished", resource=resource, payload=counts)
    with Lake(pipeline.lake, read_only=True) as lake:
        finished = finished_at(lake.cursor(), result.run_id)
        if finished and finished == last_fresh(lake.cursor(), pipeline.name):
            emit_event("tidemill.pipeline.fresh", resource=resource, payload=counts)


class Teller:
    """Sends the alerts of one flow run that was deployed."""

    def __init__(
        self,
        pipeline: Pipeline,
        client: SyncPrefectClient,
        flow_run: FlowRun,
        logger: Logger | LoggerAdapter[Any],
    ) -> None:
        self._pipeline, self._client, self._flow_run, self._logger = pipeline, client, flow_run, logger

    def ended(self, result: RunResult) -> None:
        with self._whatever_happens():
            self._ended(result)

    def failed(self, message: str, **facts: Any) -> None:
        with self._whatever_happens():
            self._failed(message, **facts)

    @contextmanager
    def _whatever_happens(self) -> Iterator[None]:
        """The run is as it is: that its lake or its server cannot be asked for an alert is told, and that is all."""
        try:
            yield
        except Exception as e:  # noqa: BLE001
            self._logger.warning("No alert could be sent: %s", message_of(e))

    def _ended(self, result: RunResult) -> None:
        facts = {"run_id": result.run_id, "rows": result.num_rows, "shards": result.num_shards}
        changed = self._changed(result)
        if result.state == "failed":
            why = result.notes[0] if result.notes else f"Failed: {counted(len(result.failures), 'file')}."
            self._failed(_joined(why, changed), **facts)
        elif message := result.stopped_at_cost:
            self._send("max_cost", _joined(f"{self._pipeline.name}: {message}", changed), **facts)
        elif result.state == "done" and (recovered := self._recovered(result)):
            self._send("recovered", _joined(recovered, changed), **facts)
        elif changed:
            self._send("changed", f"{self._pipeline.name}: {changed}", **facts)

    def _failed(self, message: str, **facts: Any) -> None:
        self._send("failed", f"{self._pipeline.name} failed: {message}", **facts)
        if stale := self._staleness():
            self._send("stale", stale, **facts)

    def _staleness(self) -> str | None:
        if self._pipeline.alerts.max_age is None or not catalog_exists(self._pipeline.lake):
            return None
        with Lake(self._pipeline.lake, read_only=True) as lake:
            return staleness(lake.cursor(), self._pipeline)

    def _recovered(self, result: RunResult) -> str | None:
        if not self._failed_before():
            return None
        with Lake(self._pipeline.lake, read_only=True) as lake:
            return recovery(lake.cursor(), self._pipeline, result.num_rows)

    def _changed(self, result: RunResult) -> str | None:
        """What the rows that this run committed changed, where somebody is told of it."""
        if self._pipeline.alerts.webhook is None or not result.num_rows or result.kind != "run":
            return None
        with Lake(self._pipeline.lake, read_only=True, scans=True) as lake:
            return what_changed(lake.cursor(), self._pipeline.name, result.revision)

    def _failed_before(self) -> bool:
        """Whether the flow run of this deployment that ended last did not end well."""
        ended = FlowRunFilter.model_validate(
            {
                "deployment_id": {"any_": [self._flow_run.deployment_id]},
                "state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}},
            }
        )
        found = self._client.read_flow_runs(flow_run_filter=ended, sort=FlowRunSort.END_TIME_DESC, limit=1)
        return bool(found and found[0].state and not found[0].state.is_completed())

    def _send(self, kind: Kind, text: str, **facts: Any) -> None:
        if wrong := alert(with_webhook(self._pipeline), kind, text, flow_run_id=str(self._flow_run.id), **facts):
            self._logger.warning(wrong)


def _joined(*sentences: str | None) -> str:
    return " ".join(filter(None, sentences))
