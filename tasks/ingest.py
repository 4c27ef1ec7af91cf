"""Read a shard's rows into the store."""

from prefect import task

from tasks.settings import TASK
from tidemill import stages
from tidemill.lake.requests import Request
from tidemill.stages import Ingested
from tidemill.workspace import Workspace


@task(name="ingest", **TASK)
def ingest(workspace: Workspace, request: Request) -> Ingested:
    return stages.ingest(workspace, request)
