"""`tidemill train`: what is learned of which rows, how far it is, and how good what comes out is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from tidemill.cli.common import AsJson, Overrides, command, print_facts
from tidemill.cli.help import VERSIONS, pipeline_files
from tidemill.errors import counted

MEASURES = (
    *("accuracy", "f1", "token_accuracy", "mean_absolute_error", "loss", "perplexity", "spearman"),
    "mean_reciprocal_rank",
)
"""Those that have a line, in order."""
MOST_ROWS = 12


@command(VERSIONS, "tidemill train spam.toml -o models/spam", "tidemill train spam.toml -o models/spam --set seed=1")
def train(
    file: Annotated[
        str, typer.Argument(metavar="TRAIN.toml", help="The training file.", autocompletion=pipeline_files)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the model is put.")],
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Leave out rows to learn from that a held-out row repeats.")
    ] = False,
    max_cost: Annotated[
        float | None, typer.Option(metavar="COST", min=0, help="Stop before the step that would pass it.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew, whatever checkpoints there are.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Train a model on rows that people labelled. Stopped or killed, the same command goes on."""
    from tidemill.cli.live import live_progress
    from tidemill.errors import ConfigError
    from tidemill.training.given.file import load_training
    from tidemill.training.run import train as carry_out

    if max_cost is not None:
        overrides = [*(overrides or ()), f"cost.max_cost={max_cost}"]
    loaded = load_training(file, overrides or ())
    if loaded.cost.max_cost is not None and loaded.cost.per_hour is None:
        raise ConfigError("cost.max_cost needs a price. Set cost.per_hour to what an hour of the device costs.")
    with live_progress() as progress:
        report = carry_out(loaded, output, restart=restart, drop_duplicates=drop_duplicates, tell=progress.note)
    print_facts(report, show_training, as_json)


def show_training(report: dict[str, Any]) -> str:
    """What came of a training, for people."""
    again = " was trained before, by the same file and rows" if report.get("unchanged") else ""
    held_out = counted(report["rows"]["held_out"], "held-out row")
    lines = [f"{report['name']}: {report['folder']}{again}. On {held_out}:"]
    lines += _measures(report)
    lines += _by_label(report["metrics"].get("labels", []))
    lines += _confusion(report["metrics"].get("confusion", []))
    lines += _slices(report["metrics"].get("slices", []))
    if report["temperature"] is not None:
        told = f"Temperature {report['temperature']:.3f}, which is divided into the last layer"
        if (before := report["calibration_error_before"]) is not None:
            told += f": calibration error {before:.4f} before, {report['metrics']['calibration_error']:.4f} after"
        lines.append(f"{told}.")
    cost = f", cost {report['cost']:.4f} {report['currency']}" if report["cost"] is not None else ""
    lines.append(f"Took {report['seconds']:.1f} s{cost}.")
    lines.append(f"Beside a table's promoted version: tidemill backfill PIPELINE.toml --model-path {report['folder']}")
    return "\n".join(lines)


def _measures(report: dict[str, Any]) -> Iterator[str]:
    for name in MEASURES:
        if name not in report["metrics"]:
            continue
        others = [f"{whose} {_value(found[name])}" for whose, found in report["baselines"].items() if name in found]
        beside = f"; {', '.join(others)}" if others else ""
        yield f"  {name.replace('_', ' ')} {_with_interval(report['metrics'][name])}{beside}"


def _with_interval(measure: Any) -> str:
    if not isinstance(measure, dict):
        return f"{measure:.4f}"
    return f"{measure['value']:.4f} ({measure['low']:.4f} to {measure['high']:.4f})"


def _value(measure: Any) -> str:
    return f"{measure['value'] if isinstance(measure, dict) else measure:.4f}"


def _by_label(labels: list[dict[str, Any]]) -> list[str]:
    from tidemill.cli import render

    if not labels:
        return []
    names = ["label", "rows", "precision", "recall", "f1"]
    shown = sorted(labels, key=lambda label: -label["rows"])[:MOST_ROWS]
    cells = [[label["label"], f"{label['rows']:,}", *(_share(label[name]) for name in names[2:])] for label in shown]
    return [*render.rows(names, cells).splitlines(), *_more(len(labels))]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _confusion(pairs: list[dict[str, Any]]) -> list[str]:
    wrong = sorted((pair for pair in pairs if pair["label"] != pair["said"]), key=lambda pair: -pair["rows"])
    lines = [f"  {pair['rows']:>6,}  {pair['label']} taken for {pair['said']}" for pair in wrong[:MOST_ROWS]]
    return [*lines, *_more(len(wrong))]


def _slices(slices: list[dict[str, Any]]) -> list[str]:
    from tidemill.cli import render

    if not slices:
        return []
    names = [name for name in slices[0] if name not in ("column", "value", "rows")]
    cells = [
        [part["column"], part["value"], f"{part['rows']:,}", *(_share(part[name]) for name in names)]
        for part in slices[:MOST_ROWS]
    ]
    return [*render.rows(["column", "value", "rows", *names], cells).splitlines(), *_more(len(slices))]


def _more(num: int) -> list[str]:
    return [f"  … and {num - MOST_ROWS:,} more"] if num > MOST_ROWS else []
