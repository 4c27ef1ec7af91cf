"""Commit shards' predictions to the lake, in one transaction."""

from collections.abc import Sequence

from prefect import task

from tidemill.results.commit import Outcome
from tidemill.running import stages
from tidemill.running.stages import Held, Predicted
from tidemill.running.stages.workspace import Workspace
from tidemill.shards import Shard
from tidemill.tasks.settings import TASK


@task(name="materialize", **TASK)
def materialize(
    workspace: Workspace,
    predicted: Sequence[Predicted],
    cut: Sequence[tuple[str, Sequence[Shard]]] | None = None,
    replaces: bool = False,
) -> Outcome | Held:
    return stages.materialize(workspace, predicted, cut=cut or (), replaces=replaces)
