"""What each file of tests takes of the cores: `pytest --costs`.

Wall time says little of it where other processes keep the cores busy. Counted are the processes that tests start, too,
those of a server that still runs included; what a session shares is its first user's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

seconds_by_file: dict[str, float] = defaultdict(float)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--costs", action="store_true", help="CPU seconds by file of tests, in the summary")


@pytest.fixture(scope="module", autouse=True)
def _costs(request: pytest.FixtureRequest) -> Iterator[None]:
    if not request.config.getoption("costs"):
        yield
        return
    before = spent()
    yield
    seconds_by_file[request.node.nodeid] += round(spent() - before, 1)


def spent() -> float:
    """CPU seconds of this process and of all below it, those that have ended among them."""
    here = psutil.Process()
    return sum(map(_seconds, (here, *here.children(recursive=True))))


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["costs"] = dict(seconds_by_file)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Of a process of xdist's, when it ends."""
    for path, seconds in getattr(node, "workeroutput", {}).get("costs", {}).items():
        seconds_by_file[path] += seconds


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if seconds_by_file:
        terminalreporter.section(f"CPU seconds: {sum(seconds_by_file.values()):.0f}")
    for path, seconds in sorted(seconds_by_file.items(), key=lambda found: -found[1]):
        terminalreporter.write_line(f"{seconds:8.1f}  {path}")
