"""Read a text file on to its next shard. Its rows wait in the reader for `ingest`, which writes them.

A task by itself, because it is where a text file is read: what the source does
wrong shows here, and is tried again here.
"""

from prefect import task

from tidemill.lake.ledger import DoneShard
from tidemill.lake.requests import Request
from tidemill.running import stages
from tidemill.running.stages import Cutting
from tidemill.running.workspace import Workspace
from tidemill.shards import Shard
from tidemill.tasks.settings import TASK


@task(name="cut", **TASK)
def cut_next(workspace: Workspace, cutting: Cutting, done: dict[str, DoneShard]) -> Request | Shard | None:
    return stages.cut_next(workspace, cutting, done)
