"""Facts as text for people; the same facts are what `--json` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidemill.running.run import RunResult

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
    lines += _paths("failed", [f"{path}: {problem}" for path, problem in files["failed"].items()])
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
    age = facts["freshness"]["age_seconds"]
    lines = [
        f"{facts['pipeline']}: version {facts['promoted_version']}, dataset revision {facts['target_revision'][:12]}",
        f"  up to date: {'never' if age is None else f'{_long(age)} ago'}",
        f"  shards: {shards or 'none'}",
        f"  rows: {facts['rows']:,}, {facts['rows_quarantined']:,} quarantined"
        + (f", {facts['duplicate_keys']:,} with a key that another row has" if facts["duplicate_keys"] else ""),
    ]
    lines += [
        f"  throughput: {_or_dash(t['tokens_per_second'], ',.0f')} tokens/s on {t['device']}, "
        f"{_or_dash(t['padding_waste'], '.1%')} padding"
        for t in facts["throughput"]
    ]
    lines += _under("versions", [_version(version) for version in facts["versions"]])
    lines += _under("open requests", [_open(request) for request in facts["open_requests"]])
    lines += _under("backfills", [_backfill(backfill) for backfill in facts["backfills"]])
    lines += _under("quarantine", [f"{q['rows']:>8,}  {q['stage']}: {q['reason']}" for q in facts["quarantine"]])
    lines += _under("last runs", _runs(facts["runs"]))
    lines += _last_failure(facts["runs"])
    lines += [f"note: {note}" for note in facts["notes"]]
    return "\n".join(lines)


def _version(version: dict[str, Any]) -> str:
    promoted = ", promoted" if version["promoted"] else ""
    return f"{version['version']}  {version['rows']:>12,} rows  {version['lacking'] or 'complete'}{promoted}"


def _open(request: dict[str, Any]) -> str:
    backfill = f", backfill {request['backfill_id']}" if request["backfill_id"] else ""
    return f"{_count(request['shards'], 'shard')} of {request['version']}: {request['reason']}{backfill}"


def _backfill(backfill: dict[str, Any]) -> str:
    cost = f", {backfill['cost']:.2f} {backfill['currency']} so far" if backfill["cost"] else ""
    return (
        f"{backfill['backfill_id']}  {backfill['shards_done']:,}/{backfill['shards']:,} shards of "
        f"{backfill['version']}, since {backfill['created_at']:%Y-%m-%d %H:%M} "
        f"by {backfill['who']}{cost}"
    )


def _runs(runs: Sequence[dict[str, Any]]) -> list[str]:
    names = ["started", "kind", "state", "shards", "rows", "quarantined", "retries", "took", "estimate", "cost", "by"]
    values = [
        [
            f"{run['started_at']:%Y-%m-%d %H:%M:%S}",
            run["kind"],
            "killed" if run["alive"] is False else run["state"],
            f"{run['num_shards'] or 0:,}",
            f"{run['num_rows'] or 0:,}",
            f"{run['num_quarantined'] or 0:,}",
            f"{run['num_retries'] or 0:,}",
            _or_dash(run["seconds"], ",.1f", " s"),
            _or_dash(run["estimated_seconds"], ",.1f", " s"),
            _or_dash(run["cost"], ".2f", f" {run['currency']}"),
            f"{run['who']} on {run['worker'] or run['host']}",
        ]
        for run in runs
    ]
    return rows(names, values).splitlines() if runs else []


def _last_failure(runs: Sequence[dict[str, Any]]) -> list[str]:
    failed = next((run for run in runs if run["state"] == "failed" and run["message"]), None)
    if failed is None:
        return []
    why = failed["message"].splitlines()[0]
    return [f"  the {failed['kind']} of {failed['started_at']:%Y-%m-%d %H:%M:%S} failed: {why}"]


def verification(report: dict[str, Any], pipeline_file: str) -> str:
    lines = [f"{report['pipeline']}: {report['num_rows']:,} rows in {_count(report['num_shards'], 'shard')} checked."]
    lines += [f"wrong: {problem}" for problem in report["problems"]]
    lines += [f"note: {note}" for note in report["notes"]]
    num_problems = len(report["problems"])
    mend = f"{_count(num_problems, 'problem')}. Compute what is wrong again: tidemill repair {pipeline_file}"
    return "\n".join([*lines, mend if num_problems else "Every invariant holds."])


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


def _under(title: str, lines: Sequence[str]) -> list[str]:
    return [f"  {title}:", *(f"    {line}" for line in lines)] if lines else []


def _or_dash(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else format(value, form) + unit


def _long(seconds: float) -> str:
    if seconds < 7200:
        return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds / 86_400:.0f} days"


def _about(estimated: bool) -> str:
    return "~" if estimated else ""


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown (nothing measured yet)"
    if seconds < 60:
        return f"~{seconds:.0f} s"
    return f"~{seconds / 60:.0f} min" if seconds < 7200 else f"~{seconds / 3600:.1f} h"
