"""POST /v1/chat/completions and /v1/completions, as OpenAI's clients expect them: whole, or as they are written."""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field, model_validator
from starlette.responses import StreamingResponse

from tidemill.serving.answering.calls import ERROR, Record
from tidemill.serving.answering.version import Reading
from tidemill.serving.http.answers import Answers
from tidemill.serving.http.bodies import Asked, Bodies
from tidemill.serving.http.said import Refusal, answer
from tidemill.serving.http.streams import Shape, streamed
from tidemill.serving.pipelines.pipeline import ServedPipeline
from tidemill.serving.routes.predict import described, named


class StreamOptions(Asked):
    include_usage: bool = False
    include_obfuscation: bool = False


class ToWrite(Asked):
    """What both have; fields that would ask for another answer than the model gives take one value alone."""

    model: str | None = None
    """The pipeline's name."""
    max_tokens: Annotated[int, Field(gt=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 for the most probable token each time. What the client leaves out is as the pipeline says."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    logit_bias: None = None
    user: str | None = None
    """It is not used."""

    @model_validator(mode="before")
    @classmethod
    def _whole_zero(cls, value: Any) -> Any:
        """A penalty of 0.0 is none, too."""
        if not isinstance(value, dict):
            return value
        of_none = ("presence_penalty", "frequency_penalty")
        return {key: 0 if key in of_none and item == 0 else item for key, item in value.items()}

    def parameters(self) -> dict[str, Any]:
        """As options of the model task."""
        given = {"max_new_tokens": self.most_tokens, "top_p": self.top_p, "seed": self.seed}
        found: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if self.stop is not None:
            found["stop"] = [self.stop] if isinstance(self.stop, str) else self.stop
        if self.temperature == 0:
            return {**found, "do_sample": False}
        if self.temperature is not None:
            found |= {"do_sample": True, "temperature": self.temperature}
        elif self.top_p is not None and self.top_p < 1:
            found["do_sample"] = True
        return found

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens


class ToChat(ToWrite):
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    """Objects of a `role` and its `content`."""
    max_completion_tokens: Annotated[int, Field(gt=0)] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    logprobs: Literal[False] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class ToComplete(ToWrite):
    prompt: str | list[Any]
    """A text, or a list of texts. Token ids are refused."""
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    logprobs: None = None
    suffix: None = None


CHAT = Shape("chatcmpl", "chat.completion", "chat.completion.chunk")
COMPLETION = Shape("cmpl", "text_completion", "text_completion")


def writing_routes(pipelines: dict[str, ServedPipeline], bodies: Bodies, answers: Answers) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["As OpenAI's"])

    @router.post("/chat/completions", summary="Answer a chat", openapi_extra=described(ToChat, _OF_CHATS))
    async def chat(request: Request) -> Response:
        """Of pipelines whose model task is text-generation; through the model's chat template."""
        asked = await bodies.read(request, ToChat)
        return await _written(request, pipelines, answers, asked, [asked.messages], CHAT, "messages")

    @router.post("/completions", summary="Go on with a prompt", openapi_extra=described(ToComplete, _OF_PROMPTS))
    async def complete(request: Request) -> Response:
        """Of pipelines whose model task is text-generation. The prompt is the whole prompt."""
        asked = await bodies.read(request, ToComplete)
        return await _written(request, pipelines, answers, asked, _prompts(asked.prompt), COMPLETION, "prompt")

    return router


async def _written(
    request: Request,
    pipelines: dict[str, ServedPipeline],
    answers: Answers,
    asked: ToWrite,
    inputs: list[Any],
    form: Shape,
    reading: Reading,
) -> Response:
    pipeline = named(pipelines, asked.model)
    if pipeline.version.spec.task != "text-generation":
        raise Refusal(400, f"{pipeline.name} writes no text behind a prompt: its task is {pipeline.version.spec.task}.")
    facts = {
        "id": f"{form.prefix}-{secrets.token_hex(12)}",
        "object": form.name,
        "created": int(time.time()),
        "model": pipeline.name,
    }
    if not asked.stream:
        found = await answers.of(request, pipeline, inputs, asked.parameters(), reading=reading)
        choices = [form.choice(place, _text(record, place), record) for place, record in enumerate(found)]
        return answer({**facts, "choices": choices, "usage": usage_of(found)})
    if len(inputs) != 1:
        raise Refusal(400, "stream: one prompt can be streamed at a time.", param="stream")
    with_usage = asked.stream_options is not None and asked.stream_options.include_usage
    facts["object"] = form.of_chunks
    chunks = await streamed(
        request, answers, pipeline, inputs, asked.parameters(), reading=reading, form=form, facts=facts,
        with_usage=with_usage,
    )  # fmt: skip
    return StreamingResponse(chunks, media_type="text/event-stream")


def usage_of(records: list[Record]) -> dict[str, int]:
    num_prompt = sum(record.get("num_prompt_tokens") or 0 for record in records)
    num_new = sum(record.get("num_new_tokens") or 0 for record in records)
    return {"prompt_tokens": num_prompt, "completion_tokens": num_new, "total_tokens": num_prompt + num_new}


def _text(record: Record, place: int) -> str:
    if ERROR in record:
        raise Refusal(400, f"[{place}]: {record[ERROR]}")
    return str(record["text"])


def _prompts(given: str | list[Any]) -> list[str]:
    prompts = [given] if isinstance(given, str) else given
    if not prompts:
        raise Refusal(400, "prompt: it is empty.", param="prompt")
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise Refusal(
            400, "prompt: token ids are of another tokenizer than the model's. Send texts.", param="prompt",
            code="token_ids",
        )  # fmt: skip
    return prompts


_OF_CHATS = {"A question": {"model": "answers", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}}
_OF_PROMPTS = {"A beginning": {"model": "answers", "prompt": "The sky is blue because", "max_tokens": 40}}
