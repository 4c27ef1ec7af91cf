"""`tidemill backfill`: a priced plan, a question, and then the work."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidemill.cli.common import Overrides, PipelineFile, command, confirmed, load, print_facts, say
from tidemill.cli.help import VERSIONS
from tidemill.cli.render import new_tokens, tokens
from tidemill.errors import counted

if TYPE_CHECKING:
    from tidemill.config import Pipeline
    from tidemill.planning.backfill_plan import BackfillPlan, Selection
    from tidemill.progress import Progress
    from tidemill.running.recording import RunResult


@command(
    VERSIONS,
    "tidemill backfill reviews.toml --since 2026-01-01",
    "tidemill backfill reviews.toml --model-revision v2 --max-cost 5",
    "tidemill backfill emails.toml --model-path models/spam",
    doing="reading the lake",
)
def backfill(
    pipeline: PipelineFile,
    files: Annotated[
        str | None, typer.Option(metavar="GLOB", help="Files whose path matches; * spans folders.")
    ] = None,
    shards: Annotated[str | None, typer.Option(metavar="ID,...", help="These shards, by id.")] = None,
    since: Annotated[str | None, typer.Option(metavar="DATE", help="Files from this day on.")] = None,
    until: Annotated[str | None, typer.Option(metavar="DATE", help="Files up to this day.")] = None,
    model_revision: Annotated[
        str | None, typer.Option(metavar="REV", help="With this revision of the model, as a version of its own.")
    ] = None,
    model_path: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="With the model of this folder, as a version of its own.")
    ] = None,
    version: Annotated[
        str | None, typer.Option(metavar="VERSION", help="A version that the lake has, as it was made.")
    ] = None,
    quarantined: Annotated[bool, typer.Option("--quarantined", help="Only the rows in quarantine, again.")] = False,
    decode_again: Annotated[
        bool, typer.Option("--decode-again", help="Only make texts again of the tokens that the store has kept.")
    ] = False,
    max_cost: Annotated[
        float | None, typer.Option(metavar="COST", min=0, help="Stop before the shard that would pass it.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before computing.")] = False,
    direct: Annotated[bool, typer.Option("--direct", help="Run in this process, without Prefect.")] = False,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON, and compute nothing.")] = False,
) -> None:
    """Compute a chosen past range again, or a new version beside the old. Stopped, the same command goes on."""
    from tidemill.errors import ConfigError
    from tidemill.planning.backfill_plan import Selection

    if version and model_revision:
        raise ConfigError("--version names a version that is there, --model-revision asks for another. Give one.")
    if model_path and (version or model_revision):
        raise ConfigError("--model-path asks for the model of a folder. Give no --version and no --model-revision.")
    if model_revision:
        overrides = [*(overrides or ()), f'model.revision="{model_revision}"']
    if model_path:
        overrides = [*(overrides or ()), *_of_folder(model_path)]
    loaded = load(pipeline, overrides)
    if model_path:  # What the pipeline's own model lies in is no folder of this one.
        loaded = loaded.model_copy(update={"model": loaded.model.model_copy(update={"subfolder": None})})
    if model_revision:
        _refuse_revision_of_folder(loaded, model_revision)
    if max_cost is not None and loaded.cost.per_hour is None:
        raise ConfigError("--max-cost needs a price. Set cost.per_hour to what an hour of the device costs.")
    ids = tuple(part.strip() for part in shards.split(",") if part.strip()) if shards else ()
    selection = Selection(files, ids, since, until, quarantined, version, decode_again)
    made = _plan(loaded, selection)
    if as_json:
        print_facts(made.to_json(), str, as_json)
        return
    say(show_plan(made.to_json()))
    if not made.num_shards:
        if made.resumes:
            _end(_carry_out(loaded, made, max_cost, direct=True))
        return
    if made.estimate.seconds is None and not yes and made.num_shards > 1:
        if not confirmed("Nothing was measured yet. Compute one shard, to tell the rest by it?", yes=yes):
            return
        measured = _measure(loaded, made, max_cost)
        if measured.state != "done":
            _end(measured)
        made = _plan(loaded, selection)
        say(show_plan(made.to_json()))
    if not confirmed(f"Compute {counted(made.num_shards, 'shard')}?", yes=yes):
        return
    _end(_carry_out(loaded, made, max_cost, direct=direct))


def _of_folder(path: str) -> list[str]:
    """What makes a pipeline's model that of a folder, with the tokenizer that lies there."""
    folder = Path(path).absolute()
    if not folder.is_dir():
        from tidemill.errors import ConfigError

        raise ConfigError(f"--model-path {path}: there is no such folder. `tidemill train` makes one.")
    return [f"model.path={json.dumps(str(folder))}", 'model.revision="main"']


def _refuse_revision_of_folder(loaded: Pipeline, revision: str) -> None:
    from tidemill.errors import ConfigError
    from tidemill.planning.versions import is_local

    if loaded.inference.engine == "endpoint":
        raise ConfigError(
            f"--model-revision {revision}: model.path = {loaded.model.path} is what a server calls its model, and "
            "which revision that is, the server decides. Give the other model's name there: --set model.path=NAME."
        )
    if is_local(loaded.model.path):
        raise ConfigError(
            f"--model-revision {revision}: model.path = {loaded.model.path} is a local folder, which has no revisions; "
            "what it holds is its version. Give the folder of the other model: --set model.path=FOLDER."
        )


