"""Text ranking: how well a second text answers the first, as `CrossEncoder` of sentence-transformers scores a pair."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.checkpoints.cross_encoder import IDENTITY, read_cross_encoder
from tidemill.encoding.batching import Indices
from tidemill.encoding.items import Outputs
from tidemill.errors import ModelError
from tidemill.models.task import ModelTask, Preparer, Reading, no_reasons, of_all_rows
from tidemill.models.tasks.scores import sigmoid

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class TextRanking(ModelTask):
    """An answer is one score: the sigmoid of the model's only output, or that output where the model says so."""

    family = "scores"
    pipeline_tag = "text-ranking"
    auto_class = "AutoModelForSequenceClassification"
    made_for = "a cross-encoder, which has one output"
    takes_pairs = True
    reads_modules = True

    def __init__(self, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        if not self.is_pair:
            raise ModelError(
                f'model.task = "{self.pipeline_tag}" scores pairs of texts. Set dataset.text to the column of the '
                "queries, and dataset.text_pair to that of the texts to be ranked."
            )
        if self.all_scores:
            raise ModelError(
                f'model.all_scores = true stores a score a class, and model.task = "{self.pipeline_tag}" has one score '
                "and no classes. Leave it out."
            )
        self._saved = read_cross_encoder(config)
        self.is_regression = self._saved.activation == IDENTITY

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([("score", pa.float32())])

    @property
    def answer_type(self) -> pa.DataType:
        return pa.float32()

    def preparer(self, folder: str | Path, reading: Reading) -> Preparer:
        if reading.max_length == "auto" and self._saved.max_length is not None:
            most = [length for length in (self._saved.max_length, reading.model_max_length) if length is not None]
            reading = replace(reading, max_length=min(most))
        return super().preparer(folder, reading)

    def answers(self, outputs: Outputs, lengths: Indices) -> pa.Array:
        scores_B = outputs[:, 0] if self.is_regression else sigmoid(outputs)[:, 0]
        return pa.array(np.ascontiguousarray(scores_B), pa.float32())

    def rows(self, answers: pa.ListArray, prepared: pa.Table) -> tuple[pa.Table, pa.StringArray]:
        return pa.table([of_all_rows(answers.flatten(), answers)], schema=self.schema), no_reasons(len(answers))

    def drift(self, ours: pa.Array, theirs: pa.Array) -> NDArray[np.float32]:
        return np.asarray(np.abs(ours.to_numpy() - theirs.to_numpy()))

    def same(self, ours: pa.Array, theirs: pa.Array) -> NDArray[np.bool_]:
        # A score is not of a class: how far it is away is all that there is to say.
        return np.ones(len(ours), dtype=bool)

    def _refuse_other_heads(self) -> None:
        writers = [name for name in self.config.architectures or [] if name.endswith("ForCausalLM")]
        if writers:
            raise ModelError(
                f"The model is a {', '.join(writers)}, which ranks by writing an answer, and Tidemill lets no model "
                "write. Set model.path to a ranker with one output, a ...ForSequenceClassification."
            )
        super()._refuse_other_heads()
        if self.config.num_labels != 1:
            raise ModelError(
                f"The model has {self.config.num_labels} outputs, which are classes, and a ranker has one. Set "
                'model.task = "text-classification" for the classes of pairs, or model.path to a ranker.'
            )
