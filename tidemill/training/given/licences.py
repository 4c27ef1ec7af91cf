"""Under which licences the data and the base model are, where the Hub or a folder's card says so."""

from __future__ import annotations

from tidemill.errors import TidemillError
from tidemill.publishing.licences import dataset_origin, model_origin
from tidemill.training.examples.reading import Examples
from tidemill.training.given.base import BaseModel
from tidemill.training.given.file import TrainingFile


def licences_of(file: TrainingFile, base: BaseModel, examples: Examples) -> dict[str, str | None]:
    """None of what says none, and of a query's rows: whoever wrote the query knows what it reads."""
    return {
        "data": _of_data(file, str(examples.source.get("revision") or "")) if file.data.path else None,
        "base": _of_base(base),
    }


def _of_data(file: TrainingFile, revision: str) -> str | None:
    try:
        return dataset_origin({"path": file.data.path}, revision).licence
    except TidemillError:  # The training is done by now, and a Hub that does not answer takes nothing from it.
        return None


def _of_base(base: BaseModel) -> str | None:
    try:
        return model_origin(base.spec.model_path, base.spec.model).licence
    except TidemillError:
        return None
