"""Predict shards' rows into the store."""

from collections.abc import Sequence

from prefect import task

from tidemill.running import stages
from tidemill.running.stages import Predicted, Tokenized
from tidemill.running.stages.workspace import Workspace
from tidemill.tasks.settings import TASK


@task(name="infer", **TASK)
def infer(workspace: Workspace, tokenized: Sequence[Tokenized]) -> list[Predicted]:
    return stages.infer(workspace, tokenized)
