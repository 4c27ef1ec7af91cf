"""POST /predict: one row, or many, by the pipeline's model task."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tidemill.errors import InputError
from tidemill.serving.answering.calls import ERROR
from tidemill.serving.http.answers import Answers
from tidemill.serving.http.bodies import Asked, Bodies
from tidemill.serving.http.said import Refusal, answer
from tidemill.serving.pipelines.pipeline import ServedPipeline, find_pipeline


class ToPredict(Asked):
    inputs: str | dict[str, Any] | list[Any]
    """A row, or a list of rows: a text each, or an object of the columns that the model reads."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Options of the model task, for this request."""
    pipeline: str | None = None
    """Which pipeline's model answers; not needed where one is served."""


def predict_routes(pipelines: dict[str, ServedPipeline], bodies: Bodies, answers: Answers) -> APIRouter:
    router = APIRouter(tags=["Predictions"])

    @router.post("/predict", summary="Answer rows", openapi_extra=described(ToPredict, _EXAMPLES))
    async def predict(request: Request) -> Response:
        """What the table would hold of these rows: an object of result columns for one, a list in order for many.

        A row that has no answer is `{"error": ...}` in its place; if it is the only one, the status is 422.
        """
        asked = await bodies.read(request, ToPredict)
        pipeline = named(pipelines, asked.pipeline)
        if isinstance(asked.inputs, list):
            return answer(await answers.of(request, pipeline, asked.inputs, asked.parameters))
        found = await answers.of(request, pipeline, [asked.inputs], asked.parameters)
        return answer(found[0], status=422 if ERROR in found[0] else 200)

    return router


def named(pipelines: dict[str, ServedPipeline], name: str | None) -> ServedPipeline:
    """
    Raises:
        Refusal: none is named and there are several, or it is not served here.
    """
    try:
        return find_pipeline(pipelines, name)
    except InputError as e:
        raise Refusal(404 if name is not None else 422, str(e), param="pipeline", code="model_not_found") from None


def described(kind: type[Asked], examples: dict[str, Any]) -> dict[str, Any]:
    """What OpenAPI tells of a body, which is read by our own means."""
    shown = {name: {"summary": name, "value": value} for name, value in examples.items()}
    schema = kind.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": shown}}}}


_EXAMPLES = {
    "One text": {"inputs": "A warm film, and funny."},
    "Several texts": {"inputs": ["A warm film, and funny.", "Two hours that I want back."]},
    "Columns of a row, options, and a pipeline's name": {
        "inputs": [{"title": "Broken", "body": "The lid came off."}],
        "parameters": {"candidate_labels": ["praise", "complaint"]},
        "pipeline": "reviews",
    },
}
