"""Predict a shard's rows into the store."""

from prefect import task

from tasks.settings import TASK
from tidemill import stages
from tidemill.stages import Predicted, Tokenized
from tidemill.workspace import Workspace


@task(name="infer", **TASK)
def infer(workspace: Workspace, tokenized: Tokenized) -> Predicted:
    return stages.infer(workspace, tokenized)
