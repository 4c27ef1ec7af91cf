"""Results as JSON, as a page of tables and as a plot, in benchmarks/results; and the table that the README shows.

    python -m benchmarks.report benchmarks/results/RESULT.json --publish

writes the README's and docs/benchmarks.md's tables anew, between their marks:
no number there is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MARKS = r"(?<=<!-- benchmark: )(.+?)( -->\n)(?:.*?)(<!-- /benchmark -->)"
PUBLISHED = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")


@dataclass(frozen=True)
class Section:
    """One table. `notes` stand under it; `facts` holds its numbers, unrounded; `command` repeats it."""

    title: str
    conditions: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    command: str = ""

    def __str__(self) -> str:
        notes = "".join(f"\n- {note}" for note in self.notes)
        said = [f"## {self.title}", f"{self.conditions}.", table(self.header, self.rows), notes.strip()]
        said += [f"`{self.command}`"] if self.command else []
        return "\n\n".join(filter(None, said)) + "\n"


@dataclass
class Report:
    """The tables of one machine and day."""

    machine: str
    slug: str
    day: str
    sections: list[Section] = field(default_factory=list)
    machine_facts: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path = RESULTS, *, kind: str = "") -> Path:
        """Write the page, the facts and the plot, over former tables of the same titles; returns the page's path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.day}-{self.slug}{kind}.md"
        whole = self._added_to(path.with_suffix(".json"))
        path.with_suffix(".json").write_text(json.dumps(asdict(whole), indent=1, default=str) + "\n", encoding="utf-8")
        plot(whole, path.with_suffix(".png"))
        path.write_text(f"{whole}{_picture(path, folder)}", encoding="utf-8")
        return path

    def _added_to(self, path: Path) -> Report:
        """With the tables that an earlier run of this day left, if it had the same hardware and packages."""
        if not path.exists() or (earlier := Report.load(path)).machine != self.machine:
            return self
        by_title = {section.title: section for section in (*earlier.sections, *self.sections)}
        return replace(self, sections=list(by_title.values()))

    @classmethod
    def load(cls, path: Path) -> Report:
        facts = json.loads(path.read_text(encoding="utf-8"))
        sections = [
            Section(
                **{
                    **one,
                    "header": tuple(one["header"]),
                    "rows": [tuple(row) for row in one["rows"]],
                    "notes": tuple(one["notes"]),
                }
            )
            for one in facts.pop("sections")
        ]
        return cls(**facts, sections=sections)

    def __str__(self) -> str:
        return "\n".join([f"# Benchmark, {self.day}\n\n{self.machine}\n", *map(str, self.sections)])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that also reads as text."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [_line(row, widths) for row in (header, *rows)]
    rule = ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
    return "| " + " | ".join(cells) + " |"


def number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def percent(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}%}"


