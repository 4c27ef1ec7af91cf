"""Read a shard's rows into the store."""

from prefect import task

from tasks.settings import TASK
from tidemill import stages
from tidemill.stages import Ingested, Request, Workspace


@task(name="ingest", **TASK)
def ingest(workspace: Workspace, request: Request) -> Ingested:
    return stages.ingest(workspace, request)
