"""The application: its routes in order, behind the gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp

from tidemill.serving.answering.limits import Limits
from tidemill.serving.http.answers import Answers
from tidemill.serving.http.bodies import Bodies
from tidemill.serving.http.gate import BROKEN, Gate
from tidemill.serving.http.said import Refusal
from tidemill.serving.pipelines.metrics import Metrics
from tidemill.serving.pipelines.pipeline import ServedPipeline
from tidemill.serving.routes.embeddings import embedding_routes
from tidemill.serving.routes.operations import operation_routes
from tidemill.serving.routes.page import page
from tidemill.serving.routes.predict import predict_routes
from tidemill.serving.routes.written import writing_routes

ABOUT = (
    "Predictions of {names}, by the version of each that is promoted.\n\n"
    "Every request needs the header Authorization: Bearer TOKEN, but for /health, /ready and this page."
)


def make_app(
    pipelines: dict[str, ServedPipeline],
    limits: Limits,
    metrics: Metrics,
    *,
    token: str,
    hosts: Sequence[str] = (),
    is_ending: Callable[[], bool] = lambda: False,
) -> ASGIApp:
    """`hosts` are names by which it may be asked beside those of loopback."""
    app = FastAPI(
        title="Tidemill's predictions",
        version=version("tidemill"),
        description=ABOUT.format(names=", ".join(pipelines)),
        docs_url=None,
        redoc_url=None,
    )
    bodies, answers = Bodies(limits), Answers(limits)
    app.include_router(predict_routes(pipelines, bodies, answers))
    app.include_router(embedding_routes(pipelines, bodies, answers))
    app.include_router(writing_routes(pipelines, bodies, answers))
    app.include_router(operation_routes(pipelines, metrics, is_ending))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page(app.openapi()))

    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _not_there)
    app.add_exception_handler(Exception, _broken)
    metrics.show(pipelines)

    def seconds_until_room() -> int:
        return min((pipeline.workers.seconds_until_room() for pipeline in pipelines.values()), default=0)

    return Gate(
        app,
        token=token,
        hosts=hosts,
        observe=metrics.observe,
        is_ending=is_ending,
        seconds_until_room=seconds_until_room,
    )


async def _refused(request: Request, error: Any) -> Response:
    found: Response = error.answer(request.url.path)
    return found


async def _broken(request: Request, error: Any) -> Response:
    """The gate tells where."""
    return BROKEN.answer(request.url.path)


async def _not_there(request: Request, error: Any) -> Response:
    """Of what Starlette refuses itself: a path or a method that there is not."""
    said = {404: "There is nothing at this path. /docs lists what there is.", 405: "This path takes another method."}
    message = said.get(error.status_code, "The request cannot be answered.")
    return Refusal(error.status_code, message, headers=error.headers).answer(request.url.path)
