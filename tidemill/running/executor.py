"""Who calls the functions of `stages`: the engine hands one over and gets a future. Threads here are one way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from tidemill.progress import Progress
from tidemill.retry import retrying
from tidemill.running.stages.workspace import Workspace

Call = Callable[..., Any]
"""A function of `stages`, which takes the workspace first."""


class Future(Protocol):
    """The part of a future that the run needs; Prefect's and the standard library's have it."""

    def result(self) -> Any: ...


class Executor(Protocol):
    """Calls functions of `stages` with its workspace. Futures among the arguments are waited for; retryable errors
    are retried. `label` names the shard or file to people."""

    def submit(self, call: Call, label: str, *args: Any, **kwargs: Any) -> Future: ...

    def close(self, *, cancel: bool) -> None: ...

    @property
    def num_retries(self) -> int: ...


class ThreadExecutor:
    """In threads of this process, without Prefect."""

    def __init__(self, workspace: Workspace, progress: Progress) -> None:
        limits = workspace.pipeline.limits
        self._workspace, self._progress, self._retries = workspace, progress, limits.retries
        # A call waits in its thread for the one before: four threads a shard can never all be waiting.
        self._pool = ThreadPoolExecutor(max_workers=4 * (limits.shards_in_flight + 1), thread_name_prefix="tidemill")
        self.num_retries = 0
        """Retries so far, of all calls."""

    def submit(self, call: Call, label: str, *args: Any, **kwargs: Any) -> Future:
        return self._pool.submit(self._run, call, args, kwargs)

    def close(self, *, cancel: bool) -> None:
        self._pool.shutdown(wait=True, cancel_futures=cancel)

    def _run(self, call: Call, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        ready = [_resolved(arg) for arg in args]

        def count(error: BaseException) -> None:
            self.num_retries += 1
            self._progress.retried(call.__name__, error)

        return retrying(
            lambda: call(self._workspace, *ready, **kwargs),
            retries=self._retries,
            on_retry=count,
            sleep=self._workspace.pause,
        )


def _resolved(arg: Any) -> Any:
    return arg.result() if hasattr(arg, "result") and hasattr(arg, "done") else arg
