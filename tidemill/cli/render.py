"""Facts as text for people; the same facts are what `--json` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidemill.run import RunResult

MAX_PATHS = 10


def plan(facts: dict[str, Any]) -> str:
    files = facts["files"]
    lines = [f"{facts['pipeline']}: table {facts['table']}, dataset revision {facts['revision'][:12]}"]
    if facts["previous_revision"] and facts["previous_revision"] != facts["revision"]:
        lines[0] += f" (was {facts['previous_revision'][:12]})"
    if facts["up_to_date"]:
        lines.append("Up to date: nothing to compute.")
    for state in ("new", "changed", "unfinished", "removed"):
        lines += _paths(state, files[state])
    lines += _paths("renamed", [f"{old} → {new}" for old, new in files["renamed"].items()])
    if files["unchanged"]:
        lines.append(f"  unchanged: {files['unchanged']} files")
    if not facts["up_to_date"]:
        lines.append(_work(facts))
    lines += [f"note: {note}" for note in facts["notes"]]
    return "\n".join(lines)


def _work(facts: dict[str, Any]) -> str:
    uncut = [f"read {_count(len(facts['uncut_files']), 'file')}"] if facts["uncut_files"] else []
    computed = [f"compute {_count(facts['num_shards_computed'], 'shard')}"] if facts["num_shards_computed"] else []
    parts = [
        *uncut,
        *computed,
        f"{_about(facts['rows_estimated'])}{facts['rows']:,} rows",
        f"{_about(facts['tokens_estimated'])}{facts['tokens']:,} tokens",
        f"time {_duration(facts['seconds'])}",
    ]
    if facts["cost"] is not None:
        parts.append(f"cost ~{facts['cost']:.2f} {facts['currency']}")
    for count, what in (
        (facts["num_shards_copied"], "copy {}"),
        (facts["num_shards_rewritten"], "rewrite the kept columns of {}"),
    ):
        if count:
            parts.append(what.format(_count(count, "shard")))
    if facts["rows_removed"]:
        parts.append(f"remove {facts['rows_removed']:,} rows")
    return ", ".join(parts)


def result(done: RunResult, pipeline_file: str) -> str:
    if done.state == "done" and not (done.num_shards or done.num_rows_removed or done.num_rewritten):
        return f"{done.pipeline} is up to date: nothing to compute ({done.seconds:.1f} s)."
    lines = [
        f"{done.pipeline}: {done.state}. {_count(done.num_shards, 'shard')}, {done.num_rows:,} rows, "
        f"{done.num_quarantined:,} quarantined, {done.num_rows_removed:,} removed, {done.num_tokens:,} tokens "
        f"in {done.seconds:.1f} s."
    ]
    if done.num_copied:
        lines.append(f"Copied, not computed: {_count(done.num_copied, 'shard')}.")
    if done.num_rewritten:
        lines.append(f"Kept columns rewritten, nothing computed: {_count(done.num_rewritten, 'shard')}.")
    lines += [f"failed: {failure['path']}: {failure['message']}" for failure in done.failures[:MAX_PATHS]]
    lines += [f"note: {note}" for note in done.notes]
    if done.state == "stopped":
        lines.append(f"Stopped. What was committed stays; `tidemill run {pipeline_file}` goes on from there.")
    elif done.failures:
        lines.append(f"What was committed stays; `tidemill run {pipeline_file}` tries the rest again.")
    elif done.state == "done":
        lines.append(f'Query it: tidemill sql {pipeline_file} "SELECT * FROM {done.pipeline} LIMIT 10"')
    return "\n".join(lines)


def status(facts: dict[str, Any]) -> str:
    if facts["target_revision"] is None:
        return f"{facts['pipeline']}: no table yet. `tidemill run` makes it."
    shards = ", ".join(f"{count:,} {state.replace('_', ' ')}" for state, count in facts["shards"].items() if count)
    lines = [
        f"{facts['pipeline']}: version {facts['promoted_version']}, dataset revision {facts['target_revision'][:12]}",
        f"  shards: {shards or 'none'}",
        f"  rows: {facts['rows']:,}, {facts['rows_quarantined']:,} quarantined"
        + (f", {facts['duplicate_keys']:,} with a key that another row has" if facts["duplicate_keys"] else ""),
    ]
    if facts["tokens_per_second"]:
        lines.append(f"  throughput: {facts['tokens_per_second']:,.0f} tokens/s on {facts['device']}")
    if facts["versions"]:
        lines.append("  versions: " + ", ".join(f"{v['version']} ({v['rows']:,} rows)" for v in facts["versions"]))
    if facts["quarantine"]:
        lines.append("  quarantine:")
        lines += [f"    {q['rows']:>8,}  {q['stage']}: {q['reason']}" for q in facts["quarantine"]]
    if facts["runs"]:
        lines.append("  last runs:")
        lines += [
            f"    {r['started_at']:%Y-%m-%d %H:%M:%S}  {r['state']:<8} {r['num_shards'] or 0:>6,} shards "
            f"{r['num_rows'] or 0:>10,} rows  {r['seconds'] or 0:>8.1f} s  by {r['who']}"
            for r in facts["runs"]
        ]
    lines += [f"note: {note}" for note in facts["notes"]]
    return "\n".join(lines)


def verification(report: dict[str, Any]) -> str:
    lines = [f"{report['pipeline']}: {report['num_rows']:,} rows in {_count(report['num_shards'], 'shard')} checked."]
    lines += [f"wrong: {problem}" for problem in report["problems"]]
    lines += [f"note: {note}" for note in report["notes"]]
    lines.append(
        "Every invariant holds." if not report["problems"] else f"{_count(len(report['problems']), 'problem')}."
    )
    return "\n".join(lines)


def rows(columns: Sequence[str], values: Sequence[Sequence[Any]], width: int = 60) -> str:
    """A plain table; long cells are cut at `width`."""
    cells = [[_cell(value, width) for value in row] for row in values]
    widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(columns)]
    lines = [[*columns], ["─" * w for w in widths], *cells]
    return "\n".join("  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _cell(value: Any, width: int) -> str:
    text = "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _paths(state: str, paths: Sequence[str]) -> list[str]:
    more = [f"  … and {len(paths) - MAX_PATHS:,} more {state}"] if len(paths) > MAX_PATHS else []
    return [f"  {state}: {path}" for path in paths[:MAX_PATHS]] + more


def _about(estimated: bool) -> str:
    return "~" if estimated else ""


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown (nothing measured yet)"
    if seconds < 60:
        return f"~{seconds:.0f} s"
    return f"~{seconds / 60:.0f} min" if seconds < 7200 else f"~{seconds / 3600:.1f} h"
