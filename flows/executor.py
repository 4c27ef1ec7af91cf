"""The functions of `stages` as Prefect tasks, in threads of the flow's process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prefect import Task
from prefect.context import TagsContext
from prefect.futures import PrefectFuture
from prefect.utilities.annotations import BaseAnnotation, opaque

from tidemill.flows.stopping import tell_when_stopping
from tidemill.progress import Progress
from tidemill.running import stages
from tidemill.running.executor import Call
from tidemill.running.stages.workspace import Workspace
from tidemill.tasks import cut, infer, ingest, materialize, tokenize
from tidemill.tasks.settings import with_retries

TASKS: dict[Call, Task[..., Any]] = {
    stages.cut: cut.cut,
    stages.ingest: ingest.ingest,
    stages.tokenize: tokenize.tokenize,
    stages.infer: infer.infer,
    stages.materialize: materialize.materialize,
}


class Awaited(BaseAnnotation):
    """An input to wait for. Of a future that is given as it is, Prefect also asks its server for the state."""


@dataclass(frozen=True)
class Submitted:
    """A task run, and those whose results it takes.

    A task run whose input failed never starts, and Prefect says only that: so
    the inputs are asked first, which raise what went wrong.
    """

    future: PrefectFuture[Any]
    inputs: list[Submitted] = field(default_factory=list)

    def result(self) -> Any:
        for submitted in self.inputs:
            submitted.result()
        return self.future.result()


class PrefectExecutor:
    """Submits to the flow's task runner, from the flow's own thread."""

    def __init__(self, workspace: Workspace, progress: Progress) -> None:
        self._workspace, self._progress = workspace, progress
        tell_when_stopping(workspace.stop)
        rule: dict[str, Any] = {"retries": workspace.pipeline.limits.retries, "stop": workspace.stop}
        self._tasks = {call: with_retries(task, on_retry=self._count, **rule) for call, task in TASKS.items()}
        self._futures: list[PrefectFuture[Any]] = []
        self.num_retries = 0

    def submit(self, call: Call, label: str, *args: Any, **kwargs: Any) -> Submitted:
        name = f"{self._tasks[call].name} {label}".replace("{", "{{").replace("}", "}}")
        task = self._tasks[call].with_options(task_run_name=name)
        options = {key: opaque(value) for key, value in kwargs.items()}
        # For a task run with tags Prefect asks its server for a slot first, and waits a minute for one that is gone.
        with TagsContext(current_tags=set()):
            future = task.submit(opaque(self._workspace), *[_given(arg) for arg in args], **options)
        self._futures.append(future)
        return Submitted(future, [arg for arg in args if isinstance(arg, Submitted)])

    def close(self, *, cancel: bool) -> None:
        """Wait for every task run. Stages ask the workspace whether to stop, so one that is cancelled ends soon."""
        if cancel:
            self._workspace.stop.set()
        for future in self._futures:
            future.wait()

    def _count(self, task: str, error: BaseException) -> None:
        self.num_retries += 1
        self._progress.retried(task, error)


def _given(arg: Any) -> Any:
    """What Prefect gets for an argument: a future to wait for, else a box that it does not look into."""
    return Awaited(arg.future) if isinstance(arg, Submitted) else opaque(arg)
