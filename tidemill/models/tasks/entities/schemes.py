"""What the labels of tokens mean for where an entity begins and ends.

`B-PER` begins one and `I-PER` goes on with it, as does a label without a prefix
beside its like: that is all that Transformers knows. Where every label but `O` is
written so, `E-` and `L-` end an entity, and `S-` and `U-` are one by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OUTSIDE = "O"

_BIO = frozenset("BI")
_WITH_ENDS = (frozenset("BIES"), frozenset("BILU"))
_BEGIN, _END = frozenset("BSU"), frozenset("ESLU")


@dataclass(frozen=True)
class Scheme:
    """By label: what its entity is called, with which labels it may be in one, and whether it begins or ends one.

    Two labels may be in one entity only if their `tags` are the same. `names` are what
    Transformers calls the group: the label behind its first hyphen.
    """

    names: list[str]
    tags: NDArray[np.int64]
    begins: NDArray[np.bool_]
    ends: NDArray[np.bool_]

    @classmethod
    def of(cls, labels: Sequence[str]) -> Scheme:
        """
        >>> Scheme.of(["O", "B-PER", "I-PER", "E-PER", "S-PER"]).ends.tolist()
        [False, False, False, True, True]
        >>> Scheme.of(["O", "B-PER", "I-PER", "S-PER"]).names
        ['O', 'PER', 'PER', 'PER']
        """
        known = _BIO | (_BEGIN | _END if _has_ends(labels) else frozenset())
        prefixes = [label[0] if label[1:2] == "-" and label[0] in known else "" for label in labels]
        tags = [label[2:] if prefix else label for label, prefix in zip(labels, prefixes, strict=True)]
        return cls(
            names=[label.split("-", 1)[-1] for label in labels],
            tags=np.unique(tags, return_inverse=True)[1].astype(np.int64),
            begins=np.array([prefix in _BEGIN for prefix in prefixes], dtype=bool),
            ends=np.array([prefix in _END for prefix in prefixes], dtype=bool),
        )

    def starts(self, labels: NDArray[np.integer], is_first: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether an entity begins with each of these, which follow each other but where one `is_first` of its text."""
        starts = is_first | self.begins[labels]
        starts[1:] |= (self.tags[labels[1:]] != self.tags[labels[:-1]]) | self.ends[labels[:-1]]
        return np.asarray(starts)


def _has_ends(labels: Sequence[str]) -> bool:
    tagged = [label for label in labels if label != OUTSIDE]
    prefixes = {label[0] if label[1:2] == "-" else "" for label in tagged}
    return "B" in prefixes and not prefixes <= _BIO and any(prefixes <= scheme for scheme in _WITH_ENDS)
