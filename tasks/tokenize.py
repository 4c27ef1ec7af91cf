"""Tokenize a shard's text into the store."""

from prefect import task

from tasks.settings import TASK
from tidemill import stages
from tidemill.stages import Ingested, Tokenized
from tidemill.workspace import Workspace


@task(name="tokenize", **TASK)
def tokenize(workspace: Workspace, ingested: Ingested) -> Tokenized:
    return stages.tokenize(workspace, ingested)
