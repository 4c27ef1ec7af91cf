"""Tokenize shards' texts into the store."""

from collections.abc import Sequence

from prefect import task

from tidemill.running import stages
from tidemill.running.stages import Ingested, Tokenized
from tidemill.running.stages.workspace import Workspace
from tidemill.tasks.settings import TASK


@task(name="tokenize", **TASK)
def tokenize(workspace: Workspace, ingested: Sequence[Ingested]) -> list[Tokenized]:
    return stages.tokenize(workspace, ingested)
