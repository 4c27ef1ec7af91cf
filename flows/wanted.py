"""What a pipeline is to be at a Prefect server, and why it cannot: what is known without asking the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect.client.schemas.schedules import CronSchedule

from tidemill.config import SETTLED, STAGES, Pipeline
from tidemill.errors import ConfigError
from tidemill.flows.automations import HEARTBEAT_SECONDS, runs_by_stages
from tidemill.flows.names import ENTRYPOINTS, TAG, deployment_name, deployment_title, pipeline_tag
from tidemill.flows.webhooks import kept_webhook
from tidemill.masking import split_conninfo
from tidemill.reports.alerts import webhook_url
from tidemill.times.cron import next_due, sentence

WHAT = {
    "run": "the whole chain of {}: ingest, tokenize, infer and materialize",
    "ingest": "the first stage of {}: reads what is new",
    "tokenize": "the second stage of {}: makes token ids",
    "infer": "the third stage of {}: runs the model",
    "materialize": "the last stage of {}: commits to the table",
    "backfill": "one tranche of a backfill of {}",
    "gc": "housekeeping for the lake and the store of {}",
    "retrain": "a model that learns from new marks on rows of {}",
}


@dataclass(frozen=True)
class Wanted:
    """One deployment, as it should be."""

    kind: str
    pipeline: Pipeline
    file: Path

    @property
    def name(self) -> str:
        return deployment_name(self.kind, self.pipeline.name)

    @property
    def title(self) -> str:
        return deployment_title(self.kind, self.pipeline.name)

    @property
    def pool(self) -> str:
        own = getattr(self.pipeline.schedule, self.kind, None)
        return (own.pool if own else None) or self.pipeline.schedule.pool

    @property
    def limit(self) -> int | None:
        limit: int | None = self._schedule.limit
        return limit

    @property
    def schedule(self) -> CronSchedule | None:
        return CronSchedule(cron=self._cron, timezone=self.pipeline.schedule.timezone) if self._cron else None

    @property
    def when(self) -> str:
        """When it runs, as a sentence."""
        if self._cron:
            told = sentence(self._cron, self.pipeline.schedule.timezone)
        elif self.kind in STAGES[1:] and runs_by_stages(self.pipeline):
            told = f"after {STAGES[STAGES.index(self.kind) - 1]}"
        else:
            told = "when `tidemill backfill` asks" if self.kind == "backfill" else "when someone starts it"
        return told[0].upper() + told[1:]

    @property
    def origin(self) -> str:
        """What tells it from a deployment of the same name that another pipeline file made."""
        return f"Deployed from {self.file} by `tidemill deploy`."

    def next_due(self) -> datetime | None:
        """When its cron comes next, in its time zone."""
        if self._cron is None:
            return None
        return next_due(self._cron, self.pipeline.schedule.timezone, datetime.now(UTC))

    @property
    def _cron(self) -> str | None:
        cron: str | None = getattr(self._schedule, "cron", None)
        return cron

    @property
    def _parameter(self) -> dict[str, Any]:
        """The pipeline, less what is the server's matter: a new cron concerns one deployment and not all."""
        facts = self.pipeline.model_dump(mode="json")
        facts["schedule"] = {key: facts["schedule"][key] for key in ("timezone", "on_model_change", "max_cost")}
        if self.kind == "retrain":
            facts["schedule"]["retrain"] = self.pipeline.schedule.retrain.model_dump(mode="json")
        facts["alerts"]["webhook"] = kept_webhook(self.pipeline)
        return facts

    @property
    def _schedule(self) -> Any:
        return self.pipeline.schedule if self.kind == "run" else getattr(self.pipeline.schedule, self.kind)

    @property
    def fields(self) -> dict[str, Any]:
        """What the server keeps of it, schedule and limit aside."""
        return {
            "description": f"{self.when}, {WHAT[self.kind].format(self.pipeline.name)}.\n\n{self.origin}",
            "parameters": {"pipeline": self._parameter},
            "tags": [TAG, pipeline_tag(self.pipeline.name)],
            "work_pool_name": self.pool,
            "entrypoint": ENTRYPOINTS[self.kind],
            "job_variables": {"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}},
        }


def kinds_of(pipeline: Pipeline) -> list[str]:
    """What is deployed of a pipeline; training is of those that name a training file."""
    return [kind for kind in ENTRYPOINTS if kind != "retrain" or pipeline.schedule.retrain.file]


def all_wanted(pipelines: Sequence[tuple[Pipeline, Path]]) -> list[Wanted]:
    """Every deployment of some pipelines.

    Raises:
        ConfigError: they cannot be deployed.
    """
    resolved = [(resolve(pipeline), file.absolute()) for pipeline, file in pipelines]
    _refuse_same_names([pipeline.name for pipeline, _ in resolved])
    found = []
    for pipeline, file in resolved:
        mine = [Wanted(kind, pipeline, file) for kind in kinds_of(pipeline)]
        _refuse_password(pipeline)
        _refuse_several_machines(pipeline, mine)
        if keeps_webhook(pipeline):
            webhook_url(pipeline)
        found += mine
    return found


def server_alerts(pipeline: Pipeline) -> bool:
    """Whether the server itself is to send alerts."""
    return pipeline.alerts.webhook is not None and bool({"stale", "failed"} & set(pipeline.alerts.on))


def keeps_webhook(pipeline: Pipeline) -> bool:
    """Whether the server is to keep the address of the alerts: to send some itself, or because it is no one else's."""
    return server_alerts(pipeline) or kept_webhook(pipeline) != pipeline.alerts.webhook


def resolve(pipeline: Pipeline) -> Pipeline:
    """The pipeline as it means the same in any folder and environment: the defaults of lake and store are absolute."""
    raw = pipeline.model_dump(mode="json")
    kind, _, where = pipeline.lake.catalog.partition(":")
    if kind == "sqlite":
        raw["lake"]["catalog"] = f"sqlite:{Path(where).absolute()}"
    raw["lake"]["data"] = _absolute(pipeline.lake.data)
    raw["store"]["path"] = _absolute(pipeline.store.path)
    if (file := pipeline.schedule.retrain.file) is not None:
        raw["schedule"]["retrain"]["file"] = _absolute(file)
    return Pipeline.model_validate(raw, context=SETTLED)


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())


