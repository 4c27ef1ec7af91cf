"""Scripts of a shell whose `tidemill` starts at once: forked from a process that has everything imported."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.processes import PATIENCE_SECONDS, Process, wait_until

CLIENT = f"""#!{sys.executable} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as asked:
    asked.connect({{address!r}})
    told = json.dumps({{{{"args": sys.argv, "folder": os.getcwd(), "environment": dict(os.environ)}}}})
    socket.send_fds(asked, [len(told.encode()).to_bytes(8, "big")], [0, 1, 2])
    asked.sendall(told.encode())
    sys.exit(int(asked.makefile().read() or 1))
"""
"""What lies on the shell's PATH: it hands over its words, folder, environment, input and outputs."""


@contextmanager
def forked_commands(folder: Path) -> Iterator[Path]:
    """A folder for a PATH, with `tidemill`, and with `python-file`, which runs scripts as the cells of one notebook."""
    folder.mkdir()
    for name in ("tidemill", "python-file"):
        (folder / name).write_text(CLIENT.format(address=str(folder / "socket")))
        (folder / name).chmod(0o755)
    server = Process(_serve, folder / "socket")
    try:
        wait_until((folder / "socket").exists)
        yield folder
    finally:
        server.kill()


def run_script(script: Path, folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a script of bash in `folder`, at a terminal at which somebody says yes to every question.

    Its output goes through a file: what it leaves running would keep a pipe open.
    """
    keyboard, terminal = pty.openpty()
    os.write(keyboard, b"y\n" * 50)
    try:
        with script.with_suffix(".output").open("w+") as output:
            done = subprocess.run(
                ["bash", script],
                cwd=folder,
                env=environment,
                stdin=terminal,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE_SECONDS,
                check=False,
            )
            output.seek(0)
            return done.returncode, output.read()
    finally:
        os.close(terminal)
        os.close(keyboard)


def _serve(address: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen()
        Path(f"{address}.new").rename(address)  # Whoever sees it can connect.
        while True:
            asked, _ = listener.accept()
            with asked:
                size, descriptors, _, _ = socket.recv_fds(asked, 8, 3)
                told = json.loads(asked.makefile("rb").read(int.from_bytes(size, "big")))
                pid = os.fork()
                if pid == 0:
                    os._exit(_run(told, descriptors))
                for descriptor in descriptors:
                    os.close(descriptor)
                asked.sendall(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def _run(told: dict[str, Any], descriptors: list[int]) -> int:
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # as a new process has it
    os.chdir(told["folder"])
    os.environ.clear()
    os.environ.update(told["environment"])
    program, *args = told["args"]
    scripts = program.endswith("python-file")
    sys.argv = args if scripts else ["tidemill", *args]
    try:
        if scripts:
            names: dict[str, Any] = {"__name__": "__main__"}
            for script in args:
                exec(compile(Path(script).read_text(), script, "exec"), names)
        else:
            from tidemill.cli.main import main

            main()
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
