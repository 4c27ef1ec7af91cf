"""A service under load from wrk: bodies in turn, at full speed or at a rate, with what came back.

wrk measures a request from its first byte sent to its answer; the pause before it does not count.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

SCRIPT = """
local bodies, place, step = {}, 0, 1
for line in io.lines("%(bodies)s") do bodies[#bodies + 1] = line end
local threads = 0
function setup(thread) thread:set("first", threads); threads = threads + 1 end
function init(args) math.randomseed(first + 1); place = first * 7919 %% #bodies end
wrk.method = "POST"
%(headers)s
function request()
  place = place %% #bodies + 1
  return wrk.format(nil, nil, nil, bodies[place])
end
%(delay)s
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{"seconds": %%f, "requests": %%d, "refused": %%d, "failed": %%d, "p50": %%f, "p99": %%f}\\n',
    summary.duration / 1e6, summary.requests, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""
PAUSES = "function delay() return math.min(4000, math.floor(-math.log(1 - math.random()) * %f)) end"
"""In milliseconds, as of clients that know nothing of each other."""
THREADS = 1


@dataclass(frozen=True)
class Load:
    """`p50` and `p99` are in milliseconds, of all answers; `refused` are those that are no success."""

    seconds: float
    requests: int
    refused: int
    failed: int
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Answers a second that are a success."""
        return (self.requests - self.refused) / self.seconds

    def line(self, name: str) -> str:
        bad = f", {self.refused} refused, {self.failed} failed" if self.refused or self.failed else ""
        return f"{name:<44} {self.rate:8.1f} requests/s  p50 {self.p50:8.1f} ms  p99 {self.p99:8.1f} ms{bad}"


def load(
    url: str,
    bodies: Sequence[object],
    *,
    connections: int,
    seconds: float,
    headers: Mapping[str, str],
    rate: float | None = None,
) -> Load:
    """With `rate`, about so many requests a second come, each connection's after a pause of any length."""
    with tempfile.TemporaryDirectory() as folder:
        lines, script = Path(folder, "bodies"), Path(folder, "script.lua")
        lines.write_text("".join(f"{json.dumps(body)}\n" for body in bodies))
        given = {**headers, "Content-Type": "application/json"}
        script.write_text(
            SCRIPT
            % {
                "bodies": lines,
                "headers": "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in given.items()),
                "delay": "" if rate is None else PAUSES % (1_000 * connections / rate),
            }
        )
        words = ["wrk", f"-t{THREADS}", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "120s", "-s", str(script)]
        done = subprocess.run([*words, url], capture_output=True, text=True, check=True)
    return Load(**json.loads(done.stdout.strip().splitlines()[-1]))


def wait_for(url: str, process: subprocess.Popen[bytes], *, seconds: float = 300) -> None:
    """Wait until something answers there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{process.args!r} ended with {process.returncode}.")
        try:
            httpx.get(url, timeout=5)
        except httpx.HTTPError:
            time.sleep(0.2)
        else:
            return
    raise SystemExit(f"Nothing answers at {url}.")
