"""POST /v1/embeddings and GET /v1/models, as OpenAI's clients expect them."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import Field

from tidemill.serving.answering.calls import ERROR, Record
from tidemill.serving.http.answers import Answers
from tidemill.serving.http.bodies import Asked, Bodies
from tidemill.serving.http.said import Refusal, answer
from tidemill.serving.pipelines.pipeline import ServedPipeline
from tidemill.serving.routes.predict import described, named

EMBEDDING = "embedding"


class ToEmbed(Asked):
    input: str | list[Any]
    """A text, or a list of texts. Token ids are refused: they would be another tokenizer's."""
    model: str | None = None
    """The pipeline's name."""
    encoding_format: Literal["float", "base64"] = "float"
    """How an embedding is written: as numbers, or as the base64 of float32s. OpenAI's client asks for the latter."""
    dimensions: Annotated[int, Field(gt=0)] | None = None
    """How many dimensions are kept, the first ones; the rest is made one long again."""
    user: str | None = None
    """It is not used."""


def embedding_routes(pipelines: dict[str, ServedPipeline], bodies: Bodies, answers: Answers) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["As OpenAI's"])

    @router.get("/models", summary="The pipelines")
    async def models() -> Response:
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "tidemill"} for name in pipelines]
        return answer({"object": "list", "data": listed})

    @router.post("/embeddings", summary="Embeddings of texts", openapi_extra=described(ToEmbed, _EXAMPLES))
    async def embeddings(request: Request) -> Response:
        """Of pipelines whose model task is feature-extraction or sentence-similarity."""
        asked = await bodies.read(request, ToEmbed)
        pipeline = named(pipelines, asked.model)
        texts = _texts(asked.input)
        if EMBEDDING not in pipeline.version.runner.result_schema.names:
            raise Refusal(
                400, f"{pipeline.name} is no pipeline of embeddings: its task is {pipeline.version.spec.task}."
            )
        found = await answers.of(request, pipeline, texts, {})
        listed = [
            {"object": EMBEDDING, "index": place, EMBEDDING: _written(_vector(record, place, asked), asked)}
            for place, record in enumerate(found)
        ]
        num_tokens = sum(record["num_tokens"] or 0 for record in found)
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        return answer({"object": "list", "data": listed, "model": pipeline.name, "usage": usage})

    return router


def _texts(given: str | list[Any]) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not texts:
        raise Refusal(400, "input: it is empty.", param="input")
    for place, text in enumerate(texts):
        if isinstance(text, int | list):
            raise Refusal(
                400,
                "input: token ids are of another tokenizer than the model's. Send texts; LangChain does with "
                "check_embedding_ctx_length=False.",
                param="input",
                code="token_ids",
            )
        if not isinstance(text, str):
            raise Refusal(400, f"input[{place}]: it is no text.", param="input")
    return texts


def _vector(record: Record, place: int, asked: ToEmbed) -> np.ndarray:
    if ERROR in record:
        raise Refusal(400, f"input[{place}]: {record[ERROR]}", param="input")
    vector = np.array(record[EMBEDDING], dtype=np.float32)
    if asked.dimensions is None or asked.dimensions == len(vector):
        return vector
    if asked.dimensions > len(vector):
        raise Refusal(400, f"dimensions: the model has {len(vector)}.", param="dimensions")
    first = vector[: asked.dimensions]
    length = float(np.linalg.norm(first))
    return first / length if length else first


def _written(vector: np.ndarray, asked: ToEmbed) -> Any:
    return (
        vector.tolist()
        if asked.encoding_format == "float"
        else base64.b64encode(vector.astype("<f4").tobytes()).decode()
    )


_EXAMPLES = {"Texts": {"model": "reviews", "input": ["A warm film, and funny.", "Two hours that I want back."]}}
