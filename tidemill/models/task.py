"""What the engine knows of a model task.

Shapes: B items of a batch, T tokens of the longest, C outputs of the model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.checkpoints.loading import load_weights
from tidemill.config import Inference, LongText, Section, Truncation
from tidemill.encoding.items import IDS, MASK, TYPES, Outputs
from tidemill.encoding.pooling import Pooling
from tidemill.errors import ModelError
from tidemill.models.comparing import Comparison

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from tidemill.encoding.batching import Indices
    from tidemill.engines import Engine, Load


Column = TypeVar("Column", pa.Array, pa.Table)

Family = Literal["labels", "entities", "vectors", "texts", "scores"]
"""What kind of answer a row has, which says how a table of them is shown."""

_TYPES_WITHOUT_A_COUNT = ("xlnet",)
"""Models that tell types of tokens apart, though their configuration counts none."""


class NoOptions(Section):
    """Of a task that has none of its own."""


class Preparer(Protocol):
    """Makes of a row's texts what a model is given. Threads may share it."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of the table of rows that it takes."""

    @property
    def fingerprint(self) -> str:
        """Names what it makes of a text: what differs in it is never taken for the other."""

    @property
    def num_special_tokens(self) -> int:
        """How many tokens of every item are none of its text."""

    def prepare(self, rows: pa.Table, *, on_progress: Callable[[int], None] = ...) -> pa.Table:
        """One row a row, in order: `token_ids`, a list of ids or of items' ids, null where there are none; `num_tokens`
        before truncation; `reason` why a row is quarantined.

        It may have `type_ids`, nested as `token_ids`; `truncated`; and what the task's `rows` asks for.

        `on_progress` is told how many rows are through.
        """


@dataclass(frozen=True)
class Reading:
    """How texts are read, as the pipeline file says, with what the model says of itself.

    `model_max_length` is the most tokens that the model takes, where there is a bound; `usual_length` is what "auto"
    comes to where there is none.
    """

    max_length: int | Literal["auto"] = "auto"
    long_text: LongText = "truncate"
    overlap: int | Literal["auto"] = "auto"
    truncation: Truncation = "longest_first"
    is_pair: bool = False
    columns: tuple[str, ...] = ()
    """dataset.text, for a task whose rows come as the values of those."""
    separator: str = "\n"
    """Between them, where nothing else says how they follow each other."""
    model_max_length: int | None = None
    usual_length: int | None = None
    trust_remote_code: bool = False

    @property
    def of_texts(self) -> dict[str, Any]:
        """What a tokenizer of single texts is loaded with."""
        names = ("max_length", "long_text", "overlap", "model_max_length", "usual_length", "trust_remote_code")
        return {name: getattr(self, name) for name in names}


