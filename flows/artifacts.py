"""What a flow run leaves to be seen at the server: how far it is, what it did, where the data lies; no text of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

from tidemill.config import Pipeline
from tidemill.lake import Lake, catalog_exists
from tidemill.lake.ledger import seconds_by_stage
from tidemill.masking import shown_catalog

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from tidemill.running.recording import RunResult

T = TypeVar("T")


class Artifacts:
    """The artifacts of one flow run. That a server does not take them is told once, and no more are sent."""

    def __init__(
        self,
        client: SyncPrefectClient,
        flow_run_id: UUID,
        pipeline: Pipeline,
        kind: str,
        refused: Callable[[httpx.HTTPError], None],
    ) -> None:
        self._client, self._flow_run_id, self._refused = client, flow_run_id, refused
        self._taken = True
        self._key = f"{pipeline.name.replace('_', '-')}-{kind}"
        self._pipeline = pipeline
        self._progress = self._create("progress", "progress", 0.0, "Share of the rows that are committed.")
        self._create("data", "markdown", _where(pipeline), "Where the data lies.")

    def progress(self, percent: float) -> None:
        if self._progress is not None:
            progress, data = self._progress, ArtifactUpdate(data=percent)
            self._send(lambda: self._client.update_artifact(progress, data))

    def result(self, result: RunResult) -> None:
        if result.state == "done":
            self.progress(100.0)
        self.facts(_facts(self._pipeline, result))

    def report(self, markdown: str) -> None:
        self._create("report", "markdown", markdown, "The report's main pictures, and where the whole page is.")

    def facts(self, facts: dict[str, Any]) -> None:
        rows = [f"| {name.replace('_', ' ')} | {_shown(value)} |" for name, value in facts.items()]
        self._create("result", "markdown", "\n".join(["| | |", "|---|---|", *rows]), "What the run did.")

    def _create(self, name: str, kind: str, data: Any, description: str) -> UUID | None:
        artifact = ArtifactCreate(
            key=f"{self._key}-{name}", type=kind, data=data, description=description, flow_run_id=self._flow_run_id
        )
        created = self._send(lambda: self._client.create_artifact(artifact))
        return None if created is None else created.id

    def _send(self, call: Callable[[], T]) -> T | None:
        if not self._taken:
            return None
        try:
            return call()
        except httpx.HTTPError as e:
            self._taken = False
            self._refused(e)
            return None


def _where(pipeline: Pipeline) -> str:
    """No link: a browser opens neither a folder of another machine nor an address of S3's."""
    catalog = shown_catalog(pipeline.lake.catalog)
    return (
        f"The table `{pipeline.name}` is in the lake `{catalog}`, and its Parquet files in `{pipeline.lake.data}`.\n\n"
        f'```\ntidemill sql "{catalog}" "SELECT * FROM {pipeline.name} LIMIT 10"\n```'
    )


def _facts(pipeline: Pipeline, result: RunResult) -> dict[str, Any]:
    busy = _seconds_by_stage(pipeline, result.run_id)
    computing = busy.get("tokenize_seconds", 0.0) + busy.get("infer_seconds", 0.0)
    facts = {
        "state": result.state,
        "table": result.table,
        "dataset_revision": result.revision,
        "shards": result.num_shards,
        "copied": result.num_copied,
        "rows": result.num_rows,
        "quarantined": result.num_quarantined,
        "removed": result.num_rows_removed,
        "tokens": result.num_tokens,
        "new_tokens": result.num_new_tokens,
        "retries": result.num_retries,
        "failures": len(result.failures),
        "seconds": result.seconds,
        **busy,
        "tokens_per_second": result.num_tokens / computing if computing else None,
        "cost": None if result.cost is None else f"{result.cost:.4f} {result.currency}",
        "run_id": result.run_id,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _seconds_by_stage(pipeline: Pipeline, run_id: str) -> dict[str, float]:
    if not catalog_exists(pipeline.lake):
        return {}
    with Lake(pipeline.lake, read_only=True) as lake:
        return seconds_by_stage(lake.cursor(), run_id)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
