"""What `compare` found, in words: of each kind of answer its lines, and its columns in the table of slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tidemill.cli import render
from tidemill.cli.cells import cell
from tidemill.cli.side_by_side import side_by_side
from tidemill.cli.table import terminal_width
from tidemill.errors import counted

MAX_LINES = 20

Facts = dict[str, Any]
Apart = tuple[list[str], Callable[[Facts], list[Any]]]
"""Names of columns in the table of examples, and what gives an example's cells there."""
HEADINGS = {
    "labels": "Flipped, the surest first:",
    "scores": "Drifted, the farthest first:",
    "texts": "Different, side by side from where they begin to differ:",
}
"""Of examples, where these are all that is compared."""
FARTHEST = "Different, the farthest apart first:"


def comparison(report: Facts) -> str:
    first, second = report["versions"]
    rows, promoted = report["rows"], report["promoted_version"]
    shown = [f"{version} (promoted)" if version == promoted else version for version in (first, second)]
    only = "".join(f", {count:,} only in {version}" for version, count in rows["only_in"].items())
    lines = [
        f"{report['pipeline']}: {shown[0]} against {shown[1]}",
        *(f"  differs in {difference}" for difference in report["differences"]),
        f"  rows: {rows['compared']:,} compared{only}",
    ]
    if rows["compared"]:
        lines += [line for group, name, facts in _columns(report) for line in TOLD[group][0](name, facts)]
    if "truth" in report:
        lines += truth_lines(report)
    if marked := report["marks"]["rows"]:
        right = (f"{count:,} ({count / marked:.2%})" for count in report["marks"]["right"].values())
        lines.append(f"  right of {counted(marked, 'marked row')}: {' against '.join(right)}")
    if report["slices"]:
        lines += ["", *_slices(report)]
    if report["examples"]:
        lines += ["", _heading(report), *_examples(report)]
    lines += [f"note: {note}" for note in report["notes"]]
    return "\n".join(lines)


def truth_lines(report: Facts) -> list[str]:
    """Both versions against what people say is right."""
    truth, apart = report["truth"], report["truth"]["difference"]
    left_out = f"; {truth['learned']:,} that a model learned from are left out" if truth["learned"] else ""
    lines = [f"  against the truth, on {truth['rows']:,} rows{left_out}:"]
    lines += [
        f"    {version}: accuracy {truth['accuracy'][version]:.4f}, macro F1 {truth['f1'][version]:.4f}"
        for version in dict.fromkeys(report["versions"])
    ]
    lines.append(
        f"    difference {apart['value']:+.4f} ({apart['low']:+.4f} to {apart['high']:+.4f}); only the first is right "
        f"on {truth['only_first_right']:,}, only the second on {truth['only_second_right']:,}; "
        f"McNemar p = {truth['p_value']:.2g}"
    )
    if truth["never_said"]:
        lines.append(f"    neither version ever says {', '.join(truth['never_said'][:8])}")
    for part in truth.get("slices", [])[:MAX_LINES]:
        shares = " → ".join(f"{part['accuracy'][version]:.4f}" for version in report["versions"])
        told = f"    {part['value']}: {shares} on {part['rows']:,} rows, McNemar p = {part['p_value']:.2g}"
        lines.append(told)
    return lines


def _columns(part: Facts) -> Iterator[tuple[str, str, Facts]]:
    """(kind of answer, column, what was found), of all rows or of a slice."""
    return ((group, name, facts) for group in TOLD for name, facts in part.get(group, {}).items())


def _label_lines(name: str, facts: Facts) -> list[str]:
    flips = [pair for pair in facts["confusion"] if pair["first"] != pair["second"]]
    told = f"  {name}: {facts['agreement']:.2%} agree, {facts['flipped']:,} flipped"
    return [told, *_some([f"    {pair['rows']:>8,}  {pair['first']} → {pair['second']}" for pair in flips])]


def _text_lines(name: str, facts: Facts) -> list[str]:
    first, second = (_plain(length, ",.0f") for length in facts["mean_characters"])
    told = (
        f"  {name}: {facts['agreement']:.2%} the same, {facts['different']:,} different; "
        f"{first} characters on average against {second}"
    )
    changed = [pair for pair in facts["confusion"] if pair["first"] != pair["second"]]
    return [told, *_some([f"    {pair['rows']:>8,}  {pair['first']} → {pair['second']}" for pair in changed])]


def _score_lines(name: str, facts: Facts) -> list[str]:
    return [f"  {name} drift: {_numbers(facts['absolute'])}", f"    signed: {_numbers(facts['signed'])}"]


def _list_lines(name: str, facts: Facts) -> list[str]:
    by = f" by {', '.join(facts['by'])}" if facts["by"] else ""
    lines = [
        f"  {name}{by}: {facts['agreement']:.2%} agree, {facts['both']:,} in both, {facts['only_first']:,} only in the "
        f"first, {facts['only_second']:,} only in the second; {facts['same']:,} rows the same"
    ]
    lines += _some(
        [
            f"    {label['label']}: {label['both']:,} in both, {label['only_first']:,} only in the first, "
            f"{label['only_second']:,} only in the second"
            for label in facts["labels"]
        ]
    )
    if facts["score"] and facts["both"]:
        lines.append(f"    score drift of those in both: {_numbers(facts['score']['absolute'])}")
    return lines


