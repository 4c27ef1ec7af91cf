"""Under which licences the data and the base model are, where the Hub or a folder's card says so."""

from __future__ import annotations

from collections.abc import Callable

from tidemill.errors import TidemillError
from tidemill.publishing.licences import Origin, dataset_origin, model_origin
from tidemill.sources.hub.asking import impatient
from tidemill.training.examples.reading import Examples
from tidemill.training.given.base import BaseModel
from tidemill.training.given.file import TrainingFile


def licences_of(file: TrainingFile, base: BaseModel, examples: Examples) -> dict[str, str | None]:
    """None of what says none, and of a query's rows: whoever wrote the query knows what it reads."""
    revision = str(examples.source.get("revision") or "")
    return {
        "data": _said(lambda: dataset_origin({"path": file.data.path}, revision)) if file.data.path else None,
        "base": _said(lambda: model_origin(base.spec.model_path, base.spec.model)),
    }


def _said(origin: Callable[[], Origin]) -> str | None:
    """The training is done by now, and a Hub that does not answer takes nothing from it."""
    try:
        with impatient():
            return origin().licence
    except TidemillError:
        return None
