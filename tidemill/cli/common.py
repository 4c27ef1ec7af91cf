"""What all commands share: the application, the options that each takes, and how facts are printed."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from tidemill.cli.help import Command, Commands, pipeline_files
from tidemill.cli.silence import break_silence, telling
from tidemill.cli.terminal import printable

if TYPE_CHECKING:
    from tidemill.config import Pipeline

app = typer.Typer(
    name="tidemill",
    help="SQL tables of model predictions over datasets, kept up to date, exactly once.",
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

PipelineFile = Annotated[
    str, typer.Argument(metavar="PIPELINE.toml", help="The pipeline file.", autocompletion=pipeline_files)
]
PipelineFiles = Annotated[
    list[str], typer.Argument(metavar="PIPELINE.toml...", help="The pipeline files.", autocompletion=pipeline_files)
]
PipelineOrLake = Annotated[
    str,
    typer.Argument(
        metavar="PIPELINE.toml|LAKE", help="A pipeline file, or a lake's catalog.", autocompletion=pipeline_files
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the pipeline file; may be repeated."),
]
Function = TypeVar("Function", bound=Callable[..., Any])
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tidemill {version('tidemill')}")
        raise typer.Exit


def command(group: str, *examples: str, doing: str = "") -> Callable[[Function], Function]:
    """Make a function a command, in a group of the help, with examples below its options.

    Where it takes more than a moment, `doing` is told meanwhile.
    """

    def register(function: Function) -> Function:
        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            with telling(doing):
                return function(*args, **kwargs)

        app.command(cls=Command, rich_help_panel=group, epilog="\n".join(examples))(called if doing else function)
        return function

    return register


@app.callback()
def of_every_command(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """What may stand before a command."""


def load(path: str, overrides: list[str] | None) -> Pipeline:
    from tidemill.config import load_pipeline

    return load_pipeline(path, overrides or ())


def lake_spec(source: str, overrides: list[str] | None) -> Any:
    from tidemill import config
    from tidemill.pipeline_file import named_catalog

    if source.endswith(".toml"):
        return load(source, overrides).lake
    return config.Lake(catalog=named_catalog(source))


def print_facts(facts: Any, render: Callable[[Any], str], as_json: bool) -> None:
    break_silence()
    if as_json:
        from tidemill.cli.query import plain

        json.dump(plain(facts), sys.stdout, indent=2, default=str)
        sys.stdout.write("\n")
    else:
        say(render(facts))


def say(text: str) -> None:
    """Print text, parts of which may come from the lake or its sources."""
    break_silence()
    shown = printable(text)
    if sys.stdout.isatty():
        from tidemill.cli.table import terminal_width, wrapped

        shown = wrapped(shown, terminal_width())
    typer.echo(shown)


def confirmed(question: str, *, yes: bool) -> bool:
    """Whether to go on: `--yes`, or the user's own word on a terminal.

    Raises:
        ConfigError: nobody is there to ask.
    """
    from tidemill.errors import ConfigError

    break_silence()
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} Nobody is here to ask: say --yes.")
    return typer.confirm(printable(question), err=True)
