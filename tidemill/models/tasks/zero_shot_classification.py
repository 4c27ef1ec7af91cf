"""Zero-shot classification: which of the labels that a user names a text entails, as a model of inference judges.

The template makes a hypothesis of each label. A row's items are its label pairs,
the text and a hypothesis each; what the model says of entailment and contradiction
in them makes the row's scores.

Shapes: B label pairs of a batch, C outputs of the model, R rows, L candidate labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, field_validator

from tidemill.config import Section
from tidemill.encoding.batching import Indices
from tidemill.encoding.items import TOKEN_IDS, TYPE_IDS, TYPES, Outputs
from tidemill.encoding.pairs import PairTokenizer
from tidemill.errors import ModelError
from tidemill.fingerprints import fingerprint
from tidemill.models.task import ModelTask, Reading, no_reasons, of_all_rows, pair_inputs
from tidemill.models.tasks.scores import Scores, score_maps, sigmoid, softmax, values_of, vectors
from tidemill.pipeline_file import shown

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class ZeroShotOptions(Section):
    candidate_labels: list[str] = Field(default=[], validate_default=True)
    """The labels that a row may get."""
    hypothesis_template: str = "This example is {}."
    """What the model is asked of a text and a label, with `{}` where the label goes."""
    multi_label: bool = False
    """Whether several labels may be true of a text: each score is then of its label alone, and they add up to no 1."""

    @field_validator("candidate_labels", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        if isinstance(value, str) or value == []:
            what = "one text" if value else "empty"
            raise ValueError(f'is {what}: give a list of labels, such as ["sport", "politics"]')
        return value

    @field_validator("candidate_labels")
    @classmethod
    def _each_is_one_answer(cls, labels: list[str]) -> list[str]:
        if not all(label.strip() for label in labels):
            raise ValueError("holds an empty label: take it out, or name it")
        if doubled := _doubled(label.strip() for label in labels):
            raise ValueError(f"holds {', '.join(map(repr, doubled))} more than once: take one out")
        return labels

    @field_validator("hypothesis_template")
    @classmethod
    def _has_a_place_for_the_label(cls, template: str) -> str:
        if not _is_formatted_by_a_label(template):
            raise ValueError(
                'has no place for the label: put {} where it goes, as in "This example is {}.", and write {{ and }} '
                "for braces of the text"
            )
        return template

    @property
    def hypotheses(self) -> list[str]:
        """One for each candidate label."""
        return [self.hypothesis_template.format(label) for label in self.candidate_labels]


def _doubled(values: Iterable[str]) -> list[str]:
    listed = list(values)
    return sorted({value for value in listed if listed.count(value) > 1})


def _is_formatted_by_a_label(template: str) -> bool:
    """Whether the whole label comes in wherever the template has a field, and it has one."""
    try:
        parts = list(Formatter().parse(template))
        template.format("a label")
    except (LookupError, ValueError, AttributeError):
        return False
    fields = [(name, spec, conversion) for _, name, spec, conversion in parts if name is not None]
    return bool(fields) and all(field in (("", "", None), ("0", "", None)) for field in fields)


class ZeroShotClassification(ModelTask):
    """A classifier of pairs, trained on inference. An answer is its logits of entailment and contradiction.

    A row is no pair of texts: the second ones are the hypotheses.
    """

    pipeline_tag = "zero-shot-classification"
    auto_class = "AutoModelForSequenceClassification"
    made_for = "a model of natural language inference"
    Options = ZeroShotOptions
    options_of_texts = frozenset({"candidate_labels", "hypothesis_template"})
    takes_windows = False

    def __init__(self, config: PretrainedConfig, options: ZeroShotOptions | None = None, **how: Any) -> None:
        if options is None:
            raise ModelError(
                f'model.task = "{self.pipeline_tag}" needs labels of yours. Set model.options.candidate_labels to a '
                'list of them, such as ["sport", "politics"].'
            )
        super().__init__(config, options, **how)
        self.inputs = pair_inputs(config)
        self._relations = relations_of(config)
        self._is_contrast = is_contrast(len(options.candidate_labels), multi_label=options.multi_label)
        if self._is_contrast and self._relations.entailment == self._relations.contradiction:
            raise ModelError(
                "The model has no class beside entailment, and the score of one label, or by multi_label, is of "
                "entailment against contradiction. Set model.path to a model that has both."
            )

    @classmethod
    def items_per_row(cls, options: Section) -> int:
        assert isinstance(options, ZeroShotOptions)
        return len(options.candidate_labels)

    def named_item(self, number: int, count: int) -> str:
        return f"the label pair of {shown(self.options.candidate_labels[number - 1])}"

    @property
    def schema(self) -> pa.Schema:
        fields = [("label", pa.string()), ("score", pa.float32())]
        return pa.schema([*fields, ("scores", pa.map_(pa.string(), pa.float32()))] if self.all_scores else fields)

    @property
    def answer_type(self) -> pa.DataType:
        return pa.list_(pa.float32(), len(self._relations))

    def preparer(self, folder: str | Path, reading: Reading) -> LabelPairs:
        pairs = PairTokenizer.load(
            folder,
            max_length=reading.max_length,
            long_text=reading.long_text,
            truncation="only_first",
            model_max_length=reading.model_max_length,
            usual_length=reading.usual_length,
            trust_remote_code=reading.trust_remote_code,
            with_types=TYPES in self.inputs,
        )
        return LabelPairs(pairs, self.options.hypotheses)

    def answers(self, outputs: Outputs, lengths: Indices) -> pa.Array:
        return vectors(outputs[:, self._relations], len(self._relations))

    def rows(self, answers: pa.ListArray, prepared: pa.Table) -> tuple[pa.Table, pa.StringArray]:
        labels = pa.array(self.options.candidate_labels, pa.string())
        logits_RL2 = values_of(answers.flatten()).reshape(-1, len(labels), len(self._relations))
        best_R, scores_RL = label_scores(logits_RL2[..., 0], logits_RL2[..., 1], is_contrast=self._is_contrast)
        columns = [labels.take(pa.array(best_R)), pa.array(scores_RL[np.arange(len(best_R)), best_R])]
        if self.all_scores:
            columns.append(score_maps(scores_RL, labels))
        answered = pa.Table.from_arrays(columns, schema=self.schema)
        return of_all_rows(answered, answers), no_reasons(len(answers))

    def drift(self, ours: pa.Array, theirs: pa.Array) -> NDArray[np.float32]:
        """How far a label's score moves; where labels share 1, how far it does beside one other that was its equal."""
        (entailed, contradicted), (entailed_by_them, contradicted_by_them) = values_of(ours).T, values_of(theirs).T
        if self._is_contrast:
            return np.asarray(
                np.abs(sigmoid(entailed - contradicted) - sigmoid(entailed_by_them - contradicted_by_them))
            )
        return np.asarray(np.abs(sigmoid(entailed - entailed_by_them) - 0.5))

    def same(self, ours: pa.Array, theirs: pa.Array) -> NDArray[np.bool_]:
        """Whether both say that a text entails its hypothesis, or that it contradicts it."""
        (entailed, contradicted), (entailed_by_them, contradicted_by_them) = values_of(ours).T, values_of(theirs).T
        return np.asarray((entailed > contradicted) == (entailed_by_them > contradicted_by_them))


