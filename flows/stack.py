"""Prefect on one machine: a server, and a worker for each work pool, kept alive by a small supervisor.

Every process of a stack carries the stack's id in its environment, the flow runs
that its workers start included. That is how `stop` finds all of them and nothing
else: not by process ids, which the system gives out again.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from tidemill.errors import ConfigError
from tidemill.flows.password import VARIABLES, given_password, make_password
from tidemill.places import make_folders
from tidemill.retry import waiting_for

MARK = "TIDEMILL_STACK"
FLOW_RUN = b"PREFECT__FLOW_RUN_ID="
"""What Prefect puts into the environment of a flow run's process."""
SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
}
"""Of server and workers, unless the environment says otherwise; docs/schedules.md has why."""

PYTHON = [sys.executable, "-P", "-m"]
START_SECONDS = 120.0
FLOW_RUNS_STOP_SECONDS = 30.0
"""As long as Prefect gives a flow run between asking and killing."""
SERVER_STOP_SECONDS = 15.0
POLL_SECONDS = 0.2
SETTLED_SECONDS = 60.0
"""A process that ran this long and ended is started again at once."""
LONGEST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True)
class Stack:
    """What was started, as `stack.json` holds it."""

    stack_id: str
    pid: int
    port: int
    pools: list[str]
    flow_runs: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def ui(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def running(home: Path) -> Stack | None:
    """The stack of this folder, if its supervisor lives."""
    stack = _recorded(home)
    return stack if stack and _carries_mark(stack.pid, stack.stack_id) else None


def start(home: Path, *, port: int, pools: Sequence[str], flow_runs: int) -> Stack:
    """Start a stack that keeps its files in `home`, and return when its server answers and its pools are made.

    Raises:
        ConfigError: the port is taken, or the server does not come up; nothing is left running.
    """
    if not Path("/proc/self/environ").exists():
        raise ConfigError(
            "`tidemill up` needs Linux's /proc. Here, set PREFECT_SERVER_API_AUTH_STRING and PREFECT_API_AUTH_STRING "
            "to one user:password, start `python -P -m tidemill.flows.gate`, and in another terminal "
            "`prefect worker start --pool tidemill --type process`."
        )
    stop(home)  # What a killed supervisor left.
    _refuse_taken_port(port)
    password = given_password() or make_password(home)
    logs = home / "logs"
    make_folders(logs)
    stack_id = secrets.token_hex(8)
    with (logs / "stack.log").open("ab") as log:
        process = subprocess.Popen(
            [*PYTHON, "tidemill.flows.stack", str(home.absolute()), str(port), str(flow_runs), *pools],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, MARK: stack_id, **dict.fromkeys(VARIABLES, password)},
            start_new_session=True,
        )
    stack = Stack(stack_id, process.pid, port, list(pools), flow_runs)
    _state_file(home).write_text(json.dumps(asdict(stack), indent=2) + "\n")
    try:
        with waiting_for(f"the Prefect server at {stack.ui}, {START_SECONDS:.0f} s at most"):
            _wait_for_server(stack, process, logs / "server.log")
        _make_pools(stack, password)
    except BaseException:
        stop(home)
        raise
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.close()
    return stack


def stop(home: Path) -> bool:
    """End every process of this folder's stack, its flow runs included; whether there was any.

    Workers are asked first, so that flow runs can say how they ended to a server
    that is still there.
    """
    stack = _recorded(home)
    if stack is None:
        return False
    found = bool(processes(stack.stack_id))
    longest = 2 * FLOW_RUNS_STOP_SECONDS + 3 * SERVER_STOP_SECONDS
    with waiting_for(f"flow runs and workers to end, {longest + 2 * SERVER_STOP_SECONDS:.0f} s at most"):
        if _signal(stack.pid, stack.stack_id, signal.SIGTERM):
            _wait_until_gone([stack.pid], stack.stack_id, longest)
        _end(processes(stack.stack_id), stack.stack_id, SERVER_STOP_SECONDS)
    _state_file(home).unlink(missing_ok=True)
    return found