def plot(report: Report, path: Path) -> None:
    """Tokens a second of every contender, a panel a comparison; nothing where matplotlib is missing."""
    comparisons = _comparisons(report)
    try:
        import matplotlib as mpl
    except ImportError:
        print("No plot: matplotlib is missing (pip install 'tidemill[bench]').")
        return
    if not comparisons:
        return
    mpl.use("agg")
    import matplotlib.pyplot as plt

    sizes = [sum("skipped" not in one for one in section.facts["contenders"]) for section in comparisons]
    figure, axes = plt.subplots(
        len(comparisons), 1, squeeze=False, figsize=(9, 0.9 * len(comparisons) + 0.34 * sum(sizes)),
        height_ratios=sizes, layout="constrained",
    )  # fmt: skip
    for section, axis in zip(comparisons, axes[:, 0], strict=True):
        _bars(section, axis)
    figure.suptitle(f"Tokens/s (unpadded, truncated at 512), {report.slug}, {report.day}", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _picture(source: Path, folder: Path) -> str:
    """The plot as a page in `folder` shows it; nothing where there is none."""
    picture = source.with_suffix(".png")
    return f"\n![Tokens a second]({os.path.relpath(picture, folder)})\n" if picture.exists() else ""


def _bars(section: Section, axis: Any) -> None:
    done = [one for one in section.facts["contenders"] if "skipped" not in one][::-1]
    colours = {"tidemill": "#0b6e8a", "bare loop": "#c8d4d8"}
    bars = axis.barh(
        [one["label"] for one in done],
        [one["tokens_per_second"] for one in done],
        color=[colours.get(one["kind"], "#b0803c") for one in done],
    )
    axis.bar_label(bars, [f"{one['tokens_per_second']:,.0f}" for one in done], padding=3, fontsize=7)
    axis.set_title(section.title, fontsize=9, loc="left")
    axis.tick_params(labelsize=7)
    axis.margins(x=0.12)
    axis.spines[["top", "right"]].set_visible(False)


def summary(report: Report) -> Section:
    """The comparisons in few columns: the pipelines, the best of the others, and Tidemill."""
    rows = [row for section in _comparisons(report) for row in _summary_rows(section)]
    return Section(
        title="summary",
        conditions="Tokens/s, unpadded and after truncation at 512",
        header=("", "", "dtype", "tokens/s", "× batch_size=32", "× best pipeline", "same label", "drift p99"),
        rows=rows,
    )


def _comparisons(report: Report) -> list[Section]:
    return [section for section in report.sections if section.facts.get("contenders")]


def _summary_rows(section: Section) -> list[tuple[str, ...]]:
    done = [one for one in section.facts["contenders"] if "skipped" not in one and one["kind"] != "bare loop"]
    pipelines = [one for one in done if one["kind"] == "pipeline"]
    others = [one for one in done if one["kind"] not in ("pipeline", "tidemill")]
    shown = [one for one in pipelines if one["times_baseline"] == 1.0]
    shown += [max(some, key=lambda one: one["tokens_per_second"]) for some in (pipelines, others) if some]
    distinct = {one["label"]: one for one in (*shown, *(one for one in done if one["kind"] == "tidemill"))}
    return [
        (
            section.title if first else "",
            label,
            dtype_of(one),
            number(one["tokens_per_second"]),
            times(one["times_baseline"]),
            times(one["times_best_pipeline"]),
            percent(one["agreement"], 2),
            number(one["drift"], 4),
        )
        for first, (label, one) in zip([True] + [False] * len(distinct), distinct.items(), strict=False)
    ]


def dtype_of(contender: dict[str, Any]) -> str:
    """What it computed in: what people write is given float32, unless its options say otherwise."""
    told = contender["resolved"] or contender["options"]
    return str(told.get("dtype", "float32"))


def publish(report: Report, source: Path) -> None:
    """Put what a page asks for between its marks `<!-- benchmark: TITLE -->` and `<!-- /benchmark -->`.

    TITLE is a table's, `summary`, or `all` for the whole result.
    """
    for page in PUBLISHED:
        parts = re.split(MARKS, page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for i in range(1, len(parts), 4):
            parts[i + 1] += _published(parts[i], report, source, page)
        page.write_text("".join(parts), encoding="utf-8")


def _published(title: str, report: Report, source: Path, page: Path) -> str:
    picture = _picture(source, page.parent)
    if title == "all":
        return f"\n{report.machine}\n\n" + "\n".join(f"#{section}" for section in report.sections) + picture + "\n"
    section = summary(report) if title == "summary" else {one.title: one for one in report.sections}[title]
    result = os.path.relpath(source.with_suffix(".md"), page.parent)
    where = f"{report.machine}; [the whole result]({result})."
    said = [f"{section.conditions}:", table(section.header, section.rows), where]
    return "\n" + "\n\n".join(said) + "\n" + (picture if title == "summary" else "") + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="a JSON file of benchmarks/results")
    parser.add_argument("--publish", action="store_true", help="write the README's and the docs' tables from it")
    args = parser.parse_args()
    report = Report.load(args.result)
    print(report)
    if args.publish:
        publish(report, args.result.resolve())


if __name__ == "__main__":
    main()
