"""Text classification: the best label and its score, as `TextClassificationPipeline` computes them by default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.encoding.batching import Indices
from tidemill.encoding.items import Outputs
from tidemill.encoding.pooling import pooled
from tidemill.errors import ModelError
from tidemill.models.task import ModelTask, no_reasons, of_all_rows
from tidemill.models.tasks.scores import Scores, labels_of, score_maps, sigmoid, softmax, values_of, vectors

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class TextClassification(ModelTask):
    """An answer is a score for each class: a probability, or of a regression the value as it is."""

    pipeline_tag = "text-classification"
    auto_class = "AutoModelForSequenceClassification"
    made_for = "a model that was fine-tuned for classification"
    takes_pairs = True
    tags_of_others = frozenset(
        ["cross-encoder", "reranker", "text-ranking", "sentence-transformers", "natural-language-inference"]
    )

    def __init__(self, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self._labels = labels_of(config)
        self.is_regression = config.problem_type == "regression"

    @property
    def schema(self) -> pa.Schema:
        fields = [("label", pa.string()), ("score", pa.float32())]
        if self.all_scores:
            self._refuse_shared_labels()
            fields.append(("scores", pa.map_(pa.string(), pa.float32())))
        return pa.schema(fields)

    @property
    def answer_type(self) -> pa.DataType:
        return pa.list_(pa.float32(), self.config.num_labels)

    def answers(self, outputs: Outputs, lengths: Indices) -> pa.Array:
        return vectors(self._scores(outputs), self.config.num_labels)

    def rows(self, answers: pa.ListArray, prepared: pa.Table) -> tuple[pa.Table, pa.StringArray]:
        scores_RC = pooled(values_of(answers.flatten()), answers, prepared, self.pooling)
        return of_all_rows(self._decoded(scores_RC), answers), no_reasons(len(answers))

    def drift(self, ours: pa.Array, theirs: pa.Array) -> NDArray[np.float32]:
        return np.asarray(np.abs(values_of(ours) - values_of(theirs)).max(axis=1))

    def same(self, ours: pa.Array, theirs: pa.Array) -> NDArray[np.bool_]:
        return np.asarray(values_of(ours).argmax(axis=1) == values_of(theirs).argmax(axis=1))

    def close_calls(self, answers: pa.Array, within: float) -> NDArray[np.bool_]:
        if self.is_regression or self.config.num_labels < 2:
            return super().close_calls(answers, within)
        second_R, best_R = np.sort(values_of(answers), axis=1)[:, -2:].T
        return np.asarray(best_R - second_R <= 2 * within)

    def _scores(self, logits_BC: Outputs) -> Scores:
        if self.is_regression:
            return logits_BC
        if self.config.problem_type == "multi_label_classification" or self.config.num_labels == 1:
            return sigmoid(logits_BC)
        return softmax(logits_BC)

    def _decoded(self, scores_RC: Scores) -> pa.Table:
        labels = pa.array(self._labels, pa.string())
        columns = [labels.take(pa.array(scores_RC.argmax(axis=1))), pa.array(scores_RC.max(axis=1))]
        if self.all_scores:
            columns.append(score_maps(scores_RC, labels))
        return pa.Table.from_arrays(columns, schema=self.schema)

    def _refuse_shared_labels(self) -> None:
        if shared := sorted({label for label in self._labels if self._labels.count(label) > 1}):
            outputs = ", ".join(str(i) for i, label in enumerate(self._labels) if label == shared[0])
            raise ModelError(
                f"Outputs {outputs} of the model have one label, {shared[0]!r}, and model.all_scores = true stores one "
                "score for a label. Set it to false, or give each output a name of its own by id2label in config.json."
            )
