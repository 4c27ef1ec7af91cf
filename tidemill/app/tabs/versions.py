"""Versions: two of a table side by side, as `tidemill compare` holds them against each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import gradio as gr

from tidemill.app.rows import cells
from tidemill.app.source import Source
from tidemill.errors import TidemillError, counted
from tidemill.lake import Lake
from tidemill.reports.compare import compare_versions
from tidemill.results.promotion import standings

NO_SLICES = "no slices"
MOST_LINES = 50
Facts = dict[str, Any]


ONE_VERSION = "The table has one version. A changed model or option makes another: `tidemill backfill`."


def build(source: Source, opened: Sequence[Any]) -> None:
    """`opened` are the events at which the versions are read again."""
    note = gr.Markdown()
    with gr.Row():
        first = gr.Dropdown(label="first version", elem_id="tm-first")
        second = gr.Dropdown(label="second version", elem_id="tm-second")
        by = gr.Dropdown(label="by slice", choices=[NO_SLICES], value=NO_SLICES, elem_id="tm-by")
    button = gr.Button("Compare", variant="primary", elem_id="tm-compare")
    found = gr.HTML(elem_id="tm-comparison")
    shown = [note, first, second, by]
    gr.on(
        opened, partial(_offered, source), [first, second, by], shown, api_visibility="private", show_progress="hidden"
    )

    def compared(one: str, another: str, column: str) -> str:
        by_column = None if column == NO_SLICES else column
        try:
            with Lake(source.pipeline.lake, read_only=True, scans=True) as lake:
                report = compare_versions(lake, source.pipeline.name, one, another, by=by_column, num_examples=20)
        except TidemillError as e:
            return cells.message(str(e), kind="problem")
        return "".join(told(report))

    button.click(
        compared, [first, second, by], found, concurrency_id="compare", concurrency_limit=1, api_visibility="private"
    )


def _offered(source: Source, one: str | None, another: str | None, by: str | None) -> list[Any]:
    """What there is to choose from now. What somebody chose stays chosen while it is there."""
    try:
        with source.open() as (cursor, table):
            names = [standing.version for standing in standings(cursor, table.pipeline)]
            promoted, slices = table.version, [NO_SLICES, *(name for name, _ in table.kept)]
    except TidemillError as e:
        return [str(e), gr.skip(), gr.skip(), gr.skip()]
    first = one if one in names else promoted
    others = [name for name in names if name != first]
    second = another if another in others else (others or names)[-1]
    choices = [(f"{name} (promoted)" if name == promoted else name, name) for name in names]
    return [
        "" if others else ONE_VERSION,
        gr.Dropdown(choices=choices, value=first),
        gr.Dropdown(choices=choices, value=second),
        gr.Dropdown(choices=slices, value=by if by in slices else NO_SLICES),
    ]


def told(report: Facts) -> Iterator[str]:
    """A comparison as tables, the most telling first."""
    first, second = report["versions"]
    rows, marks = report["rows"], report["marks"]
    summary = [("rows compared", f"{rows['compared']:,}")]
    summary += [(f"only in {version}", f"{count:,}") for version, count in rows["only_in"].items() if count]
    summary += [("differs in", difference) for difference in report["differences"]]
    for name, facts in report["labels"].items():
        if facts["agreement"] is not None:
            summary.append((f"{name}: the same", f"{facts['agreement']:.2%}, {facts['flipped']:,} flipped"))
    if marks["rows"]:
        right = (f"{count:,} ({count / marks['rows']:.1%})" for count in marks["right"].values())
        summary.append((f"right of {counted(marks['rows'], 'marked row')}", " against ".join(right)))
    yield cells.facts(f"{first} against {second}", summary)
    yield from (cells.message(note) for note in report["notes"])
    for name, facts in report["labels"].items():
        flips = [(pair["first"], pair["second"], pair["rows"]) for pair in facts["confusion"]]
        yield cells.table(f"{name}: from which to which", [first, second, "rows"], flips[:MOST_LINES])
    drifts = [(name, *facts["absolute"].values()) for name, facts in report["scores"].items()]
    if drifts and drifts[0][1] is not None:
        quantiles = list(next(iter(report["scores"].values()))["absolute"])
        yield cells.table("How far scores moved: in 90% of the rows p90 at most", ["column", *quantiles], drifts)
    yield from _others(report)
    if report["slices"]:
        yield _slices(report)
    if report["examples"]:
        yield _examples(report)


def _others(report: Facts) -> Iterator[str]:
    """Of texts, lists, vectors and maps: what was found, name by name."""
    for group in ("texts", "lists", "vectors", "maps"):
        for name, facts in report.get(group, {}).items():
            flat = [(key, value) for key, value in facts.items() if key not in ("confusion", "labels")]
            yield cells.facts(f"{name} ({group})", flat)


def _slices(report: Facts) -> str:
    lines = []
    for part in report["slices"][:MOST_LINES]:
        agreements = [facts["agreement"] for facts in part["labels"].values()]
        drifts = [facts["absolute"]["p99"] for facts in part["scores"].values()]
        lines.append((part["value"], part["rows"], *agreements, *drifts))
    names = [*(f"{name}: the same" for name in report["labels"]), *(f"{name}: p99 drift" for name in report["scores"])]
    return cells.table(f"By {report['by']}", [report["by"], "rows", *names], lines)


def _examples(report: Facts) -> str:
    first, second = report["versions"]
    names = list(report["examples"][0]["first"])
    columns = ["file", "row", *report["examples"][0]["columns"]]
    columns += [f"{name} {version}" for name in names for version in (first, second)]
    rows = []
    for example in report["examples"]:
        both = [example[side][name] for name in names for side in ("first", "second")]
        rows.append((example["path"], example["row_number"], *example["columns"].values(), *both))
    return cells.table("Rows that differ most", columns, rows)
