"""What a column of labels means, and which of the base's outputs each of them is: matched by name, never by number."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.errors import ConfigError

Kind = Literal["single_label", "multi_label", "regression"]
PROBLEM_TYPES: dict[Kind, str] = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
UNNAMED = re.compile(r"LABEL_\d+")
"""What Transformers calls outputs that nobody named."""
NOTHING = "O"
"""The tag of tokens that are of no entity, which all models have that tag."""
MOST_LABELS = 1_000
Values = NDArray[Any]


@dataclass(frozen=True)
class Outputs:
    """What the model's outputs are called, in order. `of_base` says which of the base's each one goes on from."""

    kind: Kind
    names: tuple[str, ...]
    of_base: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()

    def encoded(self, values: Sequence[Any]) -> Values:
        """One label a row: numbers of outputs N. Several: NC of zeros and ones. A number: N floats."""
        numbers = {name: i for i, name in enumerate(self.names)}
        if self.kind == "regression":
            return np.asarray(values, dtype=np.float32)
        if self.kind == "single_label":
            return np.asarray([numbers[value] for value in values], dtype=np.int64)
        encoded_NC = np.zeros((len(values), len(self.names)), dtype=np.float32)
        for row, labels in enumerate(values):
            encoded_NC[row, [numbers[label] for label in labels]] = 1
        return encoded_NC


def kind_of(type_: pa.DataType) -> Kind:
    """
    Raises:
        ConfigError: nothing that can be learned has such a type.
    """
    kinds = pa.types
    if kinds.is_list(type_) or kinds.is_large_list(type_):
        return "multi_label"
    if kinds.is_floating(type_) or kinds.is_decimal(type_):
        return "regression"
    if kinds.is_string(type_) or kinds.is_large_string(type_) or kinds.is_integer(type_) or kinds.is_boolean(type_):
        return "single_label"
    raise ConfigError(f"data.label has type {type_}. Give a column of labels, of lists of labels, or of numbers.")


def settled_kind(type_: pa.DataType, declared: Kind | Literal["auto"]) -> Kind:
    """
    Raises:
        ConfigError: the column's type does not fit what is declared.
    """
    found = kind_of(type_)
    is_number = found == "regression" or pa.types.is_integer(type_)
    fits = {"single_label": found != "multi_label", "multi_label": found == "multi_label", "regression": is_number}
    if declared != "auto" and not fits[declared]:
        raise ConfigError(f'kind = "{declared}" does not fit data.label, whose type is {type_}. Set kind = "{found}".')
    return found if declared == "auto" else declared


def cleaned(values: Sequence[Any], kind: Kind, called: Mapping[str, str]) -> list[Any]:
    """Labels by their names, null where a row has none; numbers that are not finite are none."""
    if kind == "regression":
        return [None if value is None or not np.isfinite(float(value)) else float(value) for value in values]
    if kind == "single_label":
        return [None if value is None else _named(value, called) for value in values]
    return [None if value is None else sorted({_named(label, called) for label in value}) for value in values]


def _named(value: Any, called: Mapping[str, str]) -> str:
    plain = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return called.get(plain, plain)


def settle_outputs(
    values: Sequence[Any], kind: Kind, base_labels: Sequence[str], base_kind: Kind, *, new_head: bool
) -> Outputs:
    """What the model is to answer, of what the rows say and the base answers.

    Where the base has every label of the rows, its outputs stay, in its order.
    Where it has none of them, the head is new.

    Raises:
        ConfigError: there is one label, too many, or the base has some of them and lacks others.
    """
    if kind == "regression":
        goes_on = base_kind == "regression" and len(base_labels) == 1 and not new_head
        return Outputs(kind, (base_labels[0] if goes_on else "value",), (0,) if goes_on else None)
    counts = Counter(label for value in values for label in (value if kind == "multi_label" else [value]))
    _refuse_odd(counts, kind)
    own = sorted(counts)
    known = [] if new_head or base_kind != kind else [name for name in base_labels if not UNNAMED.fullmatch(name)]
    matched = _matched(own, known)
    if len(matched) == len(own):
        return _goes_on(kind, own, base_labels, matched)
    if matched.keys() - {NOTHING}:
        lacking = sorted(set(own) - matched.keys())
        raise ConfigError(
            f"The base answers {_listed(base_labels)}, and the rows say {_listed(own)}: the base has no {lacking[0]}. "
            'Set base.head = "new" to begin with a head for the labels of the rows, or give labels other names by '
            "data.labels."
        )
    replaced = f" in place of {_listed(base_labels)}" if known else ""
    return Outputs(kind, tuple(own), None, (f"The head is new: it answers {_listed(own)}{replaced}.",))


def _matched(own: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Label of the rows → the base's, by name; letters' case counts only where there are two that differ by it."""
    if set(own) <= set(known):
        return {name: name for name in own}
    folded = {name.casefold(): name for name in known}
    is_plain = len(folded) == len(known) and len({name.casefold() for name in own}) == len(own)
    return {
        name: folded[name.casefold()] if is_plain else name
        for name in own
        if (name.casefold() in folded if is_plain else name in known)
    }


def _goes_on(kind: Kind, own: Sequence[str], base: Sequence[str], matched: Mapping[str, str]) -> Outputs:
    spelled = {theirs: ours for ours, theirs in matched.items()}
    names = tuple(spelled.get(name, name) for name in base)
    unused = [name for name in base if name not in spelled]
    notes = [f"The base's head goes on: {', '.join(f'{i} = {name}' for i, name in enumerate(names))}."]
    if unused:
        notes.append(f"The base also answers {_listed(unused)}, of which there are no rows.")
    return Outputs(kind, names, tuple(range(len(base))), tuple(notes))


def _refuse_odd(counts: Mapping[str, int], kind: Kind) -> None:
    if not counts:
        raise ConfigError("No row has a label. Check data.label.")
    if len(counts) == 1 and kind == "single_label":
        raise ConfigError(
            f"All rows have one label, {next(iter(counts))!r}, and nothing tells it from others. Add rows that have "
            "another."
        )
    if len(counts) > MOST_LABELS:
        raise ConfigError(
            f"data.label has {len(counts):,} values, more than {MOST_LABELS:,}: it looks like a text or a key. Name "
            'the column of labels, or set kind = "regression" where it is a number.'
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} others" if len(names) > 8 else shown
