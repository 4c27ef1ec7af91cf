"""The commands that take results elsewhere: to a file, and to the Hub."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidemill.cli.common import AsJson, Overrides, PipelineFile, command, confirmed, load, print_facts, say
from tidemill.cli.help import SHARING, pipeline_files
from tidemill.errors import counted

if TYPE_CHECKING:
    from tidemill.config import Pipeline
    from tidemill.publishing.proposal import Proposal

MOST_SHOWN = 10
DEFAULT = "default"
"""What `datasets` calls the config of a dataset that has one."""

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


@command(
    SHARING,
    "tidemill publish reviews.toml --to your-name/reviews",
    "tidemill publish reviews.toml --to your-name/reviews --split test --yes",
    "tidemill publish --model heads/reviews --to your-name/reviews-head",
    doing="looking what is to be sent",
)
def publish(
    pipeline: Annotated[
        str | None,
        typer.Argument(metavar="[PIPELINE.toml]", help="The pipeline file.", autocompletion=pipeline_files),
    ] = None,
    to: Annotated[str, typer.Option("--to", metavar="OWNER/NAME", help="The repository; made if it is missing.")] = "",
    model: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Publish this model, in place of a pipeline's table.")
    ] = None,
    query: Query = None,
    config: Annotated[str, typer.Option(metavar="NAME", help="As which config of the dataset.")] = DEFAULT,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="As which split; the pipeline's dataset.split if not given.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it; a new one is private else.")] = False,
    with_text: Annotated[
        bool | None,
        typer.Option("--with-text/--without-text", help="Whether kept texts go along, where the source forbids it."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Publish the promoted table as a dataset on the Hub, or a model. Says what it would send first, and asks."""
    from tempfile import TemporaryDirectory

    from tidemill.errors import Stopped
    from tidemill.publishing.proposal import carried_out
    from tidemill.publishing.repositories.writing import Repository

    loaded = _what_to_publish(pipeline, model, to, overrides)
    if loaded is None:
        _refuse_of_tables(query=query, split=split, config=None if config == DEFAULT else config, text=with_text)
    repository = Repository("dataset" if loaded is not None else "model", to)
    repository.check_token()
    with TemporaryDirectory(prefix="tidemill-") as folder:
        propose: Callable[[], Proposal]
        if loaded is not None:
            from tidemill.publishing.table import Asked, propose_table

            asked = Asked(public, query, config, split, with_text)
            propose = partial(propose_table, loaded, repository, asked, Path(folder))
        else:
            from tidemill.publishing.model import propose_model

            assert model is not None
            propose = partial(propose_model, model, repository, public=public)
        try:
            done = carried_out(propose, agree=partial(_agreed, public=public, yes=yes, as_json=as_json), tell=_tell)
        except KeyboardInterrupt as e:
            raise Stopped("stopped. What was sent is not sent again; the same command goes on from there.") from e
    if done is None:
        raise typer.Exit(1)
    print_facts(done.to_json(), _published, as_json)


def _what_to_publish(pipeline: str | None, model: Path | None, to: str, overrides: list[str] | None) -> Pipeline | None:
    """The pipeline, or None where a model is asked for."""
    from tidemill.errors import ConfigError

    if (pipeline is None) == (model is None):
        raise ConfigError("Give either a pipeline file, whose table is published, or --model FOLDER.")
    if not to:
        raise ConfigError("Give --to OWNER/NAME, the repository on the Hub.")
    return load(pipeline, overrides) if pipeline is not None else None


def _refuse_of_tables(**options: object) -> None:
    from tidemill.errors import ConfigError

    if given := next((name for name, value in options.items() if value is not None), None):
        shown = "--with-text" if given == "text" else f"--{given}"
        raise ConfigError(f"{shown} is of tables, and --model publishes a folder. Leave one of them out.")


def _agreed(proposal: Proposal, *, public: bool, yes: bool, as_json: bool) -> bool:
    facts = proposal.to_json()
    if not as_json:
        say(_proposed(facts))
    if public and facts["private"]:
        _tell(f"note: {facts['repository']} is private and stays so. Its settings on the Hub make it public.")
    return confirmed(f"Send this to {facts['url']}?", yes=yes)


def _tell(text: str) -> None:
    typer.echo(text, err=True)


def _proposed(facts: dict[str, Any]) -> str:
    visible = "private" if facts["private"] else "public"
    made = visible if facts["exists"] else f"new, {visible}"
    lines = [f"{facts['url']} ({made})"]
    lines += [f"  {file['path']}: {file['bytes']:,} bytes" for file in facts["files"][:MOST_SHOWN]]
    if (more := len(facts["files"]) - MOST_SHOWN) > 0:
        lines.append(f"  and {counted(more, 'file')} more")
    lines += [f"  {path}: is taken out" for path in facts["deletions"][:MOST_SHOWN]]
    if (more := len(facts["deletions"]) - MOST_SHOWN) > 0:
        lines.append(f"  and {counted(more, 'file')} more are taken out")
    lines.append(f"to send: {counted(len(facts['files']), 'file')}, {facts['bytes']:,} bytes")
    return "\n".join([*lines, *(_of_model(facts) if facts["kind"] == "model" else _of_table(facts))])


def _of_table(facts: dict[str, Any]) -> list[str]:
    return [
        f"rows: {facts['rows']:,} in {counted(facts['num_files'], 'file')}, config {facts['config']}, "
        f"split {facts['split']}",
        f"columns: {', '.join(column['name'] for column in facts['columns'])}",
        _origin("source", facts["source"]),
        _origin("model", facts["model"]),
    ]


def _origin(what: str, origin: dict[str, Any]) -> str:
    gated = ", gated" if origin["gated"] else ""
    return f"{what}: {origin['name']}, licence: {origin['licence'] or 'not said'}{gated}"


def _of_model(facts: dict[str, Any]) -> list[str]:
    lines = [f"model: {facts['architecture']}, licence: {facts['licence'] or 'not said'}"]
    lines += [f"base: {facts['base']}, licence: {facts['base_licence'] or 'not said'}"] if facts["base"] else []
    return lines + ([f"left out: {', '.join(facts['left_out'])}"] if facts["left_out"] else [])


def _published(facts: dict[str, Any]) -> str:
    if facts["state"] == "unchanged":
        return f"{facts['url']} is up to date: nothing to send."
    return (
        f"{facts['url']}: {counted(len(facts['files']), 'file')} sent, {facts['bytes']:,} bytes, as commit "
        f"{facts['commit'][:12]}."
    )
