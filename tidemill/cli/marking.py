"""The commands by which people look at rows and say what is right: which rows to mark, and the app to do it in."""

from __future__ import annotations

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
