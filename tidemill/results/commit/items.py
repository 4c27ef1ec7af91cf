"""What is to be committed of a shard, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tidemill.shards import Shard

Written = dict[str, tuple[int, int]]
"""Id of each shard that was written → its rows and its quarantined rows."""


@dataclass(frozen=True)
class Computed:
    """A shard whose predictions lie in the store. `load` gives its rows and its predictions, in the same order.

    With `only_rows` the predictions are of rows that were in quarantine, and nothing else of the shard changes.
    """

    shard: Shard
    request_id: str
    load: Callable[[], tuple[pa.Table, pa.Table]]
    facts: dict[str, Any] = field(default_factory=dict)
    only_rows: bool = False


@dataclass(frozen=True)
class Copied:
    """A shard whose content was computed at another place."""

    shard: Shard
    source_shard_id: str


Item = Computed | Copied


@dataclass(frozen=True)
class Outcome:
    """What a commit did. A dropped shard was done by someone else, or left the target revision."""

    committed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    """Ids of the shards, as of those that were committed."""
    num_copied: int = 0
    num_rows: int = 0
    num_quarantined: int = 0
    num_tokens: int = 0
    num_rows_removed: int = 0
    num_unchanged: int = 0
    """Rows whose answers were there already; of those, `num_tokens` counts none."""
    num_unchanged_tokens: int = 0
    num_new_tokens: int | None = None

    @property
    def num_committed(self) -> int:
        return len(self.committed)

    @property
    def num_dropped(self) -> int:
        return len(self.dropped)