def processes(stack_id: str) -> list[int]:
    """The ids of all processes that carry the stack's mark."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if _carries_mark(pid, stack_id)]


def _flow_runs(stack_id: str) -> list[int]:
    return [pid for pid in processes(stack_id) if any(entry.startswith(FLOW_RUN) for entry in _environment(pid))]


def _carries_mark(pid: int, stack_id: str) -> bool:
    return f"{MARK}={stack_id}".encode() in _environment(pid)


def _environment(pid: int) -> list[bytes]:
    """What a process was started with; nothing of one that is gone, or another user's."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _signal(pid: int, stack_id: str, number: int) -> bool:
    """Signal a process of the stack, and never one that got its id since; whether it was there."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not _carries_mark(pid, stack_id):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def _send(pids: Sequence[int], stack_id: str, number: int) -> None:
    for pid in pids:
        _signal(pid, stack_id, number)


def _end(pids: Sequence[int], stack_id: str, seconds: float) -> None:
    _send(pids, stack_id, signal.SIGTERM)
    _wait_until_gone(pids, stack_id, seconds)
    _send(pids, stack_id, signal.SIGKILL)
    _wait_until_gone(pids, stack_id, seconds)


def _wait_until_gone(pids: Sequence[int], stack_id: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(_carries_mark(pid, stack_id) for pid in pids) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _state_file(home: Path) -> Path:
    return home / "stack.json"


def _recorded(home: Path) -> Stack | None:
    try:
        return Stack(**json.loads(_state_file(home).read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as e:
        raise ConfigError(f"{_state_file(home)} cannot be read: {e}. Remove it if no stack is up.") from e


def _refuse_taken_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as e:
            raise ConfigError(
                f"Port {port} of 127.0.0.1 cannot be used: {e.strerror}. Choose another with --port, or use the server "
                f"that is there: export PREFECT_API_URL=http://127.0.0.1:{port}/api"
            ) from e


def _wait_for_server(stack: Stack, supervisor: subprocess.Popen[bytes], log: Path) -> None:
    import httpx

    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(timeout=5) as client:
        while supervisor.poll() is None and time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                client.get(f"{stack.url}/health")
                return
            time.sleep(POLL_SECONDS)
    raise ConfigError(f"The Prefect server did not come up. Its last words are in {log}.")


def _make_pools(stack: Stack, password: str) -> None:
    """Process pools whose flow runs are run by this Python, whatever folder the worker stands in."""
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
    from prefect.workers.process import ProcessWorker

    template: dict[str, Any] = ProcessWorker.get_default_base_job_template()
    variables = template["variables"]["properties"]
    variables["command"]["default"] = f"{shlex.quote(sys.executable)} -P -m prefect.engine"
    variables["stream_output"]["default"] = False
    here = {PREFECT_API_URL: stack.url, PREFECT_API_AUTH_STRING: password}
    with temporary_settings(here), get_client(sync_client=True) as client:
        for name in stack.pools:
            try:
                client.read_work_pool(name)
                client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))
            except ObjectNotFound:
                client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))


@dataclass
class Member:
    """A process that the supervisor keeps alive."""

    name: str
    command: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    num_failures: int = 0
    due: float = 0.0

    def keep_alive(self, logs: Path) -> None:
        if self.process is not None and (code := self.process.poll()) is not None:
            ran = time.monotonic() - self.started
            self.num_failures = 0 if ran > SETTLED_SECONDS else self.num_failures + 1
            pause = min(LONGEST_PAUSE_SECONDS, 2.0**self.num_failures) if self.num_failures else 0.0
            self.process, self.due = None, time.monotonic() + pause
            _log(f"{self.name} ended with code {code} after {ran:.0f} s and is started again in {pause:.0f} s")
        if self.process is None and time.monotonic() >= self.due:
            with (logs / f"{self.name}.log").open("ab") as log:
                self.process = subprocess.Popen(
                    self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            self.started = time.monotonic()


def supervise(home: Path, port: int, flow_runs: int, pools: Sequence[str]) -> None:
    """Keep the server and the workers alive until SIGTERM; then end them, workers first."""
    stack_id, stopping = os.environ[MARK], False

    def stop_soon(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop_soon)
    server, workers = _server(home, port), [_worker(home, port, pool, flow_runs) for pool in pools]
    members, logs = [server], home / "logs"
    os.set_blocking(sys.stdin.fileno(), False)
    while not stopping:
        if members == [server] and (word := sys.stdin.buffer.read(1)) is not None:
            if not word:
                break  # `up` ended before the pools were made.
            members += workers
        for member in members:
            member.keep_alive(logs)
        time.sleep(POLL_SECONDS)
    pids = [member.process.pid for member in workers if member.process]
    # A worker that is told to stop kills its flow runs at once. Held still, it lets them end by themselves.
    _send(pids, stack_id, signal.SIGSTOP)
    _end(_flow_runs(stack_id), stack_id, FLOW_RUNS_STOP_SECONDS)
    _send(pids, stack_id, signal.SIGTERM)
    _send(pids, stack_id, signal.SIGCONT)
    _wait_until_gone(pids, stack_id, SERVER_STOP_SECONDS)
    _end([pid for pid in processes(stack_id) if pid != os.getpid()], stack_id, SERVER_STOP_SECONDS)


def _server(home: Path, port: int) -> Member:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    facts = {"PREFECT_SERVER_API_HOST": "127.0.0.1", "PREFECT_SERVER_API_PORT": str(port)}
    return Member("server", [*PYTHON, "tidemill.flows.gate"], SETTINGS | environment | _home_of_prefect(home) | facts)


def _worker(home: Path, port: int, pool: str, flow_runs: int) -> Member:
    name = f"{pool}@{socket.gethostname()}"
    facts = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "TIDEMILL_WORKER": name}
    command = [*PYTHON, "prefect", "worker", "start", "--pool", pool, "--type", "process", "--name", name]
    return Member(
        f"worker-{pool}",
        [*command, "--limit", str(flow_runs)],
        SETTINGS | os.environ | _home_of_prefect(home) | facts,
    )


def _home_of_prefect(home: Path) -> dict[str, str]:
    return {"PREFECT_HOME": str(home / "prefect")}


def _log(line: str) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}", flush=True)  # noqa: T201


if __name__ == "__main__":
    supervise(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
