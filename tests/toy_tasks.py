"""Three model tasks of the tests' own, on a small classifier: one finds spans, one gives vectors, one writes.

They are all that is added for them: whatever works for a table of theirs works by what a task says of itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from numpy.typing import NDArray

from tidemill.checkpoints.loading import load_weights
from tidemill.config import Pipeline, Section
from tidemill.engines.writing.generation.written import ANSWER, LENGTH, STOP, Written, answers_of, outputs_of
from tidemill.models.comparing import OF_WRITTEN, Comparison, Lists
from tidemill.models.tasks import MODEL_TASKS, ModelTask
from tidemill.models.tasks.scores import labels_of, softmax, values_of, vectors

ENTITY = pa.struct(
    {"entity": pa.string(), "score": pa.float32(), "word": pa.string(), "start": pa.int32(), "end": pa.int32()}
)
REFUSED = "TOY_TASKS_REFUSE"
"""An environment variable: rows with this word in them go to quarantine."""


class Toy(ModelTask):
    """An answer is the probability of each label."""

    @property
    def answer_type(self) -> pa.DataType:
        return pa.list_(pa.float32(), self.config.num_labels)

    def load(self, folder: str | Path, **options: Any) -> Any:
        return load_weights("AutoModelForSequenceClassification", folder, **options)

    def answers(self, outputs: NDArray[np.float32], lengths: Any) -> pa.Array:
        return vectors(softmax(outputs), self.config.num_labels)

    def drift(self, ours: pa.Array, theirs: pa.Array) -> NDArray[np.float32]:
        return np.asarray(np.abs(values_of(ours) - values_of(theirs)).max(axis=1))

    def same(self, ours: pa.Array, theirs: pa.Array) -> NDArray[np.bool_]:
        return np.asarray(values_of(ours).argmax(axis=1) == values_of(theirs).argmax(axis=1))

    def rows(self, answers: pa.ListArray, prepared: pa.Table) -> tuple[pa.Table, pa.StringArray]:
        texts = prepared["text"].to_pylist()
        word = os.environ.get(REFUSED)
        reasons = [f"the word {word} is refused" if word and text and word in text else None for text in texts]
        refused = [reason is not None for reason in reasons]
        found = [
            None if scores is None or no else np.asarray(scores[0], dtype=np.float32)
            for scores, no in zip(answers.to_pylist(), refused, strict=True)
        ]
        columns = self.columns(found, texts)
        return pa.table(columns, schema=self.schema), pa.array(reasons, pa.string())

    def columns(self, scores: list[Any], texts: list[str]) -> dict[str, Any]:
        raise NotImplementedError


class ToyEntities(Toy):
    """Every capitalised word is an entity of the text's label."""

    pipeline_tag: ClassVar[str] = "toy-entities"
    comparisons: ClassVar[dict[str, Comparison]] = {"entities": Lists(by=("start", "end", "entity"))}

    @property
    def schema(self) -> pa.Schema:
        scores = [("scores", pa.map_(pa.string(), pa.float32()))] if self.all_scores else []
        return pa.schema([("entities", pa.list_(ENTITY)), *scores])

    def columns(self, scores: list[Any], texts: list[str]) -> dict[str, Any]:
        labels = labels_of(self.config)
        found: dict[str, Any] = {
            "entities": [one and list(self._entities(*one, labels)) for one in _pairs(scores, texts)]
        }
        if self.all_scores:
            maps = [None if one is None else list(zip(labels, one.tolist(), strict=True)) for one in scores]
            found["scores"] = maps
        return found

    def _entities(self, scores: Any, text: str, labels: list[str]) -> Iterator[dict[str, Any]]:
        best = int(scores.argmax())
        for word in re.finditer(r"[A-Z]\w+", text):
            yield {
                "entity": labels[best],
                "score": float(scores[best]),
                "word": word[0],
                "start": word.start(),
                "end": word.end(),
            }


