"""What models are given, written shortly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def given(ids_BT: NDArray[np.int64], mask_BT: NDArray[np.int64] | None = None) -> dict[str, NDArray[Any]]:
    """A batch of ids, with its mask if anything is padded."""
    return {"input_ids": ids_BT} if mask_BT is None else {"input_ids": ids_BT, "attention_mask": mask_BT}
