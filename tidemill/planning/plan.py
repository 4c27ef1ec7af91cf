"""Plan before work: which shards, why, how many rows and tokens, how long, at what cost.

A plan is what the pipeline asks for, less what the ledger holds. Making one
writes nothing. What was never read is an estimate and says so.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tidemill.config import Pipeline
from tidemill.engines.contest.gain import Gain, kept_gain
from tidemill.engines.contest.telling import Known, computes_on_cpu, known_of
from tidemill.errors import FAILS_ALONE, DatasetError, LakeError
from tidemill.formats import Columns
from tidemill.lake import Cursor, DoneShard, Lake, ResultTable
from tidemill.lake.ledger import done_shards, has_done_shards
from tidemill.lake.listings import cut_files, files_at, slices_at
from tidemill.lake.pipelines import PipelineState, load_dataset, load_kept, load_results, load_spec, load_state
from tidemill.lake.tables import shown_type, table_name
from tidemill.places import usable
from tidemill.planning import versions
from tidemill.planning.columns import KeptColumn, check_collisions, check_names, kept_fingerprint, settle_columns
from tidemill.planning.estimates import Estimate, Rate, estimate, measured_rate
from tidemill.planning.versions import VersionSpec
from tidemill.results.answers.counting import Changed, look_at
from tidemill.results.answers.former import Former
from tidemill.results.answers.known import has_answers
from tidemill.retry import retrying
from tidemill.shards import Shard, Slice, SourceFile
from tidemill.sources import dataset as sources
from tidemill.sources import hub
from tidemill.sources.listing import Listing, said_in

COMMIT_LENGTH = 40
FileState = Literal["unchanged", "new", "changed", "unfinished", "failed"]
Action = Literal["compute", "copy"]


@dataclass(frozen=True, slots=True)
class ShardPlan:
    shard: Shard
    action: Action
    copy_from: str | None = None
    """The shard id, at another place, that has this content; it may itself be computed by this plan."""


@dataclass(frozen=True, slots=True)
class FilePlan:
    """What is to be done for one file.

    `shards` are all slices known so far; `uncut` says that more are found by
    reading (text formats), `trusted` that those known are this file's own. A
    file whose footer cannot be read is left to be read too: it fails alone then.
    """

    file: SourceFile
    state: FileState
    shards: tuple[Shard, ...]
    todo: tuple[ShardPlan, ...]
    uncut: bool = False
    trusted: bool = False
    replaces: bool = False
    """Whether the table holds shards of this path that the target does not have."""
    problem: str = ""
    """Why the file cannot be read, if that is known."""
    may_repeat: bool = False
    """Whether rows of it may have been answered where they were before: only the others are computed."""
    changed: Mapping[str, Changed] | None = None
    """Shard id → what of it is to be computed, where that was looked at; then these are all of its new shards."""

    @property
    def computed(self) -> list[Shard]:
        return [item.shard for item in self.todo if item.action == "compute"]

    @property
    def num_rows(self) -> int:
        """Of shards that are to be computed, as far as they are known."""
        if self.changed is not None:
            return sum(shard.num_rows for shard in self.changed.values())
        return sum(shard.slice.num_rows for shard in self.computed)

    @property
    def num_rows_to_compute(self) -> int:
        return self.num_rows if self.changed is None else sum(shard.num_changed for shard in self.changed.values())

    @property
    def bytes_to_compute(self) -> float:
        if self.changed is not None:
            return sum(shard.changed_bytes for shard in self.changed.values())
        return sum(shard.slice.text_bytes for shard in self.computed)


@dataclass(frozen=True)
class Plan:
    pipeline: Pipeline
    revision: str
    previous_revision: str | None
    spec: VersionSpec
    declared: VersionSpec
    columns: Columns
    kept: tuple[KeptColumn, ...]
    table: ResultTable
    files: tuple[FilePlan, ...]
    renamed: Mapping[str, str]
    """Vanished path → the path that has its content now."""
    removed: tuple[str, ...]
    num_rows_removed: int
    num_rows_before: int
    rewrite: tuple[DoneShard, ...]
    """Done shards whose key and kept columns are not the ones asked for."""
    done: Mapping[str, DoneShard]
    rate: Rate
    notes: tuple[str, ...]
    first: bool
    """Whether this pipeline has no table yet."""
    auto: Known | None = None
    """What is known of the engine and the dtype that are left to `auto`."""
    int8: Gain | None = None
    """What was measured of int8 on this processor, where it could be asked for."""
    max_new_tokens: float | None = None
    """That the model writes of a row; None of one that writes none."""

    @property
    def version(self) -> str:
        return self.spec.version

    @property
    def kept_fingerprint(self) -> str:
        return kept_fingerprint(self.kept)

    @property
    def todo(self) -> list[ShardPlan]:
        return [shard for file in self.files for shard in file.todo]

    @property
    def uncut(self) -> list[FilePlan]:
        return [file for file in self.files if file.uncut]

    @property
    def readable(self) -> list[SourceFile]:
        """The files but for those that are known to fail."""
        return [file.file for file in self.files if not file.problem]

    @property
    def is_up_to_date(self) -> bool:
        return not (self.todo or self.uncut or self.removed or self.renamed or self.rewrite or self.first) and not any(
            file.replaces for file in self.files
        )

    @property
    def computed(self) -> list[ShardPlan]:
        return [item for item in self.todo if item.action == "compute"]

    @property
    def unread(self) -> list[FilePlan]:
        """The uncut files of which it is not known how many rows they have."""
        return [file for file in self.uncut if not file.problem and file.changed is None]

    @property
    def unread_bytes(self) -> int:
        return sum(file.file.size - _known_bytes(file) for file in self.unread)

    @property
    def num_rows(self) -> int:
        """Of what goes through the stages; estimated where files are not read to their end."""
        return sum(file.num_rows for file in self.files) + self._num_unread_rows

    @property
    def num_rows_to_compute(self) -> int:
        """Those of the rows that the model is given; the others are answered already."""
        return sum(file.num_rows_to_compute for file in self.files) + self._num_unread_rows

    @property
    def may_compute_fewer(self) -> bool:
        """Whether there are files that were not looked at and may repeat rows."""
        return any(file.may_repeat and file.changed is None for file in self.files)

    @property
    def bytes_to_compute(self) -> Mapping[str, float]:
        """Shard id → bytes of its texts that are to be computed, of those that were looked at."""
        return {id_: shard.changed_bytes for file in self.files for id_, shard in (file.changed or {}).items()}

    @property
    def _num_unread_rows(self) -> int:
        return round(self.unread_bytes / self.rate.bytes_per_row) if self.rate.bytes_per_row else 0

    @property
    def estimate(self) -> Estimate:
        text_bytes = sum(file.bytes_to_compute for file in self.files) + self.unread_bytes
        return estimate(
            self.rate,
            self.rate.num_tokens(text_bytes),
            self.pipeline.cost,
            num_rows=self.num_rows_to_compute,
            max_new_tokens=self.max_new_tokens,
        )

    def to_json(self) -> dict[str, Any]:
        computed = self.computed
        return {
            "pipeline": self.pipeline.name,
            "revision": self.revision,
            "previous_revision": self.previous_revision,
            "version": self.version,
            "table": self.table.name,
            "up_to_date": self.is_up_to_date,
            "files": {
                "new": [
                    f.file.path for f in self.files if f.state == "new" and f.file.path not in self.renamed.values()
                ],
                "changed": [f.file.path for f in self.files if f.state == "changed"],
                "unfinished": [f.file.path for f in self.files if f.state == "unfinished"],
                "failed": {f.file.path: f.problem for f in self.files if f.problem},
                "unchanged": sum(f.state == "unchanged" for f in self.files),
                "removed": list(self.removed),
                "renamed": dict(self.renamed),
            },
            "shards": [
                {
                    "shard_id": item.shard.shard_id,
                    "path": file.file.path,
                    "first_row": item.shard.slice.first_row,
                    "rows": item.shard.slice.num_rows,
                    "action": item.action,
                    "reason": file.state,
                }
                for file in self.files
                for item in file.todo
            ],
            "uncut_files": [
                {"path": file.file.path, "bytes": file.file.size, "reason": file.state}
                for file in self.uncut
                if not file.problem
            ],
            "num_shards_computed": len(computed),
            "num_shards_copied": len(self.todo) - len(computed),
            "num_shards_rewritten": len(self.rewrite),
            "rows": self.num_rows,
            "rows_estimated": bool(self.unread),
            "rows_to_compute": self.num_rows_to_compute,
            "rows_to_compute_at_most": self.may_compute_fewer,
            "rows_removed": self.num_rows_removed,
            "tokens_estimated": True,
            **self.estimate.to_json(),
            "auto": None if self.auto is None else self.auto.to_json() | {"said": str(self.auto)},
            "int8": None if self.int8 is None else self.int8.to_json(),
            "notes": list(self.notes),
        }


def make_plan(pipeline: Pipeline, lake: Lake | None) -> tuple[Plan, sources.Dataset]:
    """Hold the dataset at its revision against the lake (None: there is none yet).

    Raises:
        InputError: the dataset, a column, the model or the pipeline file is at fault.
    """
    told: list[str] = []
    declared = versions.declared(pipeline, told.append)
    # Nothing but the lake is asked within a snapshot: who keeps one open is in the way of `forget` and `gc`.
    with lake.snapshot() if lake else nullcontext() as cursor:
        state = load_state(cursor, pipeline.name) if cursor else None
        spec, notes = _promoted_or(declared, cursor, pipeline, state)
        listed = _listed(cursor, pipeline, state) if cursor and state else None
    with usable(pipeline.dataset.path, "dataset.path"):
        dataset = sources.open_dataset(pipeline, spec.joined_text, listed, told.append)
    check_names(pipeline)
    kept, columns = settle_columns(pipeline, spec, dataset, lake.cursor() if lake else None, state)
    dataset.use(columns)
    known = _Known()
    if lake and state:
        with lake.snapshot() as cursor:
            known = _look_up(cursor, pipeline.name, spec.version, state.target_revision, dataset.files)
    previous, done = state.target_revision if state else None, known.done
    files = list(_plan_files(dataset, known, kept))
    if lake and done and any(file.todo or file.uncut for file in files):
        files = list(_look_at_changed(lake, (pipeline.name, spec.version), dataset, files, known))
    if not any(file.shards or file.uncut for file in files):
        raise DatasetError(f"The dataset {pipeline.dataset.path} has no rows. Check dataset.path, config and split.")
    results = known.results if known.results is not None else _result_columns(spec)
    check_collisions(kept, results)
    table = ResultTable(
        pipeline.name,
        spec.version,
        tuple((column.name, column.type) for column in kept),
        results,
        len(pipeline.dataset.key),
    )
    removed, renamed, num_rows_removed = _vanished(files, done)
    plan = Plan(
        pipeline=pipeline,
        revision=dataset.revision,
        previous_revision=previous,
        spec=spec,
        declared=declared,
        columns=columns,
        kept=kept,
        table=table,
        files=tuple(files),
        renamed=renamed,
        removed=removed,
        num_rows_removed=num_rows_removed,
        num_rows_before=sum(shard.num_rows for shard in done.values()),
        rewrite=tuple(_to_rewrite(known, kept)),
        done=done,
        rate=_rate(known.rate, spec, dataset, files),
        notes=(*told, *notes, *dataset.notes),
        first=state is None,
        auto=_known_of_auto(pipeline, spec),
        max_new_tokens=versions.most_new_tokens(spec),
        int8=kept_gain() if _may_take_int8(pipeline) else None,
    )
    return plan, dataset


def _may_take_int8(pipeline: Pipeline) -> bool:
    return computes_on_cpu(pipeline.inference) and pipeline.inference.engine in ("auto", "openvino")


def _known_of_auto(pipeline: Pipeline, spec: VersionSpec) -> Known | None:
    inference = pipeline.inference.model_copy(update={"dtype": spec.dtype})
    return known_of(versions.configuration_folder(spec), inference)


def _listed(cursor: Cursor, pipeline: Pipeline, state: PipelineState) -> Listing | None:
    """What the lake lists of a dataset on the Hub, at its target commit; None of one that was named otherwise then."""
    spec, commit = pipeline.dataset, state.target_revision[:COMMIT_LENGTH]
    recorded = load_dataset(cursor, pipeline.name)
    asked = recorded.pop("revision", None)
    if not sources.is_on_hub(spec) or recorded != {key: sources.named(spec)[key] for key in recorded}:
        return None
    if asked != spec.revision and hub.known_commit("dataset", spec.path, spec.revision) != commit:
        return None
    files = files_at(cursor, pipeline.name, state.target_revision)
    stored = tuple(replace(file, content=file.stored) for file in files)
    return Listing(commit, stored, options=said_in(state.target_revision)) if files else None


@dataclass(frozen=True)
class _Known:
    """What the lake says of a version and of the dataset's files, in one snapshot; nothing where there is none."""

    done: Mapping[str, DoneShard] = field(default_factory=dict)
    cut: Mapping[str, list[Slice]] = field(default_factory=dict)
    """File content → its slices, of files that were once cut to their end."""
    before: Mapping[str, tuple[str, list[Slice]]] = field(default_factory=dict)
    """Path → (content, slices) at the target revision, of the other files."""
    kept: list[dict[str, str]] | None = None
    results: tuple[tuple[str, str], ...] | None = None
    rate: Rate = field(default_factory=Rate)
    former: Former = field(default_factory=Former)