class ToyEmbedding(Toy):
    """A direction that turns with the score."""

    class Options(Section):
        size: int = 8

    pipeline_tag: ClassVar[str] = "toy-embedding"

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([("embedding", pa.list_(pa.float32(), self.options.size))])

    def columns(self, scores: list[Any], texts: list[str]) -> dict[str, Any]:
        turns = np.arange(1, self.options.size + 1, dtype=np.float32)
        return {"embedding": [None if one is None else np.cos(turns * one[0]).tolist() for one in scores]}


class ToyWriter(Toy):
    """It writes the text's label as often as the text has tokens: of the same text, always the same."""

    class Options(Section):
        word: str = "word"
        max_new_tokens: int = 40

    pipeline_tag: ClassVar[str] = "toy-writer"
    writes: ClassVar[bool] = True
    comparisons = OF_WRITTEN

    @property
    def num_written(self) -> int:
        return int(self.options.max_new_tokens)

    @property
    def schema(self) -> pa.Schema:
        counts = [(name, pa.int32()) for name in ("num_prompt_tokens", "num_new_tokens")]
        return pa.schema([("text", pa.string()), ("finish_reason", pa.string()), *counts])

    @property
    def answer_type(self) -> pa.DataType:
        return ANSWER

    def num_new_tokens(self, answers: pa.Array) -> int | None:
        total: int | None = pc.sum(answers.field("num_new_tokens")).as_py()
        return total

    def answers(self, outputs: NDArray[np.float32], lengths: Any) -> pa.Array:
        most = self.num_written
        written = [
            Written([int(label)] * min(n, most), STOP if n <= most else LENGTH, n, min(n, most))
            for label, n in zip(outputs.argmax(axis=1), lengths.tolist(), strict=True)
        ]
        return answers_of(outputs_of(written))

    def columns(self, scores: list[Any], texts: list[str]) -> dict[str, Any]:
        raise NotImplementedError

    def rows(self, answers: pa.ListArray, prepared: pa.Table) -> tuple[pa.Table, pa.StringArray]:
        word, refused = self.options.word, os.environ.get(REFUSED)
        found = [None if one is None else one[0] for one in answers.to_pylist()]
        texts = [one and " ".join(f"{word}{id_}" for id_ in one["ids"]) for one in found]
        no = [bool(refused and text and refused in text) for text in prepared["text"].to_pylist()]
        rows = [
            (text, ("stop", "length")[one["finish"]], one["num_prompt_tokens"], one["num_new_tokens"])
            if one and not failed
            else (None,) * 4
            for one, text, failed in zip(found, texts, no, strict=True)
        ]
        table = pa.table(dict(zip(self.schema.names, zip(*rows, strict=True), strict=True)), schema=self.schema)
        return table, pa.array(["the answer is refused" if each else None for each in no], pa.string())

    def drift(self, ours: pa.Array, theirs: pa.Array) -> NDArray[np.float32]:
        return np.asarray(~self.same(ours, theirs), dtype=np.float32)

    def same(self, ours: pa.Array, theirs: pa.Array) -> NDArray[np.bool_]:
        return np.array([a == b for a, b in zip(ours.to_pylist(), theirs.to_pylist(), strict=True)], dtype=bool)


def _pairs(scores: list[Any], texts: list[str]) -> Iterator[tuple[Any, str] | None]:
    return (None if one is None else (one, text) for one, text in zip(scores, texts, strict=True))


TOYS: dict[str, type[ModelTask]] = {toy.pipeline_tag: toy for toy in (ToyEntities, ToyEmbedding, ToyWriter)}


def register(patch: pytest.MonkeyPatch) -> None:
    """The toys are model tasks until the patch is undone."""
    for tag, toy in TOYS.items():
        patch.setitem(MODEL_TASKS, tag, toy)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def run_in_process_with_toys(pipeline: Pipeline, home: Path) -> dict[str, Any]:
    """`run_in_process`, where the process has been told of them."""
    from tests.processes import run_in_process

    MODEL_TASKS.update(TOYS)
    return run_in_process(pipeline, home)
