"""The vectors of a text's tokens become one.

Where a row's tokens lie is told by its mask, whichever side is padded.

Shapes: B rows of a batch, T tokens of the longest, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

LEAST = 1e-9
"""Of a divisor, where no token is left to pool; the vector is zero then."""


class Pooling(nn.Module):
    """The vectors that several modes give, side by side: B rows of H times the modes.

    `num_left_out` tokens at each row's beginning, a prompt's, are not pooled.
    """

    def __init__(self, modes: Sequence[str], *, num_left_out: int = 0) -> None:
        super().__init__()
        self.modes, self.num_left_out = tuple(modes), num_left_out

    def forward(self, hidden_BTH: Tensor, mask_BT: Tensor | None) -> Tensor:
        if mask_BT is None:
            mask_BT = torch.ones(hidden_BTH.shape[:2], dtype=torch.int64, device=hidden_BTH.device)
        first_B = mask_BT.to(torch.int32).argmax(dim=1)
        places_BT = torch.arange(hidden_BTH.shape[1], device=hidden_BTH.device) - first_B[:, None]
        if self.num_left_out:
            mask_BT = mask_BT * (places_BT >= self.num_left_out)
        pooled = [_MODES[mode](hidden_BTH, mask_BT, places_BT) for mode in self.modes]
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)


def _first(hidden_BTH: Tensor, mask_BT: Tensor, places_BT: Tensor) -> Tensor:
    return _at(hidden_BTH, mask_BT.to(torch.int32).argmax(dim=1))


def _last(hidden_BTH: Tensor, mask_BT: Tensor, places_BT: Tensor) -> Tensor:
    from_the_end_B = mask_BT.to(torch.int32).flip(1).argmax(dim=1)
    return _at(hidden_BTH, mask_BT.shape[1] - 1 - from_the_end_B)


def _at(hidden_BTH: Tensor, place_B: Tensor) -> Tensor:
    index_B1H = place_B[:, None, None].expand(-1, 1, hidden_BTH.shape[2])
    return hidden_BTH.gather(1, index_B1H)[:, 0]


def _largest(hidden_BTH: Tensor, mask_BT: Tensor, places_BT: Tensor) -> Tensor:
    return hidden_BTH.masked_fill(mask_BT[:, :, None] == 0, -torch.inf).amax(dim=1)


def _mean(hidden_BTH: Tensor, mask_BT: Tensor, places_BT: Tensor) -> Tensor:
    return _weighted(hidden_BTH, mask_BT.to(hidden_BTH.dtype))


def _mean_by_root(hidden_BTH: Tensor, mask_BT: Tensor, places_BT: Tensor) -> Tensor:
    weights_BT = mask_BT.to(hidden_BTH.dtype)
    return _sum(hidden_BTH, weights_BT) / weights_BT.sum(dim=1, keepdim=True).clamp(min=LEAST).sqrt()


def _mean_by_place(hidden_BTH: Tensor, mask_BT: Tensor, places_BT: Tensor) -> Tensor:
    """The first token counts once, the second twice, and so on; what is left out is counted on the way."""
    return _weighted(hidden_BTH, (mask_BT * (places_BT + 1)).to(hidden_BTH.dtype))


def _weighted(hidden_BTH: Tensor, weights_BT: Tensor) -> Tensor:
    return _sum(hidden_BTH, weights_BT) / weights_BT.sum(dim=1, keepdim=True).clamp(min=LEAST)


def _sum(hidden_BTH: Tensor, weights_BT: Tensor) -> Tensor:
    return (hidden_BTH * weights_BT[:, :, None]).sum(dim=1)


_MODES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cls": _first,
    "max": _largest,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _mean_by_place,
    "lasttoken": _last,
}