def _look_up(cursor: Cursor, pipeline: str, version: str, target: str, files: Sequence[SourceFile]) -> _Known:
    cut = cut_files(cursor, pipeline)
    return _Known(
        done=done_shards(cursor, pipeline, version),
        cut=cut,
        before=slices_at(cursor, pipeline, target, [file.path for file in files if file.content not in cut]),
        kept=load_kept(cursor, pipeline, version),
        results=load_results(cursor, pipeline, version),
        rate=measured_rate(cursor, pipeline, version),
        former=Former.of(cursor, pipeline, version, listed={file.path: file.content for file in files}),
    )


def _to_rewrite(known: _Known, kept: Sequence[KeptColumn]) -> list[DoneShard]:
    """Every shard where the table has other key and kept columns, else those that lack some of theirs."""
    is_settled = known.kept == [column.to_json() for column in kept]
    wanted = kept_fingerprint(kept)
    return [shard for shard in known.done.values() if not is_settled or shard.kept != wanted]


def classify(
    shards: Sequence[Shard], done: Mapping[str, DoneShard], by_content: Mapping[str, str]
) -> Iterator[ShardPlan]:
    """What each shard that is not done needs: its content may have been computed at another place."""
    for shard in shards:
        if shard.shard_id not in done:
            source = by_content.get(shard.slice.content)
            yield ShardPlan(shard, "copy", source) if source else ShardPlan(shard, "compute")


