"""The command that makes a page of a table: pictures, each with its SQL."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli.common import AsJson, Overrides, PipelineFile, command, load, print_facts, say
from tidemill.cli.help import EVERYDAY
from tidemill.errors import counted


@command(
    EVERYDAY,
    "tidemill report reviews.toml -o reviews.html",
    "tidemill report reviews.toml --set 'report.truth=\"rating > 0\"' --json",
    "tidemill report reviews.toml --against 310e0959",
    doing="making the report",
)
def report(
    pipeline: PipelineFile,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where the page goes: a file, or an address of S3.")
    ] = "report.html",
    texts: Annotated[bool, typer.Option("--texts", help="Show kept texts of rows; the page says so.")] = False,
    against: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Show a version beside the promoted one, as `compare` does."),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """A page of the table to look at: one HTML file that needs no network. With --json its figures alone."""
    from tidemill.pictures import make_report
    from tidemill.pictures.page import page
    from tidemill.pictures.writing import write_page

    found = make_report(load(pipeline, overrides), texts=texts, against=against)
    if as_json:
        print_facts(found.to_json(), str, as_json)
        return
    write_page(page(found), output, "--output")
    say(f"{output}: {len(found.pictures)} figures of {counted(found.subject.num_rows, 'row')}.")
