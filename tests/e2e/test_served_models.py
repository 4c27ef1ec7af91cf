"""Transformers' own server: what a model writes behind it is what it writes here."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from tests.s3 import free_ports
from tests.tiny_writers import write_gpt2
from tests.unit.test_endpoint import batch, written
from tidemill.config import Endpoint, Inference
from tidemill.engines.writing.endpoint import EndpointWriter
from tidemill.engines.writing.generation.settings import Settings
from tidemill.engines.writing.generation.written import LENGTH, STOP

pytest.importorskip("openai", reason="Transformers' server needs it")
pytest.importorskip("accelerate", reason="Transformers' server needs it")

START_SECONDS = 120
NUM_NEW = 12
PROMPTS = ["the cat sat on", "the king was at home and", "a dog", "the house of the king, who was not"] * 5


@contextmanager
def transformers_serve(folder: Path) -> Iterator[str]:
    """The address of Transformers' own server of the model in a folder."""
    (port,) = free_ports(1)
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    code = "from transformers.cli.transformers import main; main()"
    with subprocess.Popen([sys.executable, "-c", code, "serve", str(folder), *options], env=os.environ) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(START_SECONDS * 10):
        assert process.poll() is None, "the server has ended"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise AssertionError(f"the server did not start within {START_SECONDS} s")


@pytest.mark.soak
def test_transformers_serve_writes_what_the_model_writes_alone(tmp_path):
    folder = write_gpt2(tmp_path / "gpt2")
    with transformers_serve(folder) as url:
        inference = Inference(engine="endpoint", endpoint=Endpoint(base_url=url, concurrency=4))
        settings = Settings.of(folder, _config(folder), max_new_tokens=NUM_NEW)
        engine = EndpointWriter.open(settings=settings, inference=inference, name=str(folder))
        outputs = engine.submit(batch(*PROMPTS)).result()
    assert written(outputs) == _alone(folder)


def _config(folder: Path) -> GPT2Config:
    return GPT2Config.from_pretrained(folder)


def _alone(folder: Path) -> list[tuple[int, str, int, int]]:
    """How each prompt ends, its text and its counts, by Transformers' own generate."""
    model, tokenizer = GPT2LMHeadModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = []
    for prompt in PROMPTS:
        given = tokenizer(prompt, return_tensors="pt")
        ids = model.generate(**given, max_new_tokens=NUM_NEW, do_sample=False, pad_token_id=0)[0]
        new = ids[given["input_ids"].shape[1] :]
        finish = LENGTH if len(new) == NUM_NEW else STOP
        text = tokenizer.decode(new, skip_special_tokens=True)
        rows.append((finish, text, given["input_ids"].shape[1], len(new)))
    return rows
