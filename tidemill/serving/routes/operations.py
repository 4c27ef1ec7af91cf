"""What runs the service asks: whether it lives, is ready, and how it goes; and what the table holds of a row."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request, Response

from tidemill.errors import InputError, TidemillError
from tidemill.serving.answering.records import shown
from tidemill.serving.http.said import Refusal, answer
from tidemill.serving.pipelines.metrics import CONTENT_TYPE, Metrics
from tidemill.serving.pipelines.pipeline import ServedPipeline
from tidemill.serving.routes.predict import named


def operation_routes(
    pipelines: dict[str, ServedPipeline], metrics: Metrics, is_ending: Callable[[], bool]
) -> APIRouter:
    router = APIRouter()

    @router.get("/health", tags=["Operation"], summary="Whether the process answers")
    async def health() -> Response:
        return answer({"status": "ok"})

    @router.get("/ready", tags=["Operation"], summary="Whether to send requests here")
    async def ready() -> Response:
        """503 while the service ends, where a device broke, and where rows wait and nothing moves."""
        why = "the service ends" if is_ending() else _trouble(pipelines)
        return answer({"status": "not ready", "why": why}, status=503) if why else answer({"status": "ready"})

    @router.get("/version", tags=["Operation"], summary="What is served")
    async def what() -> Response:
        facts = [pipeline.facts() for pipeline in pipelines.values()]
        return answer({"tidemill": version("tidemill"), "pipelines": facts})

    @router.get("/metrics", tags=["Operation"], summary="Counts for Prometheus")
    async def counts() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @router.get("/rows/{key:path}", tags=["Tables"], summary="What the table holds of a row", openapi_extra=_OF_ROWS)
    async def rows(request: Request) -> Response:
        """The row whose key this is, or a list where several have it. Integers beyond 2^53 are texts.

        A key of several columns is a JSON list of their values; in a table without a key it is a list of a file's path
        and the row's number in it.
        """
        pipeline = named(pipelines, request.query_params.get("pipeline"))
        return answer(await asyncio.to_thread(_rows, pipeline, request.path_params["key"]))

    return router


def _trouble(pipelines: dict[str, ServedPipeline]) -> str | None:
    now = time.monotonic()
    for name, pipeline in pipelines.items():
        if pipeline.workers.broken is not None:
            return f"{name}: {pipeline.workers.broken}"
        if pipeline.workers.is_stuck(now):
            return f"{name}: rows wait, and nothing moves"
    return None


def _rows(pipeline: ServedPipeline, key: str) -> Any:
    try:
        found = pipeline.rows(_values(key))
    except InputError as e:
        raise Refusal(422, str(e)) from None
    except TidemillError as e:
        raise Refusal(503, str(e), headers={"retry-after": "1"}) from None
    if not found:
        raise Refusal(404, "The table has no row of this key.")
    listed = [shown(row) for row in found]
    return listed[0] if len(listed) == 1 else listed


def _values(key: str) -> list[Any]:
    """Of a JSON list its values; any other key is a value by itself."""
    if key.startswith("["):
        try:
            values = json.loads(key)
        except (ValueError, RecursionError):
            return [key]
        if isinstance(values, list) and all(isinstance(value, str | int | float) for value in values):
            return values
    return [key]


_OF_ROWS = {
    "parameters": [
        {"name": "key", "in": "path", "required": True, "schema": {"type": "string"}, "example": "dvd-1029"},
        {"name": "pipeline", "in": "query", "required": False, "schema": {"type": "string"}},
    ]
}