def _promoted_or(
    declared: VersionSpec, cursor: Cursor | None, pipeline: Pipeline, state: PipelineState | None
) -> tuple[VersionSpec, list[str]]:
    """The version to bring up to date, and what to tell about the one that the pipeline file asks for."""
    if cursor is None or state is None:
        return declared, []
    recorded = load_spec(cursor, pipeline.name, state.promoted_version)
    if not has_done_shards(cursor, pipeline.name, state.promoted_version):
        return declared, []  # Nobody ever saw a row of it: the first version is the one that is asked for now.
    if recorded is None:
        raise LakeError(f"The lake has no record of version {state.promoted_version} of {pipeline.name}.")
    promoted = VersionSpec.from_json(recorded)
    declared = versions.recognized(declared, [promoted])
    if promoted.version == declared.version:
        return declared, []
    changes = "; ".join(promoted.differences(declared))
    note = (
        f"The pipeline file now asks for version {declared.version} ({changes}). This keeps version "
        f"{promoted.version} up to date as it was made; `tidemill backfill` computes the new one beside it."
    )
    return promoted, [note]


def _result_columns(spec: VersionSpec) -> tuple[tuple[str, str], ...]:
    """The model task's columns. Those that are recorded do as well: a run with nothing to do opens no model."""
    return tuple((field.name, shown_type(field.type)) for field in versions.result_schema(spec))