class ModelTask(ABC):
    """What a model of one configuration does, under one set of options. A task is a module of this package.

    `pipeline_tag` is the Hub's name of the task. A model is given `inputs`, and answers BC, or BTC where each token has
    an answer of its own. What `is_regression` answers values of any size, and not probabilities.
    """

    pipeline_tag: ClassVar[str]
    auto_class: ClassVar[str]
    """The class of Transformers that loads its models; of a task that loads them otherwise there is none."""
    made_for: ClassVar[str] = ""
    """What a model with the task's head is, in words; "" where the names of architectures do not say who has it."""
    Options: ClassVar[type[Section]] = NoOptions
    """`[model.options]`. What is not at its default is part of the version."""

    options_of_texts: ClassVar[frozenset[str]] = frozenset()
    """Names of the options that say what is read of a text: under others of these its tokens are others."""

    takes_pairs: ClassVar[bool] = False
    """Whether a row may be two texts."""

    takes_windows: ClassVar[bool] = True
    """Whether a long text may be read in windows."""

    reads_parts: ClassVar[bool] = False
    """Whether a row's columns come apart, as the JSON of their values, and not joined into one text."""

    reads_modules: ClassVar[bool] = False
    """Whether what modules.json names is part of the model, and counts in its identity."""

    reads_files: ClassVar[tuple[str, ...]] = ()
    """Names of files beside those of every model that are part of the model, and count in its identity."""

    writes: ClassVar[bool] = False
    """Whether the model writes its answers token by token: then the task has `settings`, by which it does."""

    may_be_served: ClassVar[bool] = False
    """Whether a server may compute it of prompts: then the model is known by its name alone."""

    tags_of_others: ClassVar[frozenset[str]] = frozenset()
    """Tags on the Hub of models that have this task's head and were made for something else: none is proposed."""

    family: ClassVar[Family] = "labels"
    """How `report` shows a table of this task's answers; "labels" have a column `label`, and mostly a `score`."""

    comparisons: ClassVar[Mapping[str, Comparison]] = {}
    """How `compare` holds two versions' answers in a result column against each other, where its type does not say."""

    is_regression: bool = False
    inputs: tuple[str, ...] = (IDS, MASK)

    def __init__(
        self,
        config: PretrainedConfig,
        options: Section | None = None,
        *,
        all_scores: bool = False,
        pooling: Pooling | None = None,
        is_pair: bool = False,
    ) -> None:
        """`pooling` says how windows become a row, None where a row is no list of windows; `is_pair` that a row is two
        texts.

        Raises:
            ModelError: no model of this configuration can do the task, or not under these options.
        """
        if is_pair and not self.takes_pairs:
            raise ModelError(
                f'dataset.text_pair gives a row two texts, and model.task = "{self.pipeline_tag}" reads one. Remove '
                "it, or choose another task."
            )
        if pooling is not None and not self.takes_windows:
            raise ModelError(
                f'tokenizer.long_text = "windows" is of tasks that read a text by itself, and model.task = '
                f'"{self.pipeline_tag}" does not. Set long_text to "truncate" or "quarantine".'
            )
        self.config, self.all_scores, self.pooling, self.is_pair = config, all_scores, pooling, is_pair
        if is_pair:
            self.inputs = pair_inputs(config)
        self.options: Any = self.Options() if options is None else options
        self._refuse_other_heads()

    def _refuse_other_heads(self) -> None:
        # Where a config names no architecture, loading the weights tells: none may be missing.
        architectures = self.config.architectures or []
        if not self.made_for or not architectures:
            return
        head = self.auto_class.removeprefix("AutoModel")
        if not any(name.endswith(head) for name in architectures):
            raise ModelError(
                f'The model is a {", ".join(architectures)}, and model.task = "{self.pipeline_tag}" needs a ...{head}. '
                f"Set model.path to {self.made_for}."
            )

    @classmethod
    def items_per_row(cls, options: Section) -> int:
        """How many items a row has, or where that depends on its text how many at least."""
        return 1

    @classmethod
    def reads_again(cls, options: Any) -> bool:
        """Whether the model reads what it wrote of a row's windows once more, until it has written one answer."""
        return False

    def joined(self, answers: Sequence[Mapping[str, Any]]) -> str:
        """Of a task that reads again: what it reads then, of the answers of a row's windows."""
        raise NotImplementedError

    def named_item(self, number: int, count: int) -> str:
        """What the row's item of that number, from 1, is called where it is why the row has no answer."""
        return f"{'part' if self.pooling is None else 'window'} {number} of {count}"

    @classmethod  # noqa: B027
    def check_columns(cls, options: Any, columns: tuple[str, ...]) -> None:
        """Asked before anything is read, by the columns that a row is made of.

        Raises:
            ConfigError: the options name others.
        """

    @property
    def called(self) -> str:
        """The task with the options that are not at their defaults: what was found of a model holds under these."""
        return f"{self.pipeline_tag} {self.options.model_dump_json(exclude_defaults=True)}"

    @property
    def num_written(self) -> int:
        """Tokens that the model writes of an item, at most: they count in a batch's budget beside the item's own."""
        return 0

    def num_new_tokens(self, answers: pa.Array) -> int | None:
        """Tokens that the model wrote for these answers; None where it writes none, or nobody counts them."""
        return None

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The columns that `rows` returns.

        Raises:
            ModelError: those columns cannot hold what the model answers.
        """

    @property
    @abstractmethod
    def answer_type(self) -> pa.DataType:
        """The type of what `answers` returns."""

    def load(
        self, folder: str | Path, *, dtype: torch.dtype, trust_remote_code: bool, pad_token_id: int | None = None
    ) -> torch.nn.Module:
        """A module that has a `config`, takes `inputs` by their names and returns a tensor or an object with `logits`.

        `pad_token_id` counts in place of the configuration's own.

        Raises:
            ModelError: the folder's weights are missing, or are not of the task.
        """
        model: torch.nn.Module = load_weights(
            self.auto_class,
            folder,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            pad_token_id=pad_token_id,
        )
        return model

    def open_engine(self, folder: str | Path, *, load: Load, inference: Inference) -> Engine | None:
        """The engine of a model that not every engine can compute, as `inference` means it; `load` loads the model.

        None where any engine may.

        Raises:
            ModelError: the model cannot be loaded, or not by the engine that is asked for.
            ConfigError: there is no such device, or the engine is not installed.
        """
        return None

    def engine_beside(self, engine: Engine) -> Engine:
        """`engine` has the model, opened for the same task under other options: the one that computes by these.

        Raises:
            ModelError: it cannot.
        """
        return engine

    def preparer(self, folder: str | Path, reading: Reading) -> Preparer:
        """Of the tokenizer in `folder`, for texts or for pairs of them.

        Raises:
            ModelError: it cannot be loaded, or does not fit the model or what is asked of it.
        """
        if reading.is_pair:
            return self._pair_preparer(folder, reading)
        from tidemill.encoding.tokenizer import TextTokenizer

        return TextTokenizer.load(folder, **reading.of_texts)

    def _pair_preparer(self, folder: str | Path, reading: Reading) -> Preparer:
        from tidemill.encoding.pairs import PairTokenizer

        return PairTokenizer.load(
            folder,
            max_length=reading.max_length,
            long_text=reading.long_text,
            truncation=reading.truncation,
            model_max_length=reading.model_max_length,
            usual_length=reading.usual_length,
            trust_remote_code=reading.trust_remote_code,
            with_types=TYPES in self.inputs,
        )

    def decode_with(self, folder: str | Path, *, trust_remote_code: bool = False) -> None:  # noqa: B027
        """Told before `rows` is asked: where the tokenizer lies that made what is given to it.

        Most tasks have no words in their rows, and no need of it.
        """

    @abstractmethod
    def answers(self, outputs: Outputs, lengths: Indices) -> pa.Array:
        """One value of `answer_type` an item, of finite outputs; `lengths` are the items' tokens.

        It is asked as each batch is there. It may depend on nothing but what the model was given and gives: items that
        are the same are computed once.
        """

    @abstractmethod
    def rows(self, answers: pa.ListArray, prepared: pa.Table) -> tuple[pa.Table, pa.StringArray]:
        """One row a row, in order: the columns of `schema`, null where there is no answer, and why there is none.

        `answers` has a list of its items' answers for each row, null where one is missing; whoever knows why says it.
        `prepared` has what the preparer made, beside the texts that it made it of.
        """

    @abstractmethod
    def drift(self, ours: pa.Array, theirs: pa.Array) -> NDArray[np.float32]:
        """How far each of our answers is from theirs, in the unit of the scores that users see."""

    @abstractmethod
    def same(self, ours: pa.Array, theirs: pa.Array) -> NDArray[np.bool_]:
        """Whether each says the same, however sure it is."""

    def close_calls(self, answers: pa.Array, within: float) -> NDArray[np.bool_]:
        """Whether each might say something else if each of its scores moved by no more than that: none, unless a task
        has labels that an item alone decides on."""
        return np.zeros(len(answers), dtype=bool)


def pair_inputs(config: PretrainedConfig) -> tuple[str, ...]:
    """What a model is given of a pair of texts: also the types of its tokens, where the model tells several apart."""
    num_types = getattr(config.get_text_config(), "type_vocab_size", None) or 0
    has_types = num_types > 1 or config.model_type in _TYPES_WITHOUT_A_COUNT
    return (IDS, MASK, TYPES) if has_types else (IDS, MASK)


def of_all_rows(answered: Column, answers: pa.ListArray) -> Column:
    """One value a row: those of the rows that have answers, which `answered` has in order, and null for the others."""
    is_missing = answers.is_null().to_numpy(zero_copy_only=False)
    spread: Column = answered.take(pa.array(np.cumsum(~is_missing) - 1, mask=is_missing))
    return spread


def no_reasons(num_rows: int) -> pa.StringArray:
    return pa.nulls(num_rows, pa.string())
