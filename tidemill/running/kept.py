"""Key and kept columns that changed: read again for done shards, beside the predictions that they have."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.errors import FileChanged, RunFailed
from tidemill.lake.listings import listed_first_rows
from tidemill.lake.pipelines import load_kept
from tidemill.planning.plan import Plan
from tidemill.results.rewrite import finish_rewrite, renew_shard, rewrite_shard, rewritten_shards, start_rewrite
from tidemill.retry import retrying
from tidemill.running.stages.workspace import Workspace
from tidemill.shards import Shard


def rewrite_kept(plan: Plan, workspace: Workspace, patiently: Callable[[Callable[[], Any]], Any]) -> int:
    """Give done shards the key and kept columns that are asked for now; returns how many got them.

    No prediction is computed. A shard whose content is nowhere in the dataset
    any more is left for later: it is about to be replaced or removed, or its
    file comes back.

    Raises:
        RunFailed: other shards were committed meanwhile that have the old columns.
    """
    lake, target = workspace.lake, workspace.target
    kept = [column.to_json() for column in plan.kept]
    if load_kept(lake.cursor(), target.pipeline, target.version) == kept:
        staging, written = None, set[str]()
        write: Callable[[str, pa.Table], None] = functools.partial(renew_shard, lake, target)
    else:
        staging = patiently(lambda: start_rewrite(lake, target))
        written = rewritten_shards(lake.cursor(), staging)
        write = functools.partial(rewrite_shard, lake, target, staging)
    unread = []
    for shard_id, rows in _read(plan, workspace, written):
        if rows is None:
            unread.append(shard_id)
        else:
            patiently(functools.partial(write, shard_id, rows))
    if staging and not patiently(functools.partial(finish_rewrite, lake, target, staging, kept, unread)):
        raise RunFailed("Other shards were committed while columns were rewritten. Run again to go on.")
    return len(plan.rewrite) - len(unread)


def _read(plan: Plan, workspace: Workspace, written: Container[str]) -> Iterator[tuple[str, pa.Table | None]]:
    """The shards to rewrite that are not written yet, each with its key and kept columns, or None."""
    first_rows = listed_first_rows(workspace.lake.cursor(), workspace.target.pipeline)
    now = {shard.slice.content: shard for file in plan.files for shard in file.shards}
    for done in plan.rewrite:
        if done.shard_id not in written:
            workspace.check_stop()
            yield done.shard_id, _kept_rows(workspace, now.get(done.content), first_rows.get(done.shard_id))


def _kept_rows(workspace: Workspace, now: Shard | None, first_row: int | None) -> pa.Table | None:
    """Key and kept columns of a done shard that starts at `first_row`, read from where its content lies now.

    None where it lies nowhere.
    """
    if now is None or first_row is None:
        return None
    retries = workspace.pipeline.limits.retries
    try:
        rows = retrying(lambda: workspace.dataset.reader(now.file).rows(now.slice), retries=retries)
    except FileChanged:
        return None
    moved = pc.add(rows["row_number"], first_row - now.slice.first_row)
    return rows.set_column(rows.schema.get_field_index("row_number"), "row_number", moved)
