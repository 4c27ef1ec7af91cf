"""Embeddings: a vector a text, as sentence-transformers computes it. Two tasks that differ in who says how to pool.

Shapes: B items of a batch, R rows, E dimensions of an embedding.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from tidemill.checkpoints.embeddings.recipe import Recipe, encoder_class, hidden_size
from tidemill.config import Section
from tidemill.encoding.batching import Indices
from tidemill.encoding.items import Outputs
from tidemill.encoding.pooling import pooled
from tidemill.encoding.prompted import PromptedTokenizer
from tidemill.errors import ModelError
from tidemill.models.task import ModelTask, Preparer, Reading, of_all_rows
from tidemill.models.tasks.scores import values_of, vectors

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

PoolingName = Literal["mean", "cls", "last_token", "max"]

SAME_COSINE = 0.999
ZERO = "the embedding is zero, which no other can be compared with"
_ANY_LENGTH = 2**20


class EmbeddingOptions(Section):
    pooling: PoolingName | None = None
    """Of bare encoders: which of a text's token vectors is its own, or what of all. As the model was trained."""
    normalize: bool = False
    """Make vectors one long, after all else."""
    truncate_dim: Annotated[int, Field(gt=0)] | None = None
    """How many dimensions are kept, the first ones; all, or as many as the model's folder says, if not given."""
    prompt_name: str | None = None
    """Which of the prompts in the model's folder comes before each text; its default one if not given."""
    prompt: str | None = None
    """A text that comes before each text; `""` for none where the folder has a default one."""


class Embedding(ModelTask):
    """An answer is an item's vector. Those of a row's windows become one as scores do, of length one if theirs is."""

    family = "vectors"
    Options = EmbeddingOptions
    options_of_texts = frozenset({"prompt", "prompt_name"})
    prompt: str = ""
    max_length: int | None = None
    """Of a text, where the model's folder says."""
    lower_case: bool = False
    include_prompt: bool = True

    def __init__(self, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        if self.all_scores:
            raise ModelError(
                f'model.all_scores = true is of classifications, and model.task = "{self.pipeline_tag}" gives a vector '
                "a text. Leave it out."
            )
        encoder_class(config)
        self.recipe = self._recipe()
        self.size = self.recipe.size(hidden_size(config))

    @abstractmethod
    def _recipe(self) -> Recipe:
        """How tokens' vectors become one, but for the tokens of a prompt that are left out.

        Raises:
            ModelError: nothing says.
        """

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([("embedding", self.answer_type)])

    @property
    def answer_type(self) -> pa.DataType:
        return pa.list_(pa.float32(), self.size)

    def load(
        self, folder: str | Path, *, dtype: torch.dtype, trust_remote_code: bool, pad_token_id: int | None = None
    ) -> torch.nn.Module:
        from tidemill.checkpoints.embeddings.embedder import load_embedder

        recipe = replace(self.recipe, num_left_out=self._num_left_out(folder, trust_remote_code=trust_remote_code))
        return load_embedder(
            folder, recipe, dtype=dtype, trust_remote_code=trust_remote_code, pad_token_id=pad_token_id
        )

    def preparer(self, folder: str | Path, reading: Reading) -> Preparer:
        if reading.max_length == "auto" and self.max_length is not None:
            bound = reading.model_max_length
            reading = replace(reading, max_length=self.max_length if bound is None else min(self.max_length, bound))
        if not self.prompt and not self.lower_case:
            return super().preparer(folder, reading)
        return PromptedTokenizer.load(folder, prompt=self.prompt, lower_case=self.lower_case, **reading.of_texts)

    def answers(self, outputs: Outputs, lengths: Indices) -> pa.Array:
        if outputs.shape[1] != self.size:
            raise ModelError(
                f"The model gives vectors of {outputs.shape[1]} dimensions, and its config.json says {self.size}. "
                "Correct hidden_size there."
            )
        return vectors(outputs, self.size)

    def rows(self, answers: pa.ListArray, prepared: pa.Table) -> tuple[pa.Table, pa.StringArray]:
        embeddings_RE = pooled(values_of(answers.flatten()), answers, prepared, self.pooling)
        if self.pooling is not None and self.recipe.is_unit:
            embeddings_RE = _one_long(embeddings_RE)
        is_zero_R = np.asarray(~embeddings_RE.any(axis=1))
        column = vectors(embeddings_RE, self.size, is_null=is_zero_R)
        reasons = pa.array(np.where(is_zero_R, ZERO, ""), pa.string(), mask=~is_zero_R)
        table = pa.Table.from_arrays([of_all_rows(column, answers)], schema=self.schema)
        return table, of_all_rows(reasons, answers)

    def drift(self, ours: pa.Array, theirs: pa.Array) -> NDArray[np.float32]:
        """How far the cosine of both is from one."""
        return np.asarray(1 - _cosines(values_of(ours), values_of(theirs)), dtype=np.float32)

    def same(self, ours: pa.Array, theirs: pa.Array) -> NDArray[np.bool_]:
        return np.asarray(_cosines(values_of(ours), values_of(theirs)) >= SAME_COSINE)

    def _num_left_out(self, folder: str | Path, *, trust_remote_code: bool) -> int:
        if self.include_prompt or not self.prompt:
            return 0
        return PromptedTokenizer.load(
            folder,
            prompt=self.prompt,
            lower_case=self.lower_case,
            max_length=_ANY_LENGTH,
            trust_remote_code=trust_remote_code,
        ).num_prompt_tokens


def _one_long(vectors_RE: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths_R1 = np.linalg.norm(vectors_RE, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors_RE, lengths_R1, out=vectors_RE.copy(), where=lengths_R1 > 0))


def _cosines(ours_BE: NDArray[np.float32], theirs_BE: NDArray[np.float32]) -> NDArray[np.float64]:
    """In float64: of vectors that are nearly the same float32 has no digits left. Zero has a cosine of zero."""
    ours, theirs = ours_BE.astype(np.float64), theirs_BE.astype(np.float64)
    lengths_B = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    products_B = (ours * theirs).sum(axis=1)
    return np.asarray(np.divide(products_B, lengths_B, out=np.zeros_like(products_B), where=lengths_B > 0))
