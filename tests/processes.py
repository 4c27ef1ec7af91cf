"""Real processes that start at once: forked from a server that has everything imported, and killed at will."""

from __future__ import annotations

import json
import multiprocessing
import os
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import tidemill
from tidemill.config import Pipeline

T = TypeVar("T")


def modules_without_prefect() -> list[str]:
    """Every module of the engine and of the commands that neither ask a Prefect server nor open Gradio."""
    names = [module.name for module in pkgutil.walk_packages(tidemill.__path__, "tidemill.") if not module.ispkg]
    elsewhere = (
        "tidemill.flows.",
        "tidemill.tasks.",
        "tidemill.cli.backfill",
        "tidemill.cli.operate",
        "tidemill.app.tabs",
    )
    return [name for name in names if not name.startswith(elsewhere)]


_context = multiprocessing.get_context("forkserver")
# All that a command would import by itself; nothing of Prefect, which reads its settings when it is imported.
_context.set_forkserver_preload(
    [
        "datasets",
        "duckdb",
        "pandas",
        "pyarrow.dataset",
        "torch",
        "transformers.models.auto.modeling_auto",
        "transformers.models.auto.tokenization_auto",
        "transformers.models.bert.modeling_bert",
        "tests.pipelines",
        *modules_without_prefect(),
        "tests.frozen",
    ]
)


PATIENCE_SECONDS = 900.0
"""How long anything may take before a test gives it up: others may keep all cores busy."""


class Process:
    """A function in a process of its own; what it raises is raised by `result`."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self._answers = _context.SimpleQueue()
        self._process = _context.Process(target=_call, args=(self._answers, call, args), daemon=True)
        self._process.start()

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> bool:
        """SIGKILL; whether the process was still running."""
        running = self._process.is_alive()
        if running and self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.join()
        return running

    def result(self, timeout: float = PATIENCE_SECONDS) -> Any:
        self._process.join(timeout)
        assert self._process.exitcode == 0, f"exit code {self._process.exitcode}"
        answer = json.loads(self._answers.get())
        assert "error" not in answer, answer["error"]
        return answer["value"]


def run_in_process(pipeline: Pipeline, home: Path) -> dict[str, Any]:
    """A run without Prefect, as a plain dict."""
    from tidemill.running.run import Run

    os.environ["TIDEMILL_HOME"] = str(home)
    return asdict(Run(pipeline).execute())


def run_command(
    args: Sequence[str], environment: Mapping[str, str], folder: Path, output: Path, absent: Sequence[str] = ()
) -> int:
    """The exit code of a command of Tidemill's, run in `folder`; what it writes lies in `output`.

    Packages that are `absent` cannot be imported any more.
    """
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    from tidemill.cli.main import main

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        with (output / name).open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    sys.argv = ["tidemill", *args]
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def wait_until(condition: Callable[[], bool], *, seconds: float = PATIENCE_SECONDS) -> None:
    eventually(condition, bool, seconds=seconds)


def eventually(ask: Callable[[], T], answers: Callable[[T], bool], *, seconds: float = PATIENCE_SECONDS) -> T:
    """What is asked, once the answer is the one that is waited for.

    Asking takes a fifth of the time at most: the cores are for what is waited for.
    """
    deadline = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        if answers(found := ask()):
            return found
        assert time.monotonic() < deadline, f"waited too long: {found}"
        time.sleep(min(2.0, max(0.02, 4 * (time.monotonic() - asked))))


def _call(answers: Any, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        answers.put(json.dumps({"value": call(*args)}, default=str))
    except BaseException:
        answers.put(json.dumps({"error": traceback.format_exc()}))
