"""Who runs the steps. The engine asks by name and gets a future; threads of this process are one answer."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from tidemill.progress import Progress
from tidemill.retry import retrying
from tidemill.running import stages
from tidemill.running.workspace import Workspace


class Future(Protocol):
    """The part of a future that the run needs; Prefect's and the standard library's have it."""

    def result(self) -> Any: ...


class Executor(Protocol):
    """Runs steps of `stages` by name. Arguments that are futures are waited for; retryable errors are retried."""

    def submit(self, step: str, label: str, *args: Any, **kwargs: Any) -> Future: ...

    def close(self, *, cancel: bool) -> None: ...

    @property
    def num_retries(self) -> int: ...


class ThreadExecutor:
    """The steps in threads of this process, without Prefect."""

    def __init__(self, workspace: Workspace, progress: Progress) -> None:
        limits = workspace.pipeline.limits
        self._workspace, self._progress, self._retries = workspace, progress, limits.retries
        # A step waits in its thread for the one before: four threads a shard can never all be waiting.
        self._pool = ThreadPoolExecutor(max_workers=4 * (limits.shards_in_flight + 1), thread_name_prefix="tidemill")
        self.num_retries = 0
        """Retries so far, of all steps."""

    def submit(self, step: str, label: str, *args: Any, **kwargs: Any) -> Future:
        return self._pool.submit(self._run, step, args, kwargs)

    def close(self, *, cancel: bool) -> None:
        self._pool.shutdown(wait=True, cancel_futures=cancel)

    def _run(self, step: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        ready = [_resolved(arg) for arg in args]

        def count(error: BaseException) -> None:
            self.num_retries += 1
            self._progress.retried(step, error)

        call = getattr(stages, step)
        return retrying(
            lambda: call(self._workspace, *ready, **kwargs),
            retries=self._retries,
            on_retry=count,
            sleep=self._workspace.pause,
        )


def _resolved(arg: Any) -> Any:
    return arg.result() if hasattr(arg, "result") and hasattr(arg, "done") else arg
