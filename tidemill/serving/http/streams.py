"""Answers as they are written: server-sent events, as OpenAI's clients read them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request

from tidemill.models.tasks.writing.task import WritingTask
from tidemill.serving.answering.calls import ERROR, Call, Record
from tidemill.serving.answering.version import Reading
from tidemill.serving.http.answers import Answers, late, result_of
from tidemill.serving.http.said import Refusal
from tidemill.serving.pipelines.pipeline import ServedPipeline

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Shape:
    """How OpenAI calls an answer, and what a choice of it looks like."""

    prefix: str
    name: str
    of_chunks: str

    @property
    def is_chat(self) -> bool:
        return self.prefix == "chatcmpl"

    def choice(self, place: int, text: str, record: Record) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
        return {"index": place, **said, "logprobs": None, "finish_reason": record["finish_reason"]}

    def piece(self, text: str | None, finish: str | None = None, *, is_first: bool = False) -> dict[str, Any]:
        """A part of the only choice."""
        if not self.is_chat:
            return {"index": 0, "text": text or "", "logprobs": None, "finish_reason": finish}
        delta = ({"role": "assistant"} if is_first else {}) | ({} if text is None else {"content": text})
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


async def streamed(
    request: Request,
    answers: Answers,
    pipeline: ServedPipeline,
    inputs: Sequence[Any],
    parameters: Mapping[str, Any],
    *,
    reading: Reading,
    form: Shape,
    facts: Mapping[str, Any],
    with_usage: bool,
) -> AsyncIterator[bytes]:
    """The events of one answer. A client that leaves ends the generator, and with it the writing.

    Raises:
        Refusal: nothing can be written, as is known before the first event.
    """
    loop, told, seconds = asyncio.get_running_loop(), asyncio.Queue[list[int]](), answers.seconds(request)

    def tell(ids: list[int]) -> None:
        loop.call_soon_threadsafe(told.put_nowait, ids)

    calling = answers.calling(pipeline, inputs, parameters, seconds, told=tell, reading=reading)
    call = await calling.__aenter__()

    async def events() -> AsyncIterator[bytes]:
        try:
            async for event in _events(call, told, form, facts, seconds, with_usage=with_usage):
                yield event
        finally:
            await calling.__aexit__(None, None, None)

    return events()


async def _events(
    call: Call,
    told: asyncio.Queue[list[int]],
    form: Shape,
    facts: Mapping[str, Any],
    seconds: float,
    *,
    with_usage: bool,
) -> AsyncIterator[bytes]:
    def event(*choices: Mapping[str, Any], **more: Any) -> bytes:
        usage = {"usage": None} if with_usage else {}
        return b"data: " + orjson.dumps({**facts, "choices": list(choices), **usage, **more}) + b"\n\n"

    if form.is_chat:
        yield event(form.piece("", is_first=True))
    sent = ""
    try:
        async for text in _texts(call, told, seconds):
            if len(text) > len(sent) and text.startswith(sent):
                yield event(form.piece(text[len(sent) :]))
                sent = text
        record = result_of(call.done)[0]
        if ERROR in record:
            raise Refusal(400, record[ERROR])
    except Refusal as e:
        yield b"data: " + bytes(e.answer("/v1/").body) + b"\n\n"
        return
    if record["text"].startswith(sent) and record["text"] != sent:
        yield event(form.piece(record["text"][len(sent) :]))
    yield event(form.piece(None, record["finish_reason"]))
    if with_usage:
        counts = [record["num_prompt_tokens"] or 0, record["num_new_tokens"] or 0]
        usage = dict(zip(("prompt_tokens", "completion_tokens", "total_tokens"), [*counts, sum(counts)], strict=True))
        yield event(usage=usage)
    yield DONE


async def _texts(call: Call, told: asyncio.Queue[list[int]], seconds: float) -> AsyncIterator[str]:
    """The text so far, each time that there is more of it.

    Raises:
        Refusal: the deadline passed.
    """
    task = call.form.runner.task
    assert isinstance(task, WritingTask)
    done = asyncio.wrap_future(call.done)
    try:
        async with asyncio.timeout(seconds):
            while not done.done():
                getting = asyncio.ensure_future(told.get())
                either: set[asyncio.Future[Any]] = {getting, done}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    getting.cancel()
                    return
                ids = getting.result()
                while not told.empty():
                    ids = told.get_nowait()
                yield task.begun(ids)
    except TimeoutError:
        raise late(seconds) from None