class Relations(NamedTuple):
    """Which outputs of a model of inference say that a text entails a hypothesis, and that it contradicts it."""

    entailment: int
    contradiction: int


def relations_of(config: PretrainedConfig) -> Relations:
    """By the names of its classes; what is no entailment counts as contradiction where no class has that name.

    Where neither is named, the last class contradicts if the first is entailment, else
    the first does: so `ZeroShotClassificationPipeline` takes it, whatever the names.

    Raises:
        ModelError: no class is named entailment, or several are.
    """
    names = _class_names(config)
    entailment = _only_one(_named(names, r"entail"), names)
    others = [*_named(names, r"contradict"), *_named(names, r"(no|not|non)[\W_]*entail")]
    return Relations(entailment, others[0] if others else _last_or_first(config, entailment))


def _class_names(config: PretrainedConfig) -> list[tuple[int, str]]:
    """A configuration names its classes in either of two ways, or in both, and then perhaps differently."""
    named = [*(config.id2label or {}).items(), *((i, label) for label, i in (config.label2id or {}).items())]
    numbered = [(int(i), str(label).strip()) for i, label in named if str(i).isdecimal()]
    return sorted({(i, label) for i, label in numbered if i < config.num_labels})


def _named(names: list[tuple[int, str]], beginning: str) -> list[int]:
    return sorted({i for i, name in names if re.match(beginning, name, re.IGNORECASE)})


def _only_one(entailment: list[int], names: list[tuple[int, str]]) -> int:
    if len(entailment) == 1:
        return entailment[0]
    told = ", ".join(f"{i} = {name}" for i, name in names)
    raise ModelError(
        f"{'Several classes' if entailment else 'No class'} of the model {'are' if entailment else 'is'} named "
        f"entailment, and zero-shot-classification needs one: {told}. Set model.path to a model of natural language "
        "inference, or correct id2label and label2id in its config.json."
    )


def _last_or_first(config: PretrainedConfig, entailment: int) -> int:
    return config.num_labels - 1 if entailment == 0 else 0


