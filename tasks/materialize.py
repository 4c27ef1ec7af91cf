"""Commit shards' predictions to the lake, in one transaction."""

from collections.abc import Sequence

from prefect import task

from tasks.settings import TASK
from tidemill import stages
from tidemill.lake.commit import Outcome
from tidemill.shards import Shard
from tidemill.stages import Held, Predicted
from tidemill.workspace import Workspace


@task(name="materialize", **TASK)
def materialize_one(workspace: Workspace, predicted: Predicted) -> Outcome | Held:
    return stages.materialize_one(workspace, predicted)


@task(name="materialize", **TASK)
def materialize(
    workspace: Workspace,
    predicted: Sequence[Predicted],
    cut: Sequence[tuple[str, Sequence[Shard]]],
    replaces: bool,
) -> Outcome | Held:
    return stages.materialize(workspace, predicted, cut=cut, replaces=replaces)
