"""The commands by which people look at rows and say what is right: which rows to mark, and the app to do it in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidemill.cli.common import AsJson, Overrides, PipelineFile, command, load, print_facts
from tidemill.cli.help import EVERYDAY
from tidemill.errors import counted

if TYPE_CHECKING:
    from tidemill.lake.records.samples import Picked

NUM_ROWS = 60
SHOWN_ROWS = 20


@command(
    EVERYDAY,
    "tidemill sample reviews.toml --by domain",
    "tidemill sample reviews.toml --rows 100 --how unsure --how disagreeing",
    doing="picking rows",
)
def sample(
    pipeline: PipelineFile,
    rows: Annotated[int, typer.Option("--rows", metavar="N", min=1, max=10_000, help="How many.")] = NUM_ROWS,
    how: Annotated[
        list[str] | None,
        typer.Option("--how", metavar="WAY", help="unsure, disagreeing or random; may be repeated. All that apply."),
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="At random, as many of each value of this column.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Disagreeing with this version, and not with report.truth.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Another number picks other rows at random.")] = 0,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Pick rows to mark with their right labels: unsure ones, disagreeing ones, and some at random."""
    from tidemill.app.picking import sample_rows

    picked = sample_rows(load(pipeline, overrides), num_rows=rows, ways=how or (), by=by, against=against, seed=seed)
    facts = {"pipeline": pipeline, "rows": [_told(row) for row in picked]}
    print_facts(facts, _sampled, as_json)


@command(
    EVERYDAY,
    "tidemill app reviews.toml",
    "tidemill app reviews.toml --host data.example.org --root-path /reviews",
    "tidemill app reviews.toml --export space",
)
def app(
    pipeline: PipelineFile,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port on 127.0.0.1.")] = 7860,
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="NAME", help="A host that a proxy answers at; may be repeated."),
    ] = None,
    root_path: Annotated[
        str, typer.Option("--root-path", metavar="PATH", help="The path, or whole address, at the proxy.")
    ] = "",
    proxy: Annotated[
        list[str] | None,
        typer.Option("--proxy", metavar="ADDRESS", help="Whose forwarded headers count; may be repeated."),
    ] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="Let in whoever reaches the port.")] = False,
    access_log: Annotated[bool, typer.Option("--access-log", help="Print a line a request.")] = False,
    export: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write a Space that runs by itself, and start nothing.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Try the model, look at the table's rows, and mark their right labels: an app on this machine, in a browser."""
    loaded = load(pipeline, overrides)
    from tidemill.app.server import serving

    serving.check_installed()
    if export is not None:
        from tidemill.app.space.export import export as export_space
        from tidemill.app.space.export import told

        print_facts(export_space(loaded, export).to_json(), told, as_json)
        return
    from tidemill.serving.running import listen

    root = serving.root_of(root_path)
    address = serving.Address(port, serving.hosts_of(host or ()), root, tuple(proxy or ()), not no_token)
    listening = listen("127.0.0.1", port)
    made = serving.make_app(loaded, address, log=serving.log_to_stderr if access_log else None)
    print_facts({"pipeline": loaded.name, "url": made.url}, _serving, as_json)
    sys.stdout.flush()
    serving.serve(made, listening)


def _serving(facts: dict[str, Any]) -> str:
    return (
        f"{facts['pipeline']}: {facts['url']}\nThe address works once: whoever opens it first is let in. Ctrl-C ends."
    )


def _told(row: Picked) -> dict[str, Any]:
    return {"path": row.path, "row_number": row.place.row_number, "shard_id": row.place.shard_id, "reason": row.reason}


def _sampled(facts: dict[str, Any]) -> str:
    from tidemill.cli import render

    rows = facts["rows"]
    shown = [[row["path"], row["row_number"], row["reason"]] for row in rows[:SHOWN_ROWS]]
    more = [f"… and {len(rows) - SHOWN_ROWS:,} more"] if len(rows) > SHOWN_ROWS else []
    told = f"{counted(len(rows), 'row')} to mark, in place of those that were to be marked before."
    return "\n".join(
        [render.rows(["path", "row", "why"], shown), *more, told, f"Mark them: tidemill app {facts['pipeline']}"]
    )
