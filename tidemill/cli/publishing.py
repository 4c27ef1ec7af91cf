"""The commands that take results elsewhere: to a file, and to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tidemill.cli.common import AsJson, Overrides, PipelineFile, command, load, print_facts
from tidemill.cli.help import SHARING
from tidemill.errors import counted

Query = Annotated[
    str | None, typer.Option("--query", metavar="SQL", help="What this gives, in place of the promoted table.")
]


@command(
    SHARING,
    "tidemill export reviews.toml reviews.parquet",
    "tidemill export reviews.toml by-label --by label",
    "tidemill export reviews.toml sure.csv --query 'FROM reviews WHERE score > 0.9'",
    doing="writing the file",
)
def export(
    pipeline: PipelineFile,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to: FILE.parquet, .csv, .jsonl or .duckdb, or a folder.")
    ],
    query: Query = None,
    by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="A folder of Parquet files, in one folder for each value.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write the promoted table to a file, as one snapshot has it: Parquet, CSV, JSON Lines, or a DuckDB database."""
    from dataclasses import asdict

    from tidemill.publishing.export import export as export_table

    print_facts(asdict(export_table(load(pipeline, overrides), file, query=query, by=by)), _exported, as_json)


def _exported(facts: dict[str, Any]) -> str:
    files = f" in {counted(facts['num_files'], 'file')}" if facts["num_files"] != 1 else ""
    return f"{facts['file']}: {counted(facts['num_rows'], 'row')}, {facts['num_bytes']:,} bytes{files}."
