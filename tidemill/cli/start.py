"""The commands of the first hour: a pipeline file for what lies there, and what works on this machine."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidemill.cli.common import AsJson, Overrides, command, load, print_facts, say
from tidemill.cli.help import EVERYDAY, pipeline_files
from tidemill.cli.silence import break_silence

if TYPE_CHECKING:
    from tidemill.config import Pipeline
    from tidemill.diagnosis.finding import Check
    from tidemill.proposing.models import ChosenModel
    from tidemill.proposing.proposal import Proposal


@command(
    EVERYDAY,
    "tidemill init reviews.csv",
    "tidemill init data/reviews --model data/models/tiny-sentiment -o ratings.toml",
    doing="looking at the source",
)
def init(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A file, a folder, a glob, an address or a Hub dataset id.")
    ],
    model: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|HUB_ID", help="The model; if not given, one of the Hub's is proposed."),
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="TASK", help="The model task, as the Hub names it.")] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="An option of the model task; may be repeated."),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The server that has the model, which --model names as it is called there."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.toml", help="Where the pipeline file is written.")
    ] = None,
) -> None:
    """Look at a source, and write a pipeline file for it that runs. No file is overwritten."""
    from tidemill.errors import ConfigError
    from tidemill.pipeline_file import overridden
    from tidemill.proposing.proposal import check_proposal, name_of, pipeline_name, propose
    from tidemill.proposing.writing import pipeline_file, publish

    file = output or _file_for(name_of(source))
    _check_file(file)
    if wrong := [option for option in options or () if "=" not in option]:
        raise ConfigError(f"--option {wrong[0]} is not KEY=VALUE, such as pooling=mean.")
    given = overridden({}, [f"model.options.{option}" for option in options or ()])
    proposal = propose(
        source,
        name=pipeline_name(file.stem),
        model=model,
        task=task,
        options=given.get("model", {}).get("options", {}),
        endpoint=endpoint,
        choose=_choose_model,
    )
    text = pipeline_file(proposal, file.parent)
    check_proposal(proposal, text)
    publish(text, file)
    say(_told(proposal, file))


def _file_for(name: str) -> Path:
    from tidemill.proposing.proposal import pipeline_name

    return Path(f"{name if re.fullmatch(r'[A-Za-z0-9_][A-Za-z0-9_.-]*', name) else pipeline_name(name)}.toml")


def _check_file(file: Path) -> None:
    from tidemill.errors import ConfigError
    from tidemill.proposing.writing import already_there

    if file.suffix != ".toml":
        raise ConfigError(f"-o {file} does not end in .toml, as a pipeline file's name does.")
    if file.exists() or file.is_symlink():
        raise already_there(file)
    if not file.parent.is_dir():
        raise ConfigError(f"There is no folder {file.parent} for -o {file}. Make it, or name another.")


def _choose_model(models: Sequence[ChosenModel]) -> ChosenModel:
    """The one that is proposed, or on a terminal the user's own choice of a few."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()) or len(models) == 1:
        return models[0]
    break_silence()
    for number, model in enumerate(models, start=1):
        size = f"{model.num_parameters / 1e6:,.0f}M" if model.num_parameters else "?"
        typer.echo(f"{number}  {model.path}  {size}  {model.license}  {', '.join(model.labels[:4])}", err=True)
    number = 0
    while not 1 <= number <= len(models):
        number = int(typer.prompt("Which model", default=1, type=int, err=True))
    return models[number - 1]


def _told(proposal: Proposal, file: Path) -> str:
    from tidemill.proposing.writing import in_toml, left_out, why_key, why_model, why_text

    columns = proposal.columns
    options = [f"{option} = {in_toml(value)}" for option, value in proposal.source.options.items() if option != "path"]
    lines = [
        f"{file}: a pipeline over {proposal.source.name}",
        *([f"  read   with {', '.join(options)}"] if options else []),
        f"  text   {proposal.text.column}. {why_text(proposal)}",
        f"  key    {', '.join(columns.key) or 'none'}. {why_key(proposal)}",
        f"  keep   {', '.join(columns.keep) or 'nothing'}",
        *(f"         without {reason}" for reason in left_out(columns.left_out)),
        f"  model  {proposal.model.path}, {proposal.model.task}; {why_model(proposal)}",
    ]
    named = f"'{file}'" if re.search(r"[^\w./-]", str(file)) else str(file)
    return "\n".join([*lines, f"Try it on three rows: tidemill run {named} --limit 3", f"Run it: tidemill run {named}"])