def _refuse_same_names(names: Sequence[str]) -> None:
    if several := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(
            f"Several of these pipeline files have name = {several[0]!r}, and a deployment has one. "
            "Give each pipeline a name of its own."
        )


def _refuse_password(pipeline: Pipeline) -> None:
    kind, _, where = pipeline.lake.catalog.partition(":")
    try:
        secret = split_conninfo(where)[1] if kind == "postgres" else {}
    except ValueError as e:
        raise ConfigError(f"{pipeline.name}: lake.catalog = postgres:*** names no PostgreSQL: {e}.") from None
    if secret:
        raise ConfigError(
            f"{pipeline.name}: lake.catalog holds a password, which Prefect would store and show. Take it out, and "
            "give it to the workers as PGPASSWORD, or in a file that PGPASSFILE names."
        )


def _refuse_several_machines(pipeline: Pipeline, wanted: Sequence[Wanted]) -> None:
    """Several pools may be several machines, which a folder of one of them does not reach."""
    if pipeline.store.shared:
        return
    stages = {one.pool for one in wanted if one.kind in STAGES}
    if len(stages) > 1 and "://" not in pipeline.store.path:
        raise ConfigError(
            f"{pipeline.name}: its stages run in the pools {', '.join(sorted(stages))}, and store.path = "
            f"{pipeline.store.path} is a folder of one machine. Set store.path to s3://bucket/prefix, or store.shared "
            "= true if all their workers see this folder."
        )
    pools = {one.pool for one in wanted}
    if len(pools) > 1 and pipeline.lake.catalog.startswith("sqlite:"):
        raise ConfigError(
            f"{pipeline.name}: it runs in the pools {', '.join(sorted(pools))}, and a SQLite catalog is for one "
            "machine. Set lake.catalog to postgres:host=... dbname=..., or store.shared = true if all their workers "
            "run on this machine."
        )
