"""Sentence embeddings, by the losses of sentence-transformers: pairs, triplets, or pairs with how alike they are.

By all weights, or by LoRA beside those of the encoder; what comes after the encoder learns as a whole.

Shapes: N rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss, MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.training_args import BatchSamplers

from tidemill.checkpoints.files import matching, refuse_weights
from tidemill.checkpoints.loading import opening
from tidemill.errors import ConfigError, InvariantBroken
from tidemill.training.examples.rows import Lesson, Rows
from tidemill.training.loop.trainer import Careful
from tidemill.training.measures.intervals import bootstrap, measured
from tidemill.training.tasks.models import merged, with_adapters

NUM_CHECKED, TOLERANCE = 8, 1e-3
LEARNED = "model.safetensors"
MOST_RANKED = 2_000
"""Held-out pairs among which each second text is looked for."""


class CarefulSentenceTrainer(Careful, SentenceTransformerTrainer):
    """Its checkpoints hold what learns, by the names that it has in memory: adapters of another form are nobody's."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.detach().contiguous() for name, value in self._learning()}, folder / LEARNED)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        saved = load_file(Path(checkpoint_path) / LEARNED)
        with torch.no_grad():
            for name, value in self._learning():
                value.copy_(saved[name])

    def _load_best_model(self) -> None:
        """Raises what its parent only logs: the last weights are not the best ones."""
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _learning(self) -> Iterator[tuple[str, torch.Tensor]]:
        return ((name, value) for name, value in self.model.named_parameters() if value.requires_grad)


