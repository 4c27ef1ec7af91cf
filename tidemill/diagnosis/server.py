"""The server that a pipeline's model is served by: whether it answers, has the model, and goes on with a prompt."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tidemill.config import Pipeline
from tidemill.diagnosis.finding import Finding

if TYPE_CHECKING:
    from tidemill.engines.writing.endpoint import EndpointWriter

SLOW_SECONDS = 5.0
"""For one token."""
WORD = "Hello"


def server(pipeline: Pipeline) -> list[Finding]:
    """Let it write one token.

    Raises:
        TidemillError: it does not answer, refuses the key, or has no such model.
    """
    from tidemill.checkpoints.served import served_config
    from tidemill.engines.writing.endpoint import EndpointWriter
    from tidemill.models.tasks.writing.task import WritingTask
    from tidemill.planning.versions import declared, task_of

    spec = declared(pipeline)
    task = task_of(spec, served_config(spec.model_path))
    assert isinstance(task, WritingTask), "no other is served"
    settings = replace(task.settings, max_new_tokens=1)
    writer = EndpointWriter.open(settings=settings, inference=pipeline.inference, name=spec.model_path, retries=0)
    return [_tried(writer)]


def _tried(writer: EndpointWriter) -> Finding:
    started = time.monotonic()
    # Some servers take prompts alone, some messages: the pipeline's rows are one of them.
    refused = _refusal(writer, WORD) and _refusal(writer, [{"role": "user", "content": WORD}])
    seconds = time.monotonic() - started
    facts = writer.facts()
    said = f"{facts['device_name']} serves {facts['served']['id']}, a token took {seconds:.1f} s"
    if refused is not None:
        return Finding("pipeline", "server", "fails", f"{facts['device_name']}: {refused}", needed=True)
    if writer.doubt is not None:
        return Finding("pipeline", "server", "slow", writer.doubt, "check model.path")
    if seconds > SLOW_SECONDS:
        return Finding("pipeline", "server", "slow", said, "give it more to compute with, or wait until it has started")
    return Finding("pipeline", "server", "works", said)


def _refusal(writer: EndpointWriter, prompt: object) -> str | None:
    """Why the server does not go on with a prompt; None where it does."""
    from tidemill.encoding.items import IDS
    from tidemill.encoding.prompts import packed
    from tidemill.engines.writing.endpoint.protocol import SPENT_THINKING
    from tidemill.engines.writing.generation.written import FAILED
    from tidemill.errors import RunFailed

    inputs = {IDS: np.array([packed(json.dumps(prompt).encode())])}
    try:
        finish, _, _, *ids = writer.submit(inputs).result()[0].tolist()
    except RunFailed as e:
        return str(e)
    reason = bytes(ids).decode(errors="replace") if finish == FAILED else None
    return None if reason == SPENT_THINKING else reason
