"""The commands on model versions: hold two against each other, choose the one that is shown, drop one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidemill.cli.common import AsJson, Overrides, PipelineFile, command, confirmed, load, print_facts
from tidemill.cli.help import VERSIONS
from tidemill.errors import counted

if TYPE_CHECKING:
    from tidemill import config
    from tidemill.config import Pipeline
    from tidemill.lake import Lake

NUM_EXAMPLES = 5

Version = Annotated[
    str, typer.Argument(metavar="VERSION", help="The beginning of a version's name, or the word `promoted`.")
]


Truth = Annotated[
    str | None,
    typer.Option(
        metavar="SQL",
        help="What is right: a query with key columns and the label, or an expression over kept columns.",
    ),
]


@command(
    VERSIONS,
    "tidemill compare reviews.toml promoted 310e0959 --by domain",
    "tidemill compare emails.toml promoted 310e0959 --truth spam_or_ham",
    doing="comparing every row",
)
def compare(
    pipeline: PipelineFile,
    first: Version,
    second: Version,
    by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Also by slice: the values of this key or kept column.")
    ] = None,
    examples: Annotated[
        int, typer.Option("--examples", "--show", metavar="N", min=0, help="How many rows that differ to show.")
    ] = NUM_EXAMPLES,
    truth: Truth = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Hold two versions against each other, row by row: which answers differ, how far numbers drifted."""
    from tidemill.cli.comparison import comparison

    loaded = load(pipeline, overrides)
    report = _compared(loaded, first, second, by=by, num_examples=examples, truth=truth)
    print_facts(report, comparison, as_json)


def _compared(loaded: Pipeline, first: str, second: str, *, truth: str | None, **options: Any) -> dict[str, Any]:
    from tidemill.lake import Lake
    from tidemill.reports.compare import compare_versions

    with Lake(loaded.lake, read_only=True, scans=True) as lake:
        if truth is not None:
            lake.seal()
        return compare_versions(
            lake, loaded.name, first, second, truth=truth, positive=loaded.report.positive, **options
        )


@command(
    VERSIONS,
    "tidemill promote reviews.toml 310e0959",
    "tidemill promote emails.toml 310e0959 --truth spam_or_ham",
    doing="reading the lake",
)
def promote(
    pipeline: PipelineFile, version: Version, truth: Truth = None, overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """Let the pipeline's table show another version, all at once. One that is not complete is refused."""
    from tidemill.results import promotion

    loaded = load(pipeline, overrides)
    judged: dict[str, Any] = {}
    if truth is not None:
        compared = _compared(loaded, promotion.PROMOTED, version, num_examples=0, truth=truth)
        judged = {"versions": compared["versions"], "truth": compared["truth"]}
    with _existing_lake(loaded.lake) as lake:
        done = promotion.promote(lake, loaded.name, version)
        if trained := _training_of(lake.cursor(), loaded.name, done.version):
            judged["training"] = trained
    incomplete = done.state == "incomplete"
    completed_by = f"tidemill backfill {pipeline} --version {done.version}" if incomplete else None
    print_facts({**done.to_json(), "completed_by": completed_by, **judged}, _promotion, as_json)
    if incomplete:
        raise typer.Exit(1)


def _training_of(cursor: Any, pipeline: str, version: str) -> dict[str, Any] | None:
    """What the version's model came to when it was trained, if this lake knows."""
    from tidemill.lake.pipelines import load_spec
    from tidemill.lake.records.trainings import training_of

    return training_of(cursor, (load_spec(cursor, pipeline, version) or {}).get("model", ""))


@command(VERSIONS, "tidemill drop reviews.toml 310e0959", doing="reading the lake")
def drop(
    pipeline: PipelineFile,
    version: Version,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Remove a version that is not promoted: its table, and all that the lake knows of it."""
    from tidemill.results import promotion

    loaded = load(pipeline, overrides)
    with _existing_lake(loaded.lake) as lake:
        cursor = lake.cursor()
        standing = promotion.find_standing(cursor, loaded.name, version)
        promotion.refuse_promoted(cursor, loaded.name, standing.version)
        question = f"Drop version {standing.version} of {loaded.name} with its {counted(standing.num_rows, 'row')}?"
        dropped = confirmed(question, yes=yes)
        if dropped:
            promotion.drop(lake, loaded.name, standing.version)
    facts = {"pipeline": loaded.name, "version": standing.version, "rows": standing.num_rows, "dropped": dropped}
    print_facts(facts, _dropped, as_json)
    if not dropped:
        raise typer.Exit(1)


def _existing_lake(spec: config.Lake) -> Lake:
    """A lake to write to; it is not made if there is none."""
    from tidemill.lake import Lake

    Lake(spec, read_only=True).close()
    return Lake(spec)


def _promotion(facts: dict[str, Any]) -> str:
    name, version = facts["pipeline"], facts["version"]
    if facts["state"] == "unchanged":
        return f"{name}: {version} is promoted already."
    if facts["state"] == "incomplete":
        return (
            f"{name}: {version} is not promoted, for it is incomplete: {facts['standing']['lacking']}. "
            f"Complete it: {facts['completed_by']}"
        )
    from tidemill.cli.comparison import truth_lines

    rows = counted(facts["standing"]["rows"], "row")
    told = (
        f"{name}: {version} is promoted, in place of {facts['previous_version']}; {rows}. "
        f"To swap back, promote {facts['previous_version']}."
    )
    return "\n".join([told, *_trained(facts), *(truth_lines(facts) if "truth" in facts else ())])


def _trained(facts: dict[str, Any]) -> list[str]:
    if "training" not in facts:
        return []
    training = facts["training"]
    measures = [
        f"{name.replace('_', ' ')} {value['value']:.4f} ({value['low']:.4f} to {value['high']:.4f})"
        for name, value in training["metrics"].items()
        if isinstance(value, dict) and "low" in value
    ]
    held_out = counted(training["held_out"], "held-out row")
    return [f"  its model is of the training {training['name']}: {', '.join(measures)} on {held_out}"]


def _dropped(facts: dict[str, Any]) -> str:
    if facts["dropped"]:
        return f"{facts['pipeline']}: {facts['version']} is dropped, and its {counted(facts['rows'], 'row')} with it."
    return f"{facts['pipeline']}: {facts['version']} stays as it is."