def _plan_files(dataset: sources.Dataset, known: _Known, kept: Sequence[KeptColumn]) -> Iterator[FilePlan]:
    done, before = known.done, known.before
    done_paths = _ids_by_path(done)
    by_content = {shard.content: shard_id for shard_id, shard in done.items()}
    for file in dataset.files:
        slices, uncut, trusted, problem = _slices(file, dataset, known.cut, before, kept)
        shards = tuple(Shard(file, cut_slice) for cut_slice in slices)
        todo = tuple(classify(shards, done, by_content)) if not uncut else ()
        for item in todo:
            by_content.setdefault(item.shard.slice.content, item.shard.shard_id)
        old = done_paths.get(file.path, set())
        # A text file that changed may keep its first slices; which ones, only reading tells.
        replaces = bool(old) if uncut and not trusted else bool(old - {shard.shard_id for shard in shards})
        yield FilePlan(
            file=file,
            state="failed" if problem else _file_state(file, bool(todo) or uncut, replaces, before, bool(old)),
            shards=shards,
            todo=todo,
            uncut=uncut,
            trusted=trusted,
            replaces=replaces,
            problem=problem,
        )


def _look_at_changed(
    lake: Lake, version: tuple[str, str], dataset: sources.Dataset, files: Sequence[FilePlan], known: _Known
) -> Iterator[FilePlan]:
    """The files; of those that may repeat rows, what they change, as far as that is soon known.

    A version is given with the pipeline whose it is.
    """
    with lake.reached():
        may_repeat = known.former.may_have if has_answers(lake.cursor(), *version) else lambda _: False
    repeating = {
        file.file.path: file
        for file in files
        if (file.computed or file.uncut) and not file.problem and may_repeat(file.file.path)
    }
    unread = [(file.file, functools.partial(_new_slices, dataset, file)) for file in repeating.values()]
    changed = look_at(lake, table_name(*version), known.former, dataset, unread, done=known.done.keys())
    for file in files:
        path = file.file.path
        yield replace(file, may_repeat=True, changed=changed.get(path)) if path in repeating else file