def _vector_lines(name: str, facts: Facts) -> list[str]:
    others = f", {facts['incomparable']:,} of other sizes" if facts["incomparable"] else ""
    return [f"  {name} cosine: {_numbers(facts['cosine'])}; {facts['same']:,} rows the same{others}"]


def _map_lines(name: str, facts: Facts) -> list[str]:
    others = f"; {facts['other_keys']:,} rows of other labels" if facts["other_keys"] else ""
    return [f"  {name} drift, the largest of a row: {_numbers(facts['absolute'])}{others}"]


def _drift_cells(facts: Facts) -> Facts:
    return {quantile: facts["absolute"][quantile] for quantile in ("p50", "p99", "max")}


TOLD: dict[str, tuple[Callable[[str, Facts], list[str]], Callable[[Facts], Facts]]] = {
    "labels": (_label_lines, lambda facts: {"agree": f"{facts['agreement']:.2%}", "flipped": f"{facts['flipped']:,}"}),
    "texts": (
        _text_lines,
        lambda facts: {"same": f"{facts['agreement']:.2%}", "different": f"{facts['different']:,}"},
    ),
    "scores": (_score_lines, _drift_cells),
    "lists": (
        _list_lines,
        lambda facts: {
            "agree": f"{facts['agreement']:.2%}",
            "only 1st": facts["only_first"],
            "only 2nd": facts["only_second"],
        },
    ),
    "vectors": (_vector_lines, lambda facts: {name: facts["cosine"][name] for name in ("mean", "p05", "min")}),
    "maps": (_map_lines, _drift_cells),
}
"""Kind of answer → its lines, and its cells in the table of slices."""


def _slices(report: Facts) -> list[str]:
    parts = [
        {
            f"{name} {what}": value
            for group, name, facts in _columns(part)
            for what, value in TOLD[group][1](facts).items()
        }
        for part in report["slices"]
    ]
    names = [report["by"], "rows", *parts[0]]
    values = [
        [part["value"], f"{part['rows']:,}", *cells.values()]
        for part, cells in zip(report["slices"], parts, strict=True)
    ]
    return _some(render.rows(names, values).splitlines(), MAX_LINES + 2)


def _heading(report: Facts) -> str:
    kinds = {group for group, *_ in _columns(report)} - {"maps"}
    if _long_texts(report):
        return HEADINGS["texts"]
    if kinds <= {"labels", "scores"}:
        return HEADINGS["labels" if "labels" in kinds else "scores"]
    return FARTHEST


def _examples(report: Facts) -> list[str]:
    """The place, key and kept columns, and both answers; of lists what only one has, of vectors the cosine."""
    if long := _long_texts(report):
        return [line for example in report["examples"] for line in _texts_of(example, report, long)]
    first = report["examples"][0]
    names = ["path", "row", *first["columns"]]
    values = [[example["path"], example["row_number"], *example["columns"].values()] for example in report["examples"]]
    for group, name, _ in _columns(report):
        headers, apart = APART.get(group, _both)(name, report["versions"])
        names += headers
        for row, example in zip(values, report["examples"], strict=True):
            row += apart(example)
    return render.rows(names, values).splitlines()


def _long_texts(report: Facts) -> list[str]:
    """Columns of texts that are no labels."""
    return [name for name, facts in report.get("texts", {}).items() if not facts["confusion"]]


def _texts_of(example: Facts, report: Facts, long: Sequence[str]) -> list[str]:
    """Where the row is, in what its other columns differ, and its texts."""
    first, second = example["first"], example["second"]
    others = [
        f"{name} {cell(first[name])} → {cell(second[name])}"
        for group, name, _ in _columns(report)
        if group in ("labels", "scores") and first[name] != second[name]
    ]
    kept = [f"{name} {cell(value)}" for name, value in example["columns"].items()]
    lines = render.sentence([f"{example['path']} row {example['row_number']}", *kept, *others])
    for name in long:
        versions = (f"{name} {report['versions'][0]}", report["versions"][1])
        lines += side_by_side(versions, (first[name], second[name]), width=terminal_width())
    return lines


def _both(name: str, versions: Sequence[str]) -> Apart:
    return [f"{name} {version}" for version in versions], lambda example: [
        example[side][name] for side in ("first", "second")
    ]


def _only_one(name: str, versions: Sequence[str]) -> Apart:
    return [f"{name} only {version}" for version in versions], lambda example: [
        example["apart"][name][f"only_{side}"] for side in ("first", "second")
    ]


def _cosine(name: str, versions: Sequence[str]) -> Apart:
    return [f"{name} cosine"], lambda example: [example["apart"][name]["cosine"]]


APART = {"lists": _only_one, "vectors": _cosine}
"""Kind of answer → what an example shows of it, where that is not both answers."""


def _some(lines: list[str], most: int = MAX_LINES) -> list[str]:
    more = len(lines) - most
    return [*lines[:most], *([f"    … and {more:,} more"] if more > 0 else [])]


def _plain(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _numbers(named: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {_plain(value, '.4f')}" for name, value in named.items())
