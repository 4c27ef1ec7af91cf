"""Read text files on to their next shards. Their rows wait in the readers for `ingest`, which writes them.

A task by itself, because it is where a text file is read: what the source does
wrong shows here, and is tried again here.
"""

from collections.abc import Collection

from prefect import task

from tidemill.running import stages
from tidemill.running.stages import Reading
from tidemill.running.stages.workspace import Workspace
from tidemill.tasks.settings import TASK


@task(name="cut", **TASK)
def cut(workspace: Workspace, reading: Reading, done: Collection[str]) -> None:
    stages.cut(workspace, reading, done)
