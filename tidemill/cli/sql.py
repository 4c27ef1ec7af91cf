"""The command that queries a lake: with a query, a script, or as a shell."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from tidemill.cli.common import AsJson, Overrides, PipelineOrLake, command
from tidemill.cli.help import EVERYDAY


class Format(StrEnum):
    """How `sql` prints a result."""

    table = "table"
    csv = "csv"
    json = "json"
    markdown = "markdown"
    parquet = "parquet"


@command(
    EVERYDAY,
    "tidemill sql reviews.toml",
    'tidemill sql reviews.toml "SELECT label, count(*) FROM reviews GROUP BY label"',
    "tidemill sql reviews.toml --file report.sql --format markdown",
)
def sql(
    source: PipelineOrLake,
    query: Annotated[
        str | None, typer.Argument(metavar="QUERY", help="One or more statements that read; without, a shell.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", metavar="FILE", help="Run the statements of a file; - is standard input."),
    ] = None,
    output: Annotated[Format, typer.Option("--format", help="How the result is printed.")] = Format.table,
    folders: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="FOLDER", help="Let the SQL read files in FOLDER; may be repeated."),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Query the tables of a lake with SQL, read-only. A pipeline's table has the pipeline's name."""
    from tidemill.cli.query import find_lake, run_query
    from tidemill.errors import ConfigError

    spec, printed, allowed = find_lake(source, overrides or ()), "json" if as_json else output.value, folders or ()
    if query is not None and file is not None:
        raise ConfigError("A query and --file: give one of them.")
    if query is not None:
        run_query(spec, query, printed, allowed)
    elif file is not None or not sys.stdin.isatty():
        from tidemill.cli.script import read_script, run_script

        name = file or "-"
        run_script(spec, read_script(name), printed, allowed, name=name)
    elif not sys.stdout.isatty():
        raise ConfigError('There is no query. Give one, or --file FILE: tidemill sql ... "SELECT ..."')
    else:
        from tidemill.cli.shell import run_shell

        run_shell(spec, printed, allowed, source=source)