class EmbeddingLearner:
    arguments_class = SentenceTransformerTrainingArguments
    greater_is_better = True

    def __init__(self, lesson: Lesson) -> None:
        """
        Raises:
            ConfigError: what says how alike two texts are is no number.
            ModelError: the base cannot be loaded.
        """
        self._lesson, self._has_scores = lesson, bool(lesson.train.labels)
        if self._has_scores and not _is_number(lesson.label_type):
            raise ConfigError(
                f"data.label has type {lesson.label_type}, and of pairs of texts it says how alike they are. Give a "
                "column of numbers, or leave it out where all pairs are alike."
            )
        self.best_by = "spearman" if self._has_scores else "accuracy"
        # Another row's second text counts as wrong: none may be the same as one's own.
        sampler = BatchSamplers.BATCH_SAMPLER if self._has_scores else BatchSamplers.NO_DUPLICATES
        self.arguments: dict[str, Any] = {"batch_sampler": sampler, "label_names": None}
        self.model: Any = None
        self._adapters: Any = None
        """Of LoRA, the encoder with its matrices."""

    @property
    def num_rows(self) -> int:
        return len(self._lesson.train)

    @property
    def notes(self) -> Sequence[str]:
        if self._has_scores:
            return ("Pairs with scores: the cosine learns how alike two texts are.",)
        kind = "Triplets" if self._lesson.train.negatives else "Pairs"
        return (f"{kind}: each text learns to find its second one among those of its batch.",)

    def begin(self, seed: int) -> None:
        folder = self._lesson.base.folder
        refuse_weights(matching(folder, ["*"]), str(folder))
        with opening(f"The model in {folder}"):
            self.model = SentenceTransformer(
                str(folder.absolute()), device=None, model_kwargs={"dtype": "float32"}, local_files_only=True
            )
        self.model.model_card_data.generate_widget_examples = False  # Nobody reads them, and they are computed.
        self.model.max_seq_length = min(self.model.max_seq_length or 512, self._lesson.base.max_length)
        if self._lesson.file.method.type == "lora":
            transformers.set_seed(seed)
            # The encoder itself is given its matrices: it stays where it is in the model.
            self._adapters = with_adapters(self.model[0].auto_model, self._lesson.file.method, "FEATURE_EXTRACTION")

    def trainer(self, arguments: Any) -> Any:
        loss = CosineSimilarityLoss if self._has_scores else MultipleNegativesRankingLoss
        return CarefulSentenceTrainer(
            model=self.model,
            args=arguments,
            train_dataset=_dataset(self._lesson.train),
            eval_dataset=_dataset(self._lesson.held_out),
            loss=loss(self.model),
            evaluator=_Evaluator(self),
        )

    def quick_measures(self) -> dict[str, float]:
        return {name: value for name, value in self._measures().items() if isinstance(value, float)}

    def _measures(self) -> dict[str, Any]:
        first, second = (self._vectors(texts) for texts in (self._lesson.held_out.texts, self._lesson.held_out.pairs))
        if self._has_scores:
            cosines = (first * second).sum(axis=1)
            truth = np.asarray(self._lesson.held_out.labels, dtype=float)
            return {"spearman": _spearman(cosines, truth), "_values": (cosines, truth)}
        ranks = _ranks(first[:MOST_RANKED], second[:MOST_RANKED])
        found = {"accuracy": float((ranks == 1).mean()), "mean_reciprocal_rank": float((1 / ranks).mean())}
        return {**found, "_values": ranks}

    def _vectors(self, texts: Any) -> Any:
        return self.model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)

    def measure(self) -> dict[str, Any]:
        found, seed = self._measures(), self._lesson.file.seed
        values, num = found.pop("_values"), len(self._lesson.held_out)
        if self._has_scores:
            cosines, truth = values
            interval = bootstrap(lambda rows: _spearman(cosines[rows], truth[rows]), num, seed=seed)
            return {"rows": num, "spearman": measured(found["spearman"], interval)}
        interval = bootstrap(lambda rows: float((values[rows] == 1).mean()), len(values), seed=seed)
        return {"rows": num, **found, "accuracy": measured(found["accuracy"], interval)}

    def baselines(self) -> dict[str, Any]:
        self.begin(0)
        return {"base": self.quick_measures()}

    def calibrate(self) -> float | None:
        """Of vectors no confidence is shown: there is nothing to calibrate."""
        if self._adapters is not None:
            merged(self._adapters)
            self._adapters = None
        return None

    def write(self, folder: Path) -> None:
        self.model.save_pretrained(str(folder), create_model_card=False)
        with opening(f"The model in {folder}"):
            afresh = SentenceTransformer(str(folder.absolute()), local_files_only=True)
        some = self._lesson.held_out.texts[:NUM_CHECKED]
        apart = float(np.abs(self._vectors(some) - afresh.encode(some, normalize_embeddings=True)).max())
        if not apart <= TOLERANCE:
            shutil.rmtree(folder, ignore_errors=True)
            raise InvariantBroken(f"The model that was written gives other vectors than in memory: by {apart:.4g}.")


class _Evaluator(SentenceEvaluator):
    def __init__(self, learner: EmbeddingLearner) -> None:
        super().__init__()
        self._learner = learner

    def __call__(self, *_: Any, **__: Any) -> dict[str, float]:
        return self._learner.quick_measures()


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_floating(type_) or pa.types.is_integer(type_) or pa.types.is_decimal(type_))


def _dataset(rows: Rows) -> datasets.Dataset:
    columns: dict[str, Any] = {"anchor": rows.texts, "positive": rows.pairs}
    if rows.negatives:
        columns["negative"] = rows.negatives
    if rows.labels:
        columns["label"] = [float(label) for label in rows.labels]
    return datasets.Dataset.from_dict(columns)


def _ranks(first: Any, second: Any) -> Any:
    """Of each row's second text among all rows' ones, by cosine; texts that are the same share a rank."""
    cosines_NN = first @ second.T
    own_N1 = np.diag(cosines_NN)[:, None]
    return 1 + (cosines_NN > own_N1 + 1e-6).sum(axis=1)


def _spearman(a: Any, b: Any) -> float:
    from scipy.stats import spearmanr

    found = float(spearmanr(a, b).statistic)
    return 0.0 if np.isnan(found) else found
