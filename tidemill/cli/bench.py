"""The command that measures a pipeline on a sample of its own data."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tidemill.cli.common import AsJson, Overrides, PipelineFile, command, load, print_facts
from tidemill.cli.help import UPKEEP
from tidemill.errors import counted


@command(UPKEEP, "tidemill bench reviews.toml --rows 5000", doing="measuring each stage")
def bench(
    pipeline: PipelineFile,
    rows: Annotated[
        int, typer.Option("--rows", metavar="ROWS", min=1, help="How many rows to measure on, from the first files.")
    ] = 2_000,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Measure each stage on a sample, and all together, and say which bounds the pipeline. Writes no table."""
    from tidemill.reports.bottleneck import find_bottleneck

    print_facts(find_bottleneck(load(pipeline, overrides), num_rows=rows), _speeds, as_json)


def _speeds(facts: dict[str, Any]) -> str:
    from tidemill.cli import render

    resolved, whole = facts["resolved"], facts["whole"]
    table = render.rows(
        ["stage", "seconds", "rows/s", "tokens/s", ""],
        [
            *(
                [
                    each["stage"],
                    f"{each['seconds']:.2f}",
                    f"{each['rows_per_second']:,.0f}",
                    f"{each['tokens_per_second']:,.0f}",
                    "← the bottleneck" if each["stage"] == facts["bottleneck"] else "",
                ]
                for each in facts["stages"]
            ),
            [
                "whole pipeline",
                f"{whole['seconds']:.2f}",
                f"{whole['rows_per_second']:,.0f}",
                f"{whole['tokens_per_second']:,.0f}",
                f"{whole['cpu_use']:.0%} of {facts['num_cpus']} CPUs",
            ],
        ],
    )
    return "\n".join(
        [
            f"{facts['pipeline']}: {counted(facts['num_rows'], 'row')}, {counted(facts['num_tokens'], 'token')}, "
            f"{facts['duplicates']:.1%} of the rows repeat others",
            f"  model: {resolved['engine']}, {resolved['dtype']}, on {resolved['device_name']}, "
            f"{counted(resolved['token_budget'], 'token')} a batch, {facts['padding']:.1%} padding; "
            f"loaded in {facts['load_seconds']:.1f} s",
            *(f"  {line}" for line in table.splitlines()),
            f"  the whole takes {facts['ratio_to_bare_engine']:.2f} times the bare engine's "
            f"{facts['bare_engine_seconds']:.2f} s",
            *facts["advice"],
        ]
    )
