"""The commands that look after a lake: housekeeping, forgetting rows, migrating an older one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tidemill.cli.common import (
    AsJson,
    Overrides,
    PipelineFile,
    PipelineOrLake,
    command,
    confirmed,
    lake_spec,
    load,
    print_facts,
    say,
)
from tidemill.cli.help import UPKEEP
from tidemill.errors import counted


@command(UPKEEP, "tidemill gc reviews.toml", "tidemill gc reviews.toml --yes", doing="looking what nobody needs")
def gc(
    pipeline: PipelineFile,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be done.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Keep house: merge small files, expire old snapshots, remove what nobody needs. Says what it would do first."""
    from tidemill.upkeep.housekeeping import collect_garbage

    facts = collect_garbage(load(pipeline, overrides), dry_run=not yes)
    print_facts(facts, lambda found: _garbage(found, pipeline), as_json)


@command(UPKEEP, "tidemill forget reviews.toml --where \"author = 'ann'\"", doing="looking for the rows")
def forget(
    pipeline: PipelineFile,
    where: Annotated[
        str, typer.Option("--where", metavar="CONDITION", help="Which rows: SQL over the result table's columns.")
    ],
    history: Annotated[
        bool, typer.Option("--history", help="Erase every older snapshot even if no row matches now.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Erase rows for good: from every version, quarantine, old snapshots, data files and the store."""
    from dataclasses import asdict

    from tidemill.masking import shown_catalog
    from tidemill.upkeep.forget import forget as forget_rows
    from tidemill.upkeep.forget import preview

    loaded = load(pipeline, overrides)
    found = preview(loaded, where, history=history)
    if not as_json:
        say(_found(asdict(found)))
    question = f"Erase them for good, and every older snapshot of the lake {shown_catalog(loaded.lake.catalog)}?"
    if not confirmed(question, yes=yes):
        raise typer.Exit(1)
    done = forget_rows(loaded, where, history=history)
    print_facts(asdict(done), _erased, as_json)


@command(UPKEEP, "tidemill repair reviews.toml", doing="checking every row and file")
def repair(
    pipeline: PipelineFile,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Bring back what `verify` finds wrong: damaged files leave the tables, and their shards are computed again."""
    from tidemill.cli import render
    from tidemill.cli.live import live_progress
    from tidemill.lake import Lake
    from tidemill.results.verify import verify_pipeline
    from tidemill.upkeep.repair import repair as repair_pipeline

    loaded = load(pipeline, overrides)
    with Lake(loaded.lake, read_only=True, scans=True) as lake:
        found = verify_pipeline(lake, loaded.name)
    if found.problems:
        if not as_json:
            typer.echo(render.verification(found.to_json(), pipeline))
        if not confirmed("Take what is wrong out of the tables and compute it again?", yes=yes):
            raise typer.Exit(1)
    with live_progress() as progress:
        done = repair_pipeline(loaded, progress=progress)
    print_facts(done.to_json(), _repaired, as_json)
    if done.problems:
        raise typer.Exit(1)


@command(UPKEEP, "tidemill migrate .tidemill/lake.sqlite", doing="migrating the lake")
def migrate(
    source: PipelineOrLake,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Bring a lake that an older Tidemill wrote to this one's layout, all of it or none."""
    from dataclasses import asdict

    from tidemill.results.migration.layouts import migrate as migrate_lake

    print_facts(asdict(migrate_lake(lake_spec(source, overrides))), _migration, as_json)


def _garbage(facts: dict[str, Any], pipeline_file: str) -> str:
    from tidemill.upkeep.housekeeping import has_done_something

    dry_run = facts["dry_run"]
    steps = [
        *(f"drop the abandoned table {name}" for name in facts["abandoned_tables"]),
        *(f"remove {counted(num, 'left-over row')} of {table}" for table, num in facts["left_over_rows"].items()),
        *(
            f"move {counted(num, 'row')} of {table} from the catalog to a file"
            for table, num in facts["flushed_rows"].items()
        ),
        *(f"merge {counted(num, 'file')} of {table}" for table, num in facts["merged_files"].items()),
        *_counted(facts, "expire", "expired_snapshots", "snapshots"),
        *_counted(facts, "remove", "old_files", "files that no snapshot needs", "old_bytes"),
        *_counted(facts, "remove", "orphans", "files of killed writers", "orphan_bytes"),
        *_counted(facts, "remove", "store_files", "store files", "store_bytes"),
        *_counted(facts, "remove", "conversions", "converted models", "conversion_bytes"),
        *_counted(facts, "remove", "features", "files of features", "feature_bytes"),
        *_counted(facts, "remove", "claim_files", "claims of killed runs"),
    ]
    lines = [f"{facts['pipeline']}: " + ("this would be done." if dry_run else f"done in {facts['seconds']:.1f} s.")]
    if not has_done_something(facts):
        lines = [f"{facts['pipeline']}: nothing to do."]
    lines += [f"  {line}" for line in steps]
    lines += [f"note: {note}" for note in facts["notes"]]
    if dry_run and steps:
        lines.append(f"Nothing was done yet. Do it: tidemill gc {pipeline_file} --yes")
    return "\n".join(lines)


def _counted(facts: dict[str, Any], verb: str, key: str, what: str, size: str | None = None) -> list[str]:
    if not facts[key]:
        return []
    return [f"{verb} {facts[key]:,} {what}" + (f", {facts[size]:,} bytes" if size else "")]


def _found(facts: dict[str, Any]) -> str:
    lines = [f"{facts['pipeline']}: matching rows: {facts['num_rows']:,}"]
    lines += [
        f"  {version['table']}: rows {version['rows']:,}, in quarantine {version['quarantined']:,}"
        for version in facts["versions"]
    ]
    lines += [f"  from {path}: {num:,}" for path, num in facts["paths"].items()]
    lines += [f"note: {note}" for note in facts["notes"]]
    return "\n".join(lines)


def _erased(facts: dict[str, Any]) -> str:
    lines = [f"{facts['pipeline']}: erased rows: {facts['num_rows']:,}, and every snapshot before now with them."]
    return "\n".join([*lines, "Not reached:", *(f"  {place}" for place in facts["unreached"])])


def _repaired(facts: dict[str, Any]) -> str:
    lines = [f"{facts['pipeline']}: nothing to repair."]
    if facts["num_files"] or facts["num_shards"]:
        files = f"{counted(facts['num_files'], 'data file')} taken out"
        shards = f"{counted(facts['num_shards'], 'shard')} computed again"
        lines = [f"{facts['pipeline']}: {files}, {shards}."]
    lines += [f"still wrong: {problem}" for problem in facts["problems"]]
    lines += [f"note: {note}" for note in facts["notes"]]
    return "\n".join([*lines, *([] if facts["problems"] else ["Every invariant holds."])])


def _migration(facts: dict[str, Any]) -> str:
    if facts["from_layout"] == facts["to_layout"]:
        return f"The lake has layout {facts['to_layout']}, which is current: nothing to do."
    lines = [f"The lake was migrated from layout {facts['from_layout']} to {facts['to_layout']}."]
    return "\n".join([*lines, *(f"  {change}" for change in facts["changes"])])
