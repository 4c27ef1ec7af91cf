"""The commands of every day. Everything heavy is imported where it is used, so that `--help` is there at once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidemill.cli import (  # noqa: F401
    backfill,
    bench,
    housekeeping,
    marking,
    operate,
    publishing,
    report,
    serving,
    sql,
    start,
    train,
    versions,
)
from tidemill.cli.common import AsJson, Overrides, PipelineFile, app, command, load, print_facts, say
from tidemill.cli.help import EVERYDAY
from tidemill.errors import counted

if TYPE_CHECKING:
    from tidemill.config import Pipeline
    from tidemill.running.run import RunResult

__all__ = ["app"]


@command(
    EVERYDAY,
    "tidemill plan reviews.toml",
    "tidemill plan reviews.toml --set dataset.revision=main --json",
    doing="listing files",
)
def plan(pipeline: PipelineFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """What `run` would do, and why: files, shards, rows, tokens, time and cost. Computes and writes nothing."""
    from tidemill.cli import render
    from tidemill.lake import Lake, catalog_exists
    from tidemill.planning.plan import make_plan

    loaded = load(pipeline, overrides)
    lake = Lake(loaded.lake, read_only=True) if catalog_exists(loaded.lake) else None
    try:
        facts = make_plan(loaded, lake)[0].to_json()
    finally:
        if lake is not None:
            lake.close()
    print_facts(facts, render.plan, as_json)


@command(EVERYDAY, "tidemill run reviews.toml --limit 3", "tidemill run reviews.toml")
def run(
    pipeline: PipelineFile,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="ROWS", min=1, help="Try the pipeline on a few rows and print them; tables are left alone."
        ),
    ] = None,
    direct: Annotated[bool, typer.Option("--direct", help="Run in this process, without Prefect.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove the rows of vanished files, however many.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Bring the pipeline's table up to date, here and now. Only what changed is computed."""
    from dataclasses import asdict

    from tidemill.cli import render
    from tidemill.cli.live import live_progress
    from tidemill.cli.silence import telling

    loaded = load(pipeline, overrides)
    kept = [name for _, name in loaded.dataset.kept]
    keys = kept[: len(loaded.dataset.key)]
    if limit is not None:
        from tidemill.reports.sample import sample

        with telling(f"{loaded.name}: trying the first {counted(limit, 'row')}"):
            rows = sample(loaded, limit)
        print_facts(rows, lambda found: render.sample(found, keys, kept), as_json)
        return
    with live_progress() as progress:
        progress.doing(f"{loaded.name}: listing files")
        result = _run(loaded, direct=direct, yes=yes, progress=progress)
    if as_json:
        print_facts(asdict(result), str, as_json)
    else:
        say(render.result(result, pipeline, keys))
    if result.state != "done":
        raise typer.Exit(1)


@command(EVERYDAY, "tidemill status reviews.toml", doing="reading the lake")
def status(pipeline: PipelineFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Where the table stands: shards by state, rows, quarantine, throughput, last runs."""
    from tidemill.cli import render
    from tidemill.reports.status import pipeline_status

    print_facts(pipeline_status(load(pipeline, overrides)), render.status, as_json)


@command(EVERYDAY, "tidemill verify reviews.toml", doing="checking every row and file")
def verify(pipeline: PipelineFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Recheck every invariant of the pipeline's tables from their rows and files; exits 1 and says what is wrong."""
    from tidemill.cli import render
    from tidemill.lake import Lake
    from tidemill.results.verify import verify_pipeline

    loaded = load(pipeline, overrides)
    with Lake(loaded.lake, read_only=True, scans=True) as lake:
        report = verify_pipeline(lake, loaded.name).to_json()
    print_facts(report, lambda facts: render.verification(facts, pipeline), as_json)
    if report["problems"]:
        raise typer.Exit(1)


def _run(loaded: Pipeline, *, direct: bool, yes: bool, progress: Any) -> RunResult:
    from tidemill.running.run import Run

    planned = Run(loaded, progress=progress, yes=yes)
    # Starting Prefect's temporary server takes seconds: not for finding that there is nothing to do.
    if direct or (planned.prepare().is_up_to_date and not os.environ.get("PREFECT_API_URL")):
        return planned.execute()
    from tidemill.flows.local import run_under_prefect

    return run_under_prefect(loaded, yes=yes, progress=progress, run=planned)