def _end(result: RunResult) -> None:
    say(show_result(result))
    if result.state != "done":
        raise typer.Exit(1)


def _plan(loaded: Pipeline, selection: Selection) -> BackfillPlan:
    from tidemill.lake import Lake
    from tidemill.planning.backfill_plan import plan_backfill

    with Lake(loaded.lake, read_only=True) as lake:
        return plan_backfill(loaded, lake, selection)


def _request(loaded: Pipeline, made: BackfillPlan, max_cost: float | None) -> str:
    from tidemill.lake import Lake
    from tidemill.planning.backfill_plan import request_backfill

    with Lake(loaded.lake) as lake:
        return request_backfill(lake, made, max_cost=max_cost)


def _measure(loaded: Pipeline, made: BackfillPlan, max_cost: float | None) -> RunResult:
    from tidemill.cli.live import live_progress
    from tidemill.running.backfill_run import BackfillRun

    backfill_id = _request(loaded, made, max_cost)
    with live_progress() as progress:
        first = [made.shards[0].shard_id]
        return BackfillRun(loaded, backfill_id, shards=first, progress=progress, why="measure").execute()


def _carry_out(loaded: Pipeline, made: BackfillPlan, max_cost: float | None, *, direct: bool) -> RunResult:
    from tidemill.cli.live import live_progress
    from tidemill.running.backfill_run import BackfillRun

    backfill_id = _request(loaded, made, max_cost)
    with live_progress() as progress:
        if not direct and os.environ.get("PREFECT_API_URL"):
            return _under_prefect(loaded, backfill_id, progress)
        return BackfillRun(loaded, backfill_id, progress=progress).execute()


def _under_prefect(loaded: Pipeline, backfill_id: str, progress: Progress) -> RunResult:
    from tidemill.flows.follow import backfill_under_prefect

    return backfill_under_prefect(loaded, backfill_id, progress=progress)


def show_plan(facts: dict[str, Any]) -> str:
    """The plan for people."""
    beside = "" if facts["version"] == facts["promoted_version"] else f", beside {facts['promoted_version']}"
    lines = [f"{facts['pipeline']}: version {facts['version']}{beside}, dataset revision {facts['revision'][:12]}"]
    why = {
        "again": "compute again",
        "missing": "compute what the version lacks",
        "decoded again": "make texts again of what was written",
        "quarantined": "try quarantined rows again",
    }[facts["reason"]]
    if facts["resumes"]:
        why = f"go on with backfill {facts['resumes']}"
    if not facts["num_shards"]:
        return "\n".join([*lines, "Nothing to compute.", *(f"note: {note}" for note in facts["notes"])])
    lines.append(
        f"{why}: {counted(facts['num_shards'], 'shard')} of {counted(facts['num_files'], 'file')}, "
        + ", ".join([counted(facts["rows"], "row"), f"~{counted(facts['tokens'], 'token')}", *new_tokens(facts)])
    )
    lines.append(f"time {between(facts['seconds_low'], facts['seconds_high'])}{_cost(facts)}{_basis(facts)}")
    return "\n".join([*lines, *(f"note: {note}" for note in facts["notes"])])


def show_result(done: RunResult) -> str:
    """What a backfill did, with the estimate set against what it took."""
    lines = [
        f"{done.pipeline}: backfill {done.backfill_id} {done.state}. "
        f"{counted(done.num_shards, 'shard')}, {counted(done.num_rows, 'row')}, {done.num_quarantined:,} quarantined, "
        f"{tokens(done)} in {done.seconds:.1f} s."
    ]
    if done.estimated_seconds_low is not None and done.state == "done":
        expected = between(done.estimated_seconds_low, done.estimated_seconds_high)
        lines.append(f"Estimated {expected}; took {done.seconds:.1f} s.")
    if done.cost is not None:
        lines.append(f"Cost {done.cost:.4f} {done.currency}.")
    lines += [f"failed: {failure['path']}: {failure['message']}" for failure in done.failures[:10]]
    lines += [f"note: {note}" for note in done.notes]
    if done.state != "done":
        lines.append("What was committed stays; the same command goes on from there.")
    return "\n".join(lines)


def between(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "unknown (nothing measured yet)"
    scale, unit = (1.0, "s") if high < 120 else (60.0, "min") if high < 7200 else (3600.0, "h")
    digits = 0 if high / scale >= 10 else 1
    return f"{low / scale:.{digits}f} to {high / scale:.{digits}f} {unit}"


def _cost(facts: dict[str, Any]) -> str:
    if facts["cost_low"] is None:
        return ""
    return f", cost {facts['cost_low']:.4f} to {facts['cost_high']:.4f} {facts['currency']}"


def _basis(facts: dict[str, Any]) -> str:
    if not facts["measured_shards"]:
        return ""
    return f" (by {counted(facts['measured_shards'], 'shard')} on {facts['device']}, with one worker)"
