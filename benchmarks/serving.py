"""`tidemill serve` under load from wrk, beside a run, beside FastAPI with a pipeline, and beside `transformers serve`.

    python -m benchmarks.serving [--rows 2000] [--corpus reviews] [--seconds 15] [--writer FOLDER]

One process at a time computes, all in one run on this machine, each warmed up. Of the bundled reviews or e-mails: a
run's tokens a second, before all others and after them; the service at saturation, by one row and by 32 rows a request;
its p50 and p99 at half of that; the plain service at saturation; ten times as many clients as saturate it.
`transformers serve` has no classification, so of a model that writes (`--writer`, such as the folder that
`benchmarks.smollm2` makes) all three are asked for chats.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.against import ROOT
from benchmarks.entities import read_texts
from benchmarks.load import Load, load, wait_for
from benchmarks.machine import this_machine

MODEL = ROOT / "data" / "models" / "tiny-sentiment"
TOKEN = "benchmark"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
CLIENTS, MANY_CLIENTS, WRITERS = 64, 640, 32
WARM_UP_SECONDS = 3.0
NEW_TOKENS = 32


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rows", type=int, default=2_000)
    asked.add_argument("--corpus", choices=("reviews", "emails"), default="reviews")
    asked.add_argument("--seconds", type=float, default=15.0)
    asked.add_argument(
        "--writer", type=Path, default=None, help="a model that writes, with a chat template; alone with --rows 0"
    )
    given = asked.parse_args()
    print(this_machine())
    with tempfile.TemporaryDirectory(prefix="tidemill-serving-") as folder:
        if given.rows:
            of_rows(Path(folder), given.corpus, given.rows, given.seconds)
        if given.writer is not None:
            of_chats(Path(folder), given.writer, given.seconds)


def of_rows(folder: Path, corpus: str, num_rows: int, seconds: float) -> None:
    texts = read_texts(corpus, num_rows)
    num_rows = len(texts)
    pipeline = write_pipeline(folder, texts)
    before, tokens_a_row = told_run(pipeline, folder)
    one, many = [{"inputs": text} for text in texts], [{"inputs": texts[i : i + 32]} for i in range(0, num_rows, 32)]

    def ask(name: str, url: str, bodies: Sequence[object], clients: int, rate: float | None = None) -> Load:
        load(url, bodies, connections=clients, seconds=WARM_UP_SECONDS, headers=AUTHORIZED)
        with probing(url) as slowest:
            found = load(url, bodies, connections=clients, seconds=seconds, headers=AUTHORIZED, rate=rate)
        health = f"  /health within {1e3 * max(slowest):.0f} ms" if slowest else ""
        print(f"{found.line(name)}{health}", flush=True)
        return found

    with tidemill_serve(folder, pipeline) as url:
        saturated = ask("tidemill serve, saturated, a row each", url, one, CLIENTS)
        by_32 = ask("tidemill serve, saturated, 32 rows each", url, many, 8)
        few = max(4, min(CLIENTS, int(saturated.rate)))
        half = ask("tidemill serve, half of that, a row each", url, one, few, saturated.rate / 2)
    with tidemill_serve(folder, pipeline, "--queue", "256", "--max-rows", "256") as url:
        flooded = ask(f"tidemill serve, --queue 256, {MANY_CLIENTS} clients", url, one, MANY_CLIENTS)
    with plain(MODEL, "text-classification") as url:
        theirs = ask("FastAPI + pipeline, saturated", url, one, CLIENTS)
    # A machine is not as fast at each moment: one run before the services, and one after them.
    after, _ = told_run(write_pipeline(folder, texts, name="again"), folder)
    batch = (before + after) / 2
    of_run = saturated.rate * tokens_a_row / batch, by_32.rate * 32 * tokens_a_row / batch
    print(
        f"Saturated, serve has {of_run[0]:.2f} of a run's tokens/s by a row each, {of_run[1]:.2f} by 32. Beside "
        f"FastAPI and pipeline it has {ratio(saturated.rate, theirs.rate):.2f} times the requests/s, and a p99 that is "
        f"{ratio(saturated.p99, theirs.p99):.2f} times as long. At half, p99 is {half.p99:.0f} ms. Flooded, it answers "
        f"{ratio(flooded.rate, saturated.rate):.2f} of the saturated rate, and refuses "
        f"{flooded.refused / flooded.seconds:.0f} requests/s."
    )


def told_run(pipeline: Path, folder: Path) -> tuple[float, float]:
    batch, tokens_a_row = run(pipeline, folder)
    print(f"{'a run of the same rows':<44} {batch:8.0f} tokens/s, {tokens_a_row:.1f} tokens a row", flush=True)
    return batch, tokens_a_row


def of_chats(folder: Path, writer: Path, seconds: float) -> None:
    writer = writer.absolute()
    texts = read_texts("reviews", 200)
    messages = [[{"role": "user", "content": f"Is this praise? {text[:200]}"}] for text in texts]
    chats = [{"messages": each, "max_tokens": NEW_TOKENS, "temperature": 0} for each in messages]
    options = f'[model]\ntask = "text-generation"\npath = "{writer}"\noptions = {{ max_new_tokens = {NEW_TOKENS} }}\n'
    pipeline = write_pipeline(folder, texts[:4], name="chats", model=options)
    run(pipeline, folder)
    found: dict[str, Load] = {}

    def ask(name: str, url: str, model: str | None = None) -> None:
        bodies = [chat | {"model": model} for chat in chats] if model else [{"inputs": text[:200]} for text in texts]
        # Not all of them stop for a client that left, as one does who measures for some seconds.
        httpx.post(url, json=bodies[0], headers=AUTHORIZED, timeout=None)
        found[name] = load(url, bodies, connections=WRITERS, seconds=seconds, headers=AUTHORIZED)
        print(found[name].line(name), flush=True)

    with tidemill_serve(folder, pipeline, path="/v1/chat/completions") as url:
        ask("tidemill serve, chats", url, "chats")
    with transformers_serve(writer) as url:
        ask("transformers serve, chats", url, str(writer))
    with plain(writer, "text-generation") as url:
        ask("FastAPI + pipeline, prompts", url)
    ours, *others = found.values()
    best = max(others, key=lambda other: other.rate)
    rates, waits = ratio(ours.rate, best.rate), ratio(ours.p99, best.p99)
    print(f"serve has {rates:.2f} times the requests/s of the best other, and a p99 that is {waits:.2f} times as long.")


def ratio(one: float, other: float) -> float:
    """No number where the other answered nothing."""
    return one / other if other else float("nan")


def write_pipeline(folder: Path, texts: Sequence[str], *, name: str = "reviews", model: str = "") -> Path:
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), folder / f"{name}.parquet")
    path = folder / f"{name}.toml"
    model = model or f'[model]\ntask = "text-classification"\npath = "{MODEL}"\n'
    path.write_text(
        f'name = "{name}"\n[dataset]\npath = "{folder}/{name}.parquet"\ntext = "text"\nkey = ["id"]\n{model}'
    )
    return path


def environment(folder: Path) -> dict[str, str]:
    own = {"TIDEMILL_HOME": f"{folder}/home", "TIDEMILL_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    return os.environ | own


def run(pipeline: Path, folder: Path) -> tuple[float, float]:
    """Tokens a second of tokenizer and model, as the ledger has them, and tokens a row."""
    words = [sys.executable, "-P", "-m", "tidemill.cli.main"]
    subprocess.run([*words, "run", str(pipeline), "--direct"], env=environment(folder), check=True, capture_output=True)
    query = (
        "SELECT sum(num_computed_tokens) AS computed, sum(num_tokens) AS tokens, sum(num_rows) AS rows, "
        f"sum(tokenize_seconds + infer_seconds) AS seconds FROM _ledger WHERE pipeline = '{pipeline.stem}'"
    )
    done = subprocess.run(
        [*words, "sql", str(pipeline), query, "--json"], env=environment(folder), check=True, capture_output=True
    )
    [found] = json.loads(done.stdout)
    return found["computed"] / found["seconds"], found["tokens"] / found["rows"]


@contextmanager
def serving(words: Sequence[str], env: Mapping[str, str], address: str, path: str) -> Iterator[str]:
    process = subprocess.Popen(words, env=dict(env), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"{address}/health", process)
        yield f"{address}{path}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def tidemill_serve(folder: Path, pipeline: Path, *options: str, path: str = "/predict") -> Iterator[str]:
    port = free_port()
    words = [sys.executable, "-P", "-m", "tidemill.cli.main", "serve", str(pipeline), "--port", str(port), *options]
    with serving(words, environment(folder), f"http://127.0.0.1:{port}", path) as url:
        yield url


@contextmanager
def plain(model: Path, task: str) -> Iterator[str]:
    port = free_port()
    words = [sys.executable, "-m", "benchmarks.plain_service", str(model), str(port), "--task", task]
    with serving([*words, "--new-tokens", str(NEW_TOKENS)], os.environ, f"http://127.0.0.1:{port}", "/predict") as url:
        yield url


@contextmanager
def transformers_serve(model: Path) -> Iterator[str]:
    port = free_port()
    command = str(Path(sys.executable).with_name("transformers"))
    words = [command, "serve", str(model), "--port", str(port), "--device", "cpu", "--log-level", "error"]
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    with serving(words, env, f"http://127.0.0.1:{port}", "/v1/chat/completions") as url:
        yield url


@contextmanager
def probing(url: str) -> Iterator[list[float]]:
    """How long `/health` took each time within the block, asked several times a second; empty where there is none."""
    found: list[float] = []
    ended = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url.rpartition("/predict")[0], timeout=60) as client:
            while not ended.wait(0.1):
                started = time.perf_counter()
                try:
                    is_there = client.get("/health").is_success
                except httpx.HTTPError:  # Nobody answered for so long, which is what is measured.
                    is_there = True
                if is_there:
                    found.append(time.perf_counter() - started)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


if __name__ == "__main__":
    main()
