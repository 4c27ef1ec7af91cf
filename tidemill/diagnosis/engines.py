"""The engines that compute, and DuckDB with its extensions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tidemill.diagnosis.finding import Finding
from tidemill.diagnosis.packages import INSTALL, installed

PROBE_SECONDS = 30.0
"""A library of a gigabyte that no program has read since the machine started takes its time."""
EXTENSIONS = {
    "ducklake": "every lake",
    "sqlite_scanner": "lakes with a catalog in a file",
    "postgres_scanner": "lakes that several machines write",
    "httpfs": "lakes with their data on S3",
}
"""DuckDB's, and what they are for."""
NVIDIA = Path("/dev/nvidia0")


def torch() -> list[Finding]:
    found = _probed("torch", f"{INSTALL}, or torch alone: pip install torch")
    if isinstance(found, Finding):
        return [found]
    said = f"{found['version']}, computes in {found['dtype']}"
    return [Finding("engines", "torch", "works", said), _products(found["products"]), _gpu(found)]


def openvino() -> list[Finding]:
    remedy = "pip install 'tidemill[openvino]'"
    if installed("openvino") is None:
        if NVIDIA.exists():
            return [Finding("engines", "openvino", "absent", "not installed; it computes on CPUs", remedy)]
        said = "not installed: torch computes instead, more slowly on a CPU"
        return [Finding("engines", "openvino", "slow", said, remedy)]
    found = _probed("openvino", remedy, needed=False)
    if isinstance(found, Finding):
        return [found]
    said = f"{found['version']}, on {found['device']}"
    return [Finding("engines", "openvino", "works", said), _int8(found)]


def duckdb_extensions() -> list[Finding]:
    """Each is loaded, as a lake does."""
    return [_extension(name, purpose) for name, purpose in EXTENSIONS.items()]


def _products(found: dict[str, float | None]) -> Finding:
    """How fast the processor multiplies matrices in each type, which is what bounds a model on it."""
    parts = [f"{rate / 1e9:,.0f} in {dtype}" for dtype, rate in found.items() if rate is not None]
    lacking = [dtype for dtype, rate in found.items() if rate is None]
    said = f"{', '.join(parts)} GFLOP/s on one CPU" + (f"; none in {' and '.join(lacking)}" if lacking else "")
    return Finding("engines", "products", "works", said)


def _int8(found: dict[str, Any]) -> Finding:
    if why := found.get("int8_fails"):
        return Finding("engines", "int8", "fails", why, 'stay with inference.dtype = "auto"')
    return Finding("engines", "int8", "works", found["int8"])


def _gpu(found: dict[str, Any]) -> Finding:
    if found["gpus"]:
        named = ", ".join(f"{gpu['name']} ({gpu['memory'] / 2**30:,.0f} GiB)" for gpu in found["gpus"])
        return Finding("engines", "gpu", "works", named)
    if not NVIDIA.exists():
        return Finding("engines", "gpu", "absent", "none here")
    if found["built_for"] is None:
        said = "there is one, and this torch is built for CPUs alone"
        return Finding("engines", "gpu", "fails", said, "install torch as https://pytorch.org says for CUDA")
    why = "; ".join(found["said"]) or "torch finds none"
    return Finding("engines", "gpu", "fails", f"there is one, and torch cannot use it: {why}", "check: nvidia-smi")


def _probed(name: str, remedy: str, *, needed: bool = True) -> dict[str, Any] | Finding:
    """What a try of the engine found, or what is wrong."""

    def failed(said: str) -> Finding:
        return Finding("engines", name, "fails", said, remedy, needed)

    # Not from the current folder, where anything may be called as a library is.
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-P", "-m", "tidemill.diagnosis.probe", name]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding("engines", name, "slow", f"did not load within {PROBE_SECONDS:.0f} s", "try again", needed)
    if done.returncode < 0:
        return failed(f"ends the process by {signal.Signals(-done.returncode).name}")
    if done.returncode:
        return failed((done.stderr.strip().splitlines() or ["it cannot be loaded"])[-1])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found if found["computes"] else failed(f"{found['version']} is installed, and computes nothing right")


def _extension(name: str, purpose: str) -> Finding:
    import _duckdb as duckdb

    from tidemill.errors import LakeError
    from tidemill.lake.ducklake.connection import extension_file

    shown = name.removesuffix("_scanner")
    needed = name in ("ducklake", "sqlite_scanner")
    remedy = f"pip install duckdb-extension-{name.replace('_', '-')}=={duckdb.__version__}"
    try:
        file = extension_file(name)
        with duckdb.connect(config={"allow_unsigned_extensions": "true"}) as connection:
            connection.execute(f"LOAD '{file}'")
    except (LakeError, duckdb.Error) as e:
        said = f"{str(e).splitlines()[0].rstrip('.')}; it is for {purpose}"
        return Finding("duckdb", shown, "fails", said, remedy, needed)
    return Finding("duckdb", shown, "works", f"for {purpose}")
