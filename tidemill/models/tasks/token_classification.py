"""Token classification: the entities of a text, as `TokenClassificationPipeline` finds them, with their places in it.

A long text in windows is put together before its tokens are grouped: no entity is cut or found twice.
"""

from __future__ import annotations

import difflib
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from tidemill.config import Section
from tidemill.encoding.batching import Indices
from tidemill.encoding.items import Outputs
from tidemill.encoding.offsets import OffsetTokenizer
from tidemill.errors import ModelError
from tidemill.models.comparing import Comparison, Lists
from tidemill.models.task import ModelTask, Preparer, Reading, no_reasons
from tidemill.models.tasks.entities.answers import BEST, all_scores, best_labels, drift, same
from tidemill.models.tasks.entities.finding import ENTITY, find_entities
from tidemill.models.tasks.entities.grouping import Strategy
from tidemill.models.tasks.entities.schemes import OUTSIDE, Scheme
from tidemill.models.tasks.entities.words import Vocabulary
from tidemill.models.tasks.scores import labels_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class TokenClassificationOptions(Section):
    aggregation_strategy: Strategy = "none"
    """How tokens become entities, by the names of Transformers: each token by itself, or what follows each other in
    one entity, with one label for a word (`first`, `average`, `max`) or not (`simple`)."""
    ignore_labels: list[str] = Field(default=[OUTSIDE])
    """What is no entity: labels of the model, or where tokens are grouped the names of groups."""


class TokenClassification(ModelTask):
    """An answer is a list of one value a token: its best label, or where words are averaged its scores."""

    family = "entities"
    pipeline_tag = "token-classification"
    auto_class = "AutoModelForTokenClassification"
    made_for = "a model that was fine-tuned to find entities"
    Options = TokenClassificationOptions
    comparisons: ClassVar[dict[str, Comparison]] = {"entities": Lists(by=("start", "end", "entity"))}

    def __init__(self, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self._refuse_options_of_others()
        self._labels = labels_of(config)
        self._names = self._labels if self._strategy == "none" else Scheme.of(self._labels).names
        self._refuse_unknown_labels()
        self._is_shown = np.array([name not in self.options.ignore_labels for name in self._names], dtype=bool)
        self._tokenizer: tuple[str | Path, bool] | None = None

    @property
    def _strategy(self) -> Strategy:
        strategy: Strategy = self.options.aggregation_strategy
        return strategy

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([("entities", pa.list_(ENTITY))])

    @property
    def answer_type(self) -> pa.DataType:
        return pa.list_(pa.list_(pa.float32(), len(self._labels)) if self._strategy == "average" else BEST)

    def preparer(self, folder: str | Path, reading: Reading) -> Preparer:
        return OffsetTokenizer.load(folder, **reading.of_texts)

    def decode_with(self, folder: str | Path, *, trust_remote_code: bool = False) -> None:
        self._tokenizer = folder, trust_remote_code

    @functools.cached_property
    def _vocabulary(self) -> Vocabulary:
        assert self._tokenizer is not None, "words are decoded by a tokenizer that somebody names"
        folder, trust_remote_code = self._tokenizer
        return Vocabulary.load(folder, trust_remote_code=trust_remote_code)

    def answers(self, outputs: Outputs, lengths: Indices) -> pa.Array:
        return all_scores(outputs, lengths) if self._strategy == "average" else best_labels(outputs, lengths)

    def rows(self, answers: pa.ListArray, prepared: pa.Table) -> tuple[pa.Table, pa.StringArray]:
        entities = find_entities(
            answers,
            prepared,
            self._vocabulary,
            strategy=self._strategy,
            labels=self._labels,
            ignored=self.options.ignore_labels,
        )
        return pa.Table.from_arrays([entities], schema=self.schema), no_reasons(len(answers))

    def drift(self, ours: pa.Array, theirs: pa.Array) -> NDArray[np.float32]:
        return drift(ours, theirs, self._is_shown)

    def same(self, ours: pa.Array, theirs: pa.Array) -> NDArray[np.bool_]:
        return same(ours, theirs, self._is_shown)

    def _refuse_options_of_others(self) -> None:
        if self.all_scores:
            raise ModelError(
                "model.all_scores = true stores a score for each class of a text, and model.task = "
                f'"{self.pipeline_tag}" has none. Set it to false; each entity has its own score.'
            )
        if self.pooling is not None and self.pooling.aggregate != "mean":
            raise ModelError(
                f'tokenizer.aggregate = "{self.pooling.aggregate}" makes one score of the scores of windows, and with '
                f'model.task = "{self.pipeline_tag}" each token is decided in one window. Leave it out.'
            )

    def _refuse_unknown_labels(self) -> None:
        for label in self.options.ignore_labels:
            if label not in self._names and label != OUTSIDE:
                known = sorted(set(self._names))
                near = difflib.get_close_matches(label, known, n=1)
                hint = f'Did you mean "{near[0]}"?' if near else f"It has {', '.join(known)}."
                raise ModelError(
                    f'model.options.ignore_labels has "{label}", and with model.options.aggregation_strategy = '
                    f'"{self._strategy}" the model has no such entity. {hint}'
                )
