"""What a backfill would compute: a chosen past range again, or beside it a version that is not there yet.

A backfill is asked for in one transaction: its requests are all that is needed
to go on with it, from wherever and however often.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa

from tidemill.config import Pipeline
from tidemill.errors import ConfigError, LakeError, counted
from tidemill.lake import Cursor, DoneShard, Lake, PipelineState
from tidemill.lake.backfills import insert_backfill, load_backfill, open_backfill_of, set_max_cost
from tidemill.lake.ledger import counted_tokens, done_shards, quarantined_rows
from tidemill.lake.listings import num_unread_files, query_of_shards, target_shards
from tidemill.lake.pipelines import load_state, recorded_versions
from tidemill.lake.requests import AGAIN, DECODED_AGAIN, ONLY_QUARANTINED, ask_for_backfill, open_requests
from tidemill.lake.runs import RunRecord
from tidemill.lake.tables import shown_type
from tidemill.planning import versions
from tidemill.planning.columns import check_collisions, check_names, settle_columns
from tidemill.planning.dates import date_files, guesses, parse_days
from tidemill.planning.estimates import Estimate, Rate, estimate, measured_rate
from tidemill.planning.version_tables import Version, load_version, make_version
from tidemill.planning.versions import VersionSpec
from tidemill.results.adoption import create_version
from tidemill.results.damage import set_aside
from tidemill.results.promotion import find_version
from tidemill.results.retirement import retire_elsewhere
from tidemill.results.verify import find_damages
from tidemill.shards import Shard
from tidemill.sources.dataset import reopen_dataset, settle_first

IDS_LEFT_OUT = "what the store has of these rows is only decoded: the estimate is for those of which it has nothing."


@dataclass(frozen=True)
class Selection:
    """Which shards: all that are given must hold. Nothing given selects every shard.

    `files` is a glob over paths, `shards` are shard ids, `since` and `until`
    are dates, both included, which a file's days are to overlap: those that its
    path means, else the day of its last change. `version` names a recorded version; without
    it, it is what the pipeline file asks for. Its beginning will do, or `promoted`.
    """

    files: str | None = None
    shards: tuple[str, ...] = ()
    since: str | None = None
    until: str | None = None
    quarantined: bool = False
    version: str | None = None
    decode_again: bool = False
    """Only make texts again of what a model wrote, as far as the store has it."""

    def to_json(self) -> dict[str, Any]:
        """What was given, version aside."""
        given = {key: value for key, value in asdict(self).items() if value and key != "version"}
        return given | ({"shards": sorted(self.shards)} if self.shards else {})


@dataclass(frozen=True)
class BackfillPlan:
    """What a backfill would compute, why, how long and at what cost."""

    pipeline: Pipeline
    version: Version
    promoted: str
    revision: str
    selection: Selection
    shards: tuple[Shard, ...]
    num_rows: int
    reason: str
    resumes: str | None
    """The backfill of the same selection that was stopped and goes on."""
    estimate: Estimate
    notes: tuple[str, ...]

    @property
    def num_shards(self) -> int:
        return len(self.shards)

    def to_json(self) -> dict[str, Any]:
        return {
            "pipeline": self.pipeline.name,
            "version": self.version.spec.version,
            "promoted_version": self.promoted,
            "table": self.version.table.name,
            "revision": self.revision,
            "selection": self.selection.to_json(),
            "reason": self.reason,
            "resumes": self.resumes,
            "num_shards": self.num_shards,
            "num_files": len({shard.file.path for shard in self.shards}),
            "rows": self.num_rows,
            **self.estimate.to_json(),
            "shards": [
                {
                    "shard_id": shard.shard_id,
                    "path": shard.file.path,
                    "first_row": shard.slice.first_row,
                    "rows": shard.slice.num_rows,
                }
                for shard in self.shards
            ],
            "notes": list(self.notes),
        }


def plan_backfill(pipeline: Pipeline, lake: Lake, selection: Selection, *, device: str | None = None) -> BackfillPlan:
    """Find out what a selection means at the target revision. Writes nothing, and lists nothing anew.

    Shards that the version lacks are computed. Where it is the promoted one,
    or lacks none of what is selected, they are computed again.

    Raises:
        LakeError: the pipeline never ran, or has no such version.
        ConfigError: the selection matches nothing, or a date cannot be read.
    """
    cursor = lake.cursor()
    state = load_state(cursor, pipeline.name)
    if state is None:
        raise LakeError(f"{pipeline.name} has no table yet, so there is nothing past. `tidemill run` makes it.")
    version = _version(pipeline, cursor, state, selection)
    if selection.decode_again:
        _require_ids(version.spec, selection)
    name = version.spec.version
    listed = target_shards(cursor, pipeline.name, state.target_revision)
    done = done_shards(cursor, pipeline.name, name)
    quarantined = quarantined_rows(cursor, pipeline.name, name) if selection.quarantined else {}
    selected, notes = _select(cursor, pipeline, selection, listed, quarantined)
    if name == state.promoted_version:
        selected, left_out = _without_replacing(selected, listed, done)
        notes += left_out
    notes += _unread_note(cursor, pipeline)
    shards, reason = _wanted(selected, done, selection, again=name == state.promoted_version)
    if reason == DECODED_AGAIN:
        notes.append(IDS_LEFT_OUT)
    resumes = open_backfill_of(cursor, pipeline.name, name, selection.to_json())
    if resumes:
        # None is left if it was killed after its last commit: then it is only to be closed.
        shards = [request.shard for request in open_requests(cursor, pipeline.name, name, backfill_id=resumes)]
    measured = measured_rate(cursor, pipeline.name, name, device=device)
    rate = measured.with_items(versions.items_per_row(version.spec))
    work = [(shard, _rows_to_compute(shard, quarantined)) for shard in shards]
    num_rows = sum(of_shard for _, of_shard in work)
    tokens = tokens_to_compute(cursor, pipeline.name, version.spec, rate, work)
    return BackfillPlan(
        pipeline=pipeline,
        version=version,
        promoted=state.promoted_version,
        revision=state.target_revision,
        selection=selection,
        shards=tuple(shards),
        num_rows=num_rows,
        reason=reason,
        resumes=resumes,
        estimate=estimate(
            rate,
            tokens,
            pipeline.cost,
            num_rows=num_rows,
            max_new_tokens=versions.most_new_tokens(version.spec),
        ),
        notes=tuple(notes),
    )


def request_backfill(lake: Lake, plan: BackfillPlan, *, max_cost: float | None = None, why: str = "backfill") -> str:
    """Write what the plan asks for, with the version's table if it has none; returns the backfill's id.

    A stopped backfill of the same selection is gone on with: nothing is asked for twice.
    """
    plan = _without_damaged_files(lake, plan)
    pipeline, name = plan.pipeline.name, plan.version.spec.version

    def body(cursor: Cursor) -> str:
        if going_on := open_backfill_of(cursor, pipeline, name, plan.selection.to_json()):
            set_max_cost(cursor, going_on, max_cost)
            return going_on
        now, backfill_id = datetime.now(UTC), secrets.token_hex(4)
        retire_elsewhere(cursor, pipeline, plan.promoted)
        create_version(
            cursor,
            plan.version.table,
            spec=plan.version.spec.to_json(),
            kept=[column.to_json() for column in plan.version.kept],
            now=now,
        )
        ids = [shard.shard_id for shard in plan.shards]
        ask_for_backfill(cursor, pipeline, name, ids, plan.reason, backfill_id, now)
        insert_backfill(cursor, _record(plan, backfill_id, now, why, max_cost))
        return backfill_id

    return lake.write(body, message=f"backfill {pipeline} {name}: {counted(plan.num_shards, 'shard')}")


def _without_damaged_files(lake: Lake, plan: BackfillPlan) -> BackfillPlan:
    """The plan with all shards of the damaged files that hold some of its own: the files leave the table."""
    selected = {shard.shard_id for shard in plan.shards}
    damages, _ = find_damages(lake.cursor(), {plan.version.table.name}, shard_ids=selected)
    left = set_aside(lake, damages).get(plan.version.table.name, set())
    listed = target_shards(lake.cursor(), plan.pipeline.name, plan.revision)
    others = [shard for shard in listed if shard.shard_id in left - selected]
    num_rows = plan.num_rows + sum(shard.slice.num_rows for shard in others)
    return replace(plan, shards=(*plan.shards, *others), num_rows=num_rows) if others else plan


def tranches(lake: Lake, backfill_id: str, size: int) -> list[list[str]]:
    """What is still open of a backfill, as lists of at most `size` shard ids, in the order of the files."""
    cursor = lake.cursor()
    asked = load_backfill(cursor, backfill_id)
    pipeline, version = asked["pipeline"], asked["version"]
    ids = [request.shard.shard_id for request in open_requests(cursor, pipeline, version, backfill_id=backfill_id)]
    return [ids[i : i + size] for i in range(0, len(ids), size)]


def _require_ids(spec: VersionSpec, selection: Selection) -> None:
    """
    Raises:
        ConfigError: the version's model writes nothing, or the rows that are selected have nothing that it wrote.
    """
    if not versions.writes(spec):
        raise ConfigError(
            f'--decode-again makes texts of what a model wrote, and model.task = "{spec.task}" writes none. Leave it '
            "out."
        )
    if selection.quarantined:
        raise ConfigError(
            "--decode-again makes texts of what a model wrote, and of rows in quarantine nothing is kept. Leave out "
            "one of --decode-again and --quarantined."
        )


def _version(pipeline: Pipeline, cursor: Cursor, state: PipelineState, selection: Selection) -> Version:
    recorded_before = recorded_versions(cursor, pipeline.name)
    known = list(recorded_before)
    if selection.version is not None:
        return load_version(cursor, pipeline, find_version(known, selection.version, state.promoted_version))
    recorded = [VersionSpec.from_json(version.spec) for version in recorded_before.values()]
    spec = versions.recognized(versions.declared(pipeline), recorded)
    if spec.version in known:
        return load_version(cursor, pipeline, spec.version)
    return _new_version(pipeline, cursor, state, spec)


def _new_version(pipeline: Pipeline, cursor: Cursor, state: PipelineState, spec: VersionSpec) -> Version:
    """A version that is not there yet: its columns from the pipeline file, the source and the model."""
    check_names(pipeline)
    shards = target_shards(cursor, pipeline.name, state.target_revision)
    files = list({shard.file.path: shard.file for shard in shards}.values())
    if not files:
        raise LakeError(f"{pipeline.name} has no shards yet. `tidemill run` finds them.")
    first = settle_first(pipeline.dataset, files)
    dataset = reopen_dataset(pipeline, spec.joined_text, state.target_revision, [first])
    kept, _ = settle_columns(pipeline, spec, dataset, cursor, state)
    schema: pa.Schema = versions.result_schema(spec)
    results = [(field.name, shown_type(field.type)) for field in schema]
    check_collisions(kept, results)
    return make_version(pipeline, spec, kept, results)


def _select(
    cursor: Cursor,
    pipeline: Pipeline,
    selection: Selection,
    listed: Sequence[Shard],
    quarantined: Mapping[str, Sequence[int]],
) -> tuple[list[Shard], list[str]]:
    """The listed shards that a selection means, and which of their dates are guesses.

    Raises:
        ConfigError: none is.
    """
    if unknown := sorted(set(selection.shards) - {shard.shard_id for shard in listed}):
        raise ConfigError(
            f"--shards {', '.join(unknown)}: no such shard in {pipeline.name}'s dataset now. Its shards are in "
            f'_target_shards: tidemill sql PIPELINE.toml "{query_of_shards(pipeline.name)}"'
        )
    selected = [
        shard
        for shard in listed
        if (not selection.files or fnmatchcase(shard.file.path, selection.files))
        and (not selection.shards or shard.shard_id in selection.shards)
        and (not selection.quarantined or shard.shard_id in quarantined)
    ]
    selected, notes = _within(selection, selected)
    if not selected:
        paths = sorted({shard.file.path for shard in listed})
        some = ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
        given = json.dumps(selection.to_json())
        raise ConfigError(
            " ".join([f"Nothing matches {given}. The dataset has {counted(len(paths), 'file')}: {some}.", *notes])
        )
    return selected, notes


def _within(selection: Selection, shards: list[Shard]) -> tuple[list[Shard], list[str]]:
    """The shards of files whose days overlap those from `since` to `until`, and notes on dates that are guesses.

    Raises:
        ConfigError: one of the two cannot be read, or they are the wrong way round.
    """
    since, until = parse_days("--since", selection.since), parse_days("--until", selection.until)
    first, last = since.first if since else None, until.last if until else None
    if first and last and first > last:
        raise ConfigError(f"--since {selection.since} is after --until {selection.until}. Exchange them.")
    if not shards or not (first or last):
        return shards, []
    dated = date_files({shard.file.path: shard.file for shard in shards}.values())
    within = {path for path, found in dated.items() if found and found.days.overlap(first, last)}
    return [shard for shard in shards if shard.file.path in within], list(guesses(dated))


def _without_replacing(
    selected: Sequence[Shard], listed: Sequence[Shard], done: Mapping[str, DoneShard]
) -> tuple[list[Shard], list[str]]:
    """Leave out files whose new rows `run` is about to swap in whole: shard by shard, readers would see both."""
    ids = {shard.shard_id for shard in listed}
    outdated = {shard.path for shard_id, shard in done.items() if shard_id not in ids}
    left_out = sorted({shard.file.path for shard in selected} & outdated)
    if not left_out:
        return list(selected), []
    note = f"changed, and left to `tidemill run`: {counted(len(left_out), 'file')}: {', '.join(left_out[:3])}"
    return [shard for shard in selected if shard.file.path not in outdated], [note]


def _unread_note(cursor: Cursor, pipeline: Pipeline) -> list[str]:
    found = num_unread_files(cursor, pipeline.name)
    return [f"not read to the end yet: {counted(found, 'file')}: `tidemill run` first."] if found else []


def _wanted(
    selected: Sequence[Shard], done: Mapping[str, DoneShard], selection: Selection, *, again: bool
) -> tuple[list[Shard], str]:
    if selection.quarantined:
        return list(selected), ONLY_QUARANTINED
    if selection.decode_again:
        return [shard for shard in selected if shard.shard_id in done], DECODED_AGAIN
    missing = [shard for shard in selected if shard.shard_id not in done]
    if missing and not again:
        return missing, "missing"
    return list(selected), AGAIN


def _record(plan: BackfillPlan, backfill_id: str, now: datetime, why: str, max_cost: float | None) -> dict[str, object]:
    expected = plan.estimate
    return {
        "backfill_id": backfill_id,
        "pipeline": plan.pipeline.name,
        "version": plan.version.spec.version,
        "revision": plan.revision,
        "selection": plan.selection.to_json(),
        "why": why,
        "who": RunRecord("", "", kind="", why="").who,
        "state": "open",
        "created_at": now,
        "num_shards": plan.num_shards,
        "num_rows": plan.num_rows,
        "num_tokens": expected.num_tokens,
        "estimated_seconds": expected.seconds,
        "estimated_seconds_low": expected.seconds_low,
        "estimated_seconds_high": expected.seconds_high,
        "estimated_cost": expected.cost,
        "currency": plan.pipeline.cost.currency,
        "max_cost": max_cost,
    }


def _rows_to_compute(shard: Shard, quarantined: Mapping[str, Sequence[int]]) -> int:
    return len(quarantined[shard.shard_id]) if shard.shard_id in quarantined else shard.slice.num_rows


def tokens_to_compute(
    cursor: Cursor,
    pipeline: str,
    spec: VersionSpec,
    rate: Rate,
    work: Iterable[tuple[Shard, int]],
) -> float:
    """Tokens of (shard, rows of it): as counted before, by any version that tokenizes and cuts alike, else by bytes."""
    known = recorded_versions(cursor, pipeline)
    alike = [name for name, other in known.items() if _tokenizes_alike(spec, VersionSpec.from_json(other.spec))]
    counted = counted_tokens(cursor, pipeline, alike)
    total = 0.0
    for shard, num_rows in work:
        tokens = counted.get(shard.shard_id) or rate.num_tokens(shard.slice.text_bytes)
        total += tokens * num_rows / max(1, shard.slice.num_rows)
    return total


def _tokenizes_alike(a: VersionSpec, b: VersionSpec) -> bool:
    mine, theirs = (
        (s.tokenizer, s.max_length, s.overlap, s.text, s.text_separator, s.text_pair, s.truncation) for s in (a, b)
    )
    return (
        mine == theirs
        and versions.items_per_row(a) == versions.items_per_row(b)
        and versions.options_of_texts(a) == versions.options_of_texts(b)
    )
