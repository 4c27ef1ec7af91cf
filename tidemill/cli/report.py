"""The command that makes a page of a table: pictures, each with its SQL."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.common import AsJson, Overrides, PipelineFile, command, load, print_facts
from tidemill.cli.help import EVERYDAY


@command(
    EVERYDAY,
    "tidemill report reviews.toml -o reviews.html",
    "tidemill report reviews.toml --set 'report.truth=\"rating > 0\"' --json",
    doing="making the report",
)
def report(
    pipeline: PipelineFile,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write; there may be one.")
    ] = Path("report.html"),
    texts: Annotated[bool, typer.Option("--texts", help="Show kept texts of rows; the page says so.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """A page of the table to look at: one HTML file that needs no network. With --json its figures alone."""
    from tidemill.pictures import make_report
    from tidemill.pictures.page import page

    found = make_report(load(pipeline, overrides), texts=texts)
    if as_json:
        print_facts(found.to_json(), str, as_json)
        return
    output.write_text(page(found), encoding="utf-8")
    print_facts({"path": str(output)}, lambda facts: f"Written: {facts['path']}", as_json)