class LabelPairs:
    """Each row becomes its text beside the hypothesis of every label, in their order: an item each.

    Texts alone are cut. `num_tokens` is that of a row's longest pair, and `truncated` says whether any was cut.
    """

    reads = ("text",)

    def __init__(self, pairs: PairTokenizer, hypotheses: Sequence[str]) -> None:
        """`pairs` cuts the first text of each.

        Raises:
            ModelError: a hypothesis leaves no room for a text, or is to the tokenizer what another one is.
        """
        self._pairs, self._hypotheses = pairs, pa.array(hypotheses, pa.string())
        self._longest = self._checked()
        self.num_special_tokens = pairs.num_special_tokens
        self.fingerprint = fingerprint("label pairs", pairs.fingerprint, *hypotheses)

    def prepare(self, rows: pa.Table, *, on_progress: Callable[[int], None] = lambda num_rows: None) -> pa.Table:
        num_labels = len(self._hypotheses)
        pairs = self._encoded(rows["text"], on_progress=lambda num_pairs: on_progress(num_pairs // num_labels))
        # A row's pairs differ in their hypothesis alone: what is so of the longest is so of the row.
        longest = pairs.take(pa.array(np.arange(len(rows)) * num_labels + self._longest))
        has_items = longest[TOKEN_IDS].is_valid().to_numpy()
        kept = pairs.filter(pa.array(np.repeat(has_items, num_labels)))
        columns = {
            name: _nested(kept[name], has_items, num_labels)
            for name in (TOKEN_IDS, TYPE_IDS)
            if name in kept.column_names
        }
        columns["truncated"] = pc.greater(longest["num_tokens"], self._pairs.max_length)
        return pa.table({**columns, "num_tokens": longest["num_tokens"], "reason": longest["reason"]})

    def _encoded(
        self, texts: pa.Array | pa.ChunkedArray, on_progress: Callable[[int], None] = lambda num_pairs: None
    ) -> pa.Table:
        """Each text beside every hypothesis; one that is there many times is tokenized once."""
        num_labels = len(self._hypotheses)
        distinct = texts.dictionary_encode()
        if isinstance(distinct, pa.ChunkedArray):
            distinct = distinct.combine_chunks()
        firsts = distinct.indices.take(pa.array(np.repeat(np.arange(len(texts)), num_labels)))
        seconds = np.tile(np.arange(num_labels, dtype=np.int32), len(texts))
        return self._pairs.encode(
            pa.DictionaryArray.from_arrays(firsts, distinct.dictionary),
            pa.DictionaryArray.from_arrays(seconds, self._hypotheses),
            on_progress=on_progress,
        )

    def _checked(self) -> int:
        """The place of the longest hypothesis."""
        alone = self._encoded(pa.array([""]))
        num_tokens, max_length = alone["num_tokens"].fill_null(0).to_numpy(), self._pairs.max_length
        longest = int(num_tokens.argmax())
        if num_tokens[longest] >= max_length:
            raise ModelError(
                f"The hypothesis {self._told(longest)} takes {num_tokens[longest]} tokens, special ones included, and "
                f"leaves no room for a text in tokenizer.max_length = {max_length}. Raise that, or shorten the label "
                "or model.options.hypothesis_template."
            )
        self._refuse_alike(alone)
        return longest

    def _refuse_alike(self, alone: pa.Table) -> None:
        token_ids, reasons = alone[TOKEN_IDS].to_pylist(), alone["reason"].to_pylist()
        for place, ids in enumerate(token_ids):
            if reasons[place] is not None:
                raise ModelError(
                    f"The hypothesis {self._told(place)} has no tokens: {reasons[place]}. Change its label."
                )
            if (first := token_ids.index(ids)) < place:
                raise ModelError(
                    f"The tokenizer makes the same of the hypotheses {self._told(first)} and {self._told(place)}, so "
                    "that no score tells their labels apart. Change one of model.options.candidate_labels."
                )

    def _told(self, place: int) -> str:
        return shown(self._hypotheses[place].as_py())


def _nested(pairs: pa.ChunkedArray, has_items: NDArray[np.bool_], num_labels: int) -> pa.ListArray:
    """A list of `num_labels` a row, null for those that have none in `pairs`."""
    offsets = np.zeros(len(has_items) + 1, dtype=np.int32)
    np.cumsum(has_items * num_labels, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pairs.combine_chunks(), mask=pa.array(~has_items))


def label_scores(
    entailment_RL: Scores, contradiction_RL: Scores, *, is_contrast: bool
) -> tuple[NDArray[np.int64], Scores]:
    """Each row's best label, by its place, and the scores of all: from the logits of the row's label pairs.

    With `is_contrast` a score is of entailment against contradiction; else labels share
    1 by their entailment. Where several of a row come to 1 in float32, the best is
    still the one with most evidence.
    """
    evidence_RL: NDArray[Any] = entailment_RL.astype(np.float64)
    if is_contrast:
        evidence_RL -= contradiction_RL
    scores_RL = sigmoid(evidence_RL) if is_contrast else softmax(evidence_RL)
    return evidence_RL.argmax(axis=1), scores_RL


def is_contrast(num_labels: int, *, multi_label: bool) -> bool:
    """Whether a score is of entailment against contradiction, for it is not of one label among others."""
    return multi_label or num_labels == 1
