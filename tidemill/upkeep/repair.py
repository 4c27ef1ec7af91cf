"""What `verify` finds wrong, brought back: damaged files leave the tables, and their shards are computed again."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from tidemill.config import Pipeline
from tidemill.lake import Cursor, Lake
from tidemill.lake.checksums import fill_checksums
from tidemill.lake.data_files import note_files
from tidemill.lake.listings import target_shards, unlist_target
from tidemill.lake.pipelines import Target, recorded_versions
from tidemill.lake.requests import asked_for_in_vain
from tidemill.lake.tables import point_view, table_name
from tidemill.planning.backfill_plan import Selection, plan_backfill, request_backfill
from tidemill.planning.plan import make_plan
from tidemill.progress import Progress
from tidemill.results.adoption import adopt
from tidemill.results.damage import remove_from, set_aside
from tidemill.results.promotion import existing_state, load_table
from tidemill.results.verify import Verification, verify_pipeline
from tidemill.running.backfill_run import BackfillRun
from tidemill.running.run import Run, adoption_of

MAX_ROUNDS = 3
"""What lies beside damaged files is checked only once they are out of the way."""
LISTING = ("_revisions", "_files", "_shards")


@dataclass
class Repair:
    """What was done; `problems` are those that are left."""

    pipeline: str
    num_files: int = 0
    num_shards: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return vars(self)


def repair(pipeline: Pipeline, *, progress: Progress | None = None) -> Repair:
    """Take out what is damaged or wrong and compute it again, at the dataset revision that the tables are at.

    Killed at any moment, the same call goes on; a shard that was copied from another, and had left the table by then,
    is pending as a new one is, and a run computes it.

    Raises:
        LakeError: there is no such lake or pipeline, or what is damaged is in no other place.
        InputError: the source, or the model, is not to be had.
    """
    done = Repair(pipeline.name)
    for _ in range(MAX_ROUNDS):
        with Lake(pipeline.lake, scans=True) as lake:
            found = verify_pipeline(lake, pipeline.name)
            if found.problems:
                _take_out(lake, found)
        if _is_listing_wrong(found):
            _list_again(pipeline, progress, done)
        _compute_again(pipeline, found.wrong_shards, progress, done)
        done.num_files += len(found.damages)
        if not found.problems:
            break
    with Lake(pipeline.lake, scans=True) as lake:
        lake.write(lambda cursor: _vouch(cursor, pipeline.name), message=f"checksums of {pipeline.name}")
        note_files(lake)
        done.problems = verify_pipeline(lake, pipeline.name).problems
    return done


def _take_out(lake: Lake, found: Verification) -> None:
    """Take damaged files and wrong shards out of all tables, and let the view show the promoted version."""
    set_aside(lake, found.damages)
    for version, shard_ids in found.wrong_shards.items():
        remove_from(lake, table_name(found.pipeline, version), shard_ids)

    def show(cursor: Cursor) -> None:
        promoted = existing_state(cursor, found.pipeline).promoted_version
        point_view(cursor, load_table(cursor, found.pipeline, promoted))

    lake.write(show, message=f"repair {found.pipeline}")


def _is_listing_wrong(found: Verification) -> bool:
    return found.is_listing_wrong or any(damage.file.table in LISTING for damage in found.damages)


def _list_again(pipeline: Pipeline, progress: Progress | None, done: Repair) -> None:
    """List the target revision's files and shards anew, and let a run cut the text files that it must read for that."""

    with Lake(pipeline.lake) as lake:
        lake.write(lambda cursor: unlist_target(cursor, pipeline.name), message=f"list {pipeline.name} anew")
        plan, _ = make_plan(pipeline, lake)
        run_id = secrets.token_hex(6)
        target = Target(pipeline.name, plan.version, plan.revision, run_id, plan.table, plan.kept_fingerprint)
        adopt(lake, target, adoption_of(plan))
    result = Run(pipeline, progress=progress, why="repair").execute()
    done.notes += [*result.notes, *(f"{failure['path']}: {failure['message']}" for failure in result.failures)]


def _compute_again(
    pipeline: Pipeline, wrong: Mapping[str, Collection[str]], progress: Progress | None, done: Repair
) -> None:
    """Compute what was taken out, now or by a repair that was killed, where the target revision still has it."""
    with Lake(pipeline.lake) as lake:
        in_vain = asked_for_in_vain(lake.cursor(), pipeline.name)
        revision = existing_state(lake.cursor(), pipeline.name).target_revision
        listed = {shard.shard_id for shard in target_shards(lake.cursor(), pipeline.name, revision)}
    for version in sorted({*wrong, *in_vain}):
        wanted = listed & {*wrong.get(version, ()), *in_vain.get(version, ())}
        if wanted:
            _backfill(pipeline, Selection(shards=tuple(sorted(wanted)), version=version), progress, done)


def _backfill(pipeline: Pipeline, selection: Selection, progress: Progress | None, done: Repair) -> None:
    with Lake(pipeline.lake) as lake:
        plan = plan_backfill(pipeline, lake, selection)
        backfill_id = request_backfill(lake, plan, why="repair")
    result = BackfillRun(pipeline, backfill_id, progress=progress, why="repair").execute()
    done.num_shards += result.num_shards
    done.notes += [*plan.notes, *(f"{failure['path']}: {failure['message']}" for failure in result.failures)]


def _vouch(cursor: Cursor, pipeline: str) -> Mapping[str, int]:
    """Give every shard that has no checksum of this DuckDB's the one of its rows; version → how many."""
    return {version: fill_checksums(cursor, pipeline, version) for version in recorded_versions(cursor, pipeline)}
