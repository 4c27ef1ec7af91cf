"""Predict a shard's rows into the store."""

from prefect import task

from tasks.settings import TASK
from tidemill import stages
from tidemill.stages import Ingested, Predicted, Tokenized, Workspace


@task(name="infer", **TASK)
def infer(workspace: Workspace, ingested: Ingested, tokenized: Tokenized) -> Predicted:
    return stages.infer(workspace, ingested, tokenized)