def _new_slices(dataset: sources.Dataset, file: FilePlan) -> Iterable[Slice]:
    if not file.uncut:
        return [shard.slice for shard in file.computed]
    cut_before = [shard.slice for shard in file.shards]
    return dataset.reader(file.file).slices(shard_bytes=dataset.shard_bytes, known=cut_before, trusted=file.trusted)


def _slices(
    file: SourceFile,
    dataset: sources.Dataset,
    cut: Mapping[str, list[Slice]],
    before: Mapping[str, tuple[str, list[Slice]]],
    kept: Sequence[KeptColumn],
) -> tuple[Sequence[Slice], bool, bool, str]:
    """The slices of a file known without reading its rows.

    And whether there may be more, whether they are its own, and why the file cannot be read, if it cannot.
    """
    if file.content in cut:
        return cut[file.content], False, True, ""
    content, known = before.get(file.path, ("", []))
    types = [(column.source, column.arrow_type) for column in kept]
    problem = ""
    try:
        retrying(lambda: dataset.check_file(file, types), retries=dataset.retries)
        if dataset.cut_from_footer:
            read = retrying(
                lambda: list(dataset.reader(file).slices(shard_bytes=dataset.shard_bytes)), retries=dataset.retries
            )
            return read, False, True, ""
    except FAILS_ALONE as e:
        dataset.forget(file)
        problem = str(e)
    return known, True, content == file.content, problem


def _file_state(
    file: SourceFile, todo: bool, replaces: bool, before: Mapping[str, tuple[str, list[Slice]]], has_rows: bool
) -> FileState:
    content = before.get(file.path, (None,))[0]
    if content == file.content:
        return "unfinished" if todo or replaces else "unchanged"
    if has_rows or content is not None:
        return "changed" if todo or replaces else "unchanged"
    return "new" if todo else "unchanged"


def _ids_by_path(done: Mapping[str, DoneShard]) -> dict[str, set[str]]:
    by_path: dict[str, set[str]] = defaultdict(set)
    for shard_id, shard in done.items():
        by_path[shard.path].add(shard_id)
    return by_path


def _vanished(files: Sequence[FilePlan], done: Mapping[str, DoneShard]) -> tuple[tuple[str, ...], dict[str, str], int]:
    """Paths that left the dataset for good; those that only moved; and the rows that go with the first."""
    listed = {file.file.path for file in files}
    contents: dict[str, list[DoneShard]] = defaultdict(list)
    for shard in done.values():
        if shard.path not in listed:
            contents[shard.path].append(shard)
    if not contents:
        return (), {}, 0
    # A run that was killed once it had taken up the revision leaves files that are new to the table, and listed.
    new = [file for file in files if file.state in ("new", "unfinished")]
    new_place = {shard.slice.content: file.file.path for file in new for shard in file.shards}
    renamed = {
        path: new_place[shards[0].content]
        for path, shards in contents.items()
        if all(shard.content in new_place for shard in shards)
    }
    removed = sorted(set(contents) - set(renamed))
    return tuple(removed), renamed, sum(shard.num_rows for path in removed for shard in contents[path])


def _known_bytes(file: FilePlan) -> int:
    return max((shard.slice.stop for shard in file.shards), default=0) if file.trusted else 0


def _rate(rate: Rate, spec: VersionSpec, dataset: sources.Dataset, files: Sequence[FilePlan]) -> Rate:
    """What was measured; how many bytes a row has from the first text file, where that was not."""
    if rate.bytes_per_row is not None:
        return rate
    rate = rate.with_items(versions.items_per_row(spec))
    for file in files:
        if file.uncut and not file.problem:
            try:
                return replace(rate, bytes_per_row=dataset.bytes_per_row(file.file))
            except FAILS_ALONE:
                dataset.forget(file.file)
    return rate
