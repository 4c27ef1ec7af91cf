"""Transformers' own server: what a model writes behind it is what it writes here."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.processes import Process, wait_until
from tests.s3 import free_ports
from tests.unit.test_endpoint import batch, message, written
from tests.writers_in_form import save_writer
from tidemill.config import Endpoint, Inference
from tidemill.engines.writing.endpoint import EndpointWriter
from tidemill.engines.writing.generation.settings import Settings
from tidemill.engines.writing.generation.written import LENGTH, STOP

pytest.importorskip("openai", reason="Transformers' server needs it")
pytest.importorskip("accelerate", reason="Transformers' server needs it")

NUM_NEW = 8
PROMPTS = ["the answer is", "positive", "yes no maybe, 12345", "no idea"] * 2
TEMPLATE = (
    "{% for each in messages %}{{ each.role }}: {{ each.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
ENDS = list(range(1, 300, 12))
"""So many that some of the answers end by themselves."""


class Served(NamedTuple):
    folder: Path
    url: str


def serve(folder: str, port: int) -> None:
    from transformers.cli.serve import Serve

    Serve(force_model=folder, host="127.0.0.1", port=port, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A tiny model of Llama's shape behind `transformers serve`."""
    folder = tmp_path_factory.mktemp("served") / "llama"
    model, _ = save_writer(folder, "Llama")
    model.generation_config.eos_token_id = ENDS
    model.generation_config.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (port,) = free_ports(1)
    process = Process(serve, str(folder), port)
    try:
        wait_until(lambda: not process.is_alive or _answers(f"http://127.0.0.1:{port}/health"))
        assert process.is_alive, "the server has ended"
        yield Served(folder, f"http://127.0.0.1:{port}")
    finally:
        process.kill()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


@pytest.mark.slow
def test_behind_transformers_serve_each_prompt_has_what_the_model_writes_alone(served):
    alone = [_alone(served.folder, prompt) for prompt in PROMPTS]
    assert _by_endpoint(served, *PROMPTS) == alone
    assert {finish for finish, *_ in alone} == {LENGTH, STOP}


def test_transformers_serve_puts_messages_into_the_chat_template(served):
    rendered = f"user: {PROMPTS[0]}\nassistant:"
    assert _by_endpoint(served, message(PROMPTS[0])) == [_alone(served.folder, rendered)]


def _by_endpoint(served: Served, *prompts: object) -> list[tuple[int, str, int, int]]:
    from transformers import AutoConfig

    inference = Inference(engine="endpoint", endpoint=Endpoint(base_url=served.url, concurrency=4))
    settings = Settings.of(served.folder, AutoConfig.from_pretrained(served.folder), max_new_tokens=NUM_NEW)
    engine = EndpointWriter.open(settings=settings, inference=inference, name=str(served.folder))
    return written(engine.submit(batch(*prompts)).result())


def _alone(folder: Path, prompt: str) -> tuple[int, str, int, int]:
    """How an answer ends, its text and the counts, by Transformers' own generate."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    given: Any = tokenizer(prompt, return_tensors="pt")
    num_prompt = given["input_ids"].shape[1]
    ids = model.generate(**given, max_new_tokens=NUM_NEW, do_sample=False)[0, num_prompt:].tolist()
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return LENGTH if len(ids) == NUM_NEW else STOP, text, num_prompt, len(ids)
