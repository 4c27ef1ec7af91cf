"""Read shards' rows into the store."""

from collections.abc import Sequence

from prefect import task

from tidemill.lake.requests import Request
from tidemill.running import stages
from tidemill.running.stages import Ingested
from tidemill.running.stages.workspace import Workspace
from tidemill.tasks.settings import TASK


@task(name="ingest", **TASK)
def ingest(workspace: Workspace, requests: Sequence[Request]) -> list[Ingested]:
    return stages.ingest(workspace, requests)