@command(EVERYDAY, "tidemill doctor", "tidemill doctor reviews.toml --json", doing="trying what there is")
def doctor(
    pipeline: Annotated[
        str | None,
        typer.Argument(metavar="PIPELINE.toml", help="Also what this pipeline needs.", autocompletion=pipeline_files),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """What works on this machine, what does not or is slow and why, and what mends it."""
    from tidemill.diagnosis.finding import examine

    loaded = load(pipeline, overrides) if pipeline is not None else None
    findings = examine(_checks(loaded))
    print_facts([vars(finding) for finding in findings], _findings, as_json)
    if any(finding.state == "fails" and finding.needed for finding in findings):
        raise typer.Exit(1)


def _checks(loaded: Pipeline | None) -> list[Check]:
    from dataclasses import replace

    from tidemill.diagnosis import engines, hub, machine, packages
    from tidemill.diagnosis import pipeline as pipelines
    from tidemill.diagnosis.finding import Check
    from tidemill.flows import health

    needs_hub, needs_server = pipelines.needs_hub(loaded), pipelines.needs_server(loaded)

    def ask_hub() -> list[Any]:
        return [replace(found, needed=needs_hub and found.area == "hub") for found in hub.hub()]

    return [
        Check("machine", "processor", machine.processor),
        Check("machine", "memory", machine.memory),
        Check("python", "python", packages.python),
        Check("python", "packages", packages.versions),
        Check("engines", "torch", engines.torch, seconds=engines.PROBE_SECONDS + 1, needed=True),
        Check("engines", "openvino", engines.openvino, seconds=engines.PROBE_SECONDS + 1),
        Check("duckdb", "extensions", engines.duckdb_extensions, needed=True),
        Check("hub", "hub", ask_hub, "check the network, or set HF_HUB_OFFLINE=1", needs_hub, seconds=12.0),
        Check(
            "prefect",
            "prefect",
            lambda: health.prefect(needed=needs_server),
            "or run with --direct",
            needs_server,
            health.SECONDS,
        ),
        Check("disk", "disk", lambda: pipelines.places(loaded), needed=True),
        *(pipelines.checks(loaded) if loaded else ()),
    ]


WORDS = {"works": "works", "slow": "slow", "fails": "does not", "absent": "–"}
"""What is said of a state."""


def _findings(found: list[dict[str, Any]]) -> str:
    lines = []
    for area, findings in groupby(sorted(found, key=lambda one: _AREAS.index(one["area"])), lambda one: one["area"]):
        lines.append(area)
        for one in findings:
            lines += _wrapped(f"  {WORDS[one['state']]:<8}  {one['name']:<10}  ", one["said"])
            if one["remedy"] and one["state"] != "works":
                lines += _wrapped(f"{'':<24}→ ", one["remedy"])
    failing = [one["name"] for one in found if one["state"] == "fails" and one["needed"]]
    lines.append(f"Needed, and does not work: {', '.join(failing)}." if failing else "What is needed works.")
    return "\n".join(lines)


def _wrapped(before: str, text: str) -> list[str]:
    """Lines as wide as the terminal; those that follow are indented as far as the text."""
    width = max(80, shutil.get_terminal_size((100, 24)).columns)
    return textwrap.wrap(
        text,
        width,
        initial_indent=before,
        subsequent_indent=" " * len(before),
        break_long_words=False,
        break_on_hyphens=False,
    )


_AREAS = ("machine", "python", "engines", "duckdb", "hub", "prefect", "disk", "pipeline")
