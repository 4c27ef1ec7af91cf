"""Zero-shot classification: which of the labels that a user names a text entails, as a model of inference judges.

The template makes a hypothesis of each label. A row's items are its label pairs,
the text and a hypothesis each; what the model says of entailment and contradiction
in them makes the row's scores.

Shapes: B label pairs of a batch, C outputs of the model, R rows, L candidate labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from string import Formatter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from tidemill.config import Section
from tidemill.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Floats = NDArray[np.float64]


class Options(Section):
    candidate_labels: list[str] = Field(min_length=1)
    """The labels that a row may get."""
    hypothesis_template: str = "This example is {}."
    """What the model is asked of a text and a label, with `{}` where the label goes."""
    multi_label: bool = False
    """Whether several labels may be true of a text: each score is then of its label alone, and they add up to no 1."""

    @field_validator("candidate_labels", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError('is one text: give a list of labels, such as ["sport", "politics"]')
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


def label_scores(
    entailment_RL: NDArray[np.float32], contradiction_RL: NDArray[np.float32], *, multi_label: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Each row's best label, by its place, and the scores of all: from the logits of the row's label pairs.

    Scores of one label, and of each of several that may be true, are of entailment
    against contradiction; else labels share 1 by their entailment. Where several of a
    row come to 1 in float32, the best is still the one with most evidence.
    """
    evidence_RL = np.asarray(entailment_RL, dtype=np.float64)
    if is_against_contradiction(evidence_RL.shape[1], multi_label=multi_label):
        evidence_RL = evidence_RL - contradiction_RL
        scores_RL = sigmoid(evidence_RL)
    else:
        scores_RL = softmax(evidence_RL)
    return evidence_RL.argmax(axis=1), scores_RL.astype(np.float32)


def is_against_contradiction(num_labels: int, *, multi_label: bool) -> bool:
    return multi_label or num_labels == 1


def sigmoid(logits: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-logits)))


def softmax(logits_RL: Floats) -> Floats:
    exponentials_RL = np.exp(logits_RL - logits_RL.max(axis=1, keepdims=True))
    return np.asarray(exponentials_RL / exponentials_RL.sum(axis=1, keepdims=True))
