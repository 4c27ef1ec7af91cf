"""Facts as text for people; the same facts are what `--json` prints."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tidemill.cli.cells import cell
from tidemill.cli.table import fitted, terminal_width
from tidemill.errors import counted

if TYPE_CHECKING:
    from tidemill.running.run import RunResult

MAX_PATHS = 10
MOST_SUGGESTED = 2
"""Of a model task's columns, in the query that is suggested: the first ones say most."""
SELDOM_NEEDED = ["stage", "reason", "truncated", "num_tokens", "num_windows", "path", "row_number"]
KEYWORDS = frozenset(
    re.findall(
        r"\w+",
        "ALL ANALYSE ANALYZE AND ANTI ANY ARRAY AS ASC ASOF ASYMMETRIC AT AUTHORIZATION BINARY BOTH BY CASE "
        "CAST CHECK COLLATE COLLATION COLUMN COLUMNS CONCURRENTLY CONSTRAINT CREATE CROSS DEFAULT DEFERRABLE "
        "DESC DESCRIBE DISTINCT DO ELSE END EXCEPT FALSE FETCH FOR FOREIGN FREEZE FROM FULL GENERATED GLOB "
        "GROUP HAVING ILIKE IN INITIALLY INNER INTERSECT INTO IS ISNULL JOIN LAMBDA LATERAL LEADING LEFT LIKE "
        "LIMIT MAP NATURAL NOT NOTNULL NULL OFFSET ON ONLY OR ORDER OUTER OVERLAPS PIVOT PIVOT_LONGER "
        "PIVOT_WIDER PLACING POSITIONAL PRIMARY QUALIFY REFERENCES RETURNING RIGHT SELECT SEMI SHOW SIMILAR "
        "SOME STRUCT SUMMARIZE SYMMETRIC TABLE TABLESAMPLE THEN TO TRAILING TRUE TRY_CAST UNION UNIQUE UNPACK "
        "UNPIVOT USING VARIADIC VERBOSE WHEN WHERE WINDOW WITH ",
    )
)
"""The words that DuckDB takes for a name in quotes only."""


def plan(facts: dict[str, Any]) -> str:
    files = facts["files"]
    revision = f"dataset revision {facts['revision'][:12]}"
    if facts["previous_revision"] and facts["previous_revision"] != facts["revision"]:
        revision += f" (was {facts['previous_revision'][:12]})"
    lines = sentence([f"{facts['pipeline']}: table {facts['table']}", revision])
    if facts["up_to_date"]:
        lines.append("Up to date: nothing to compute.")
    for state in ("new", "changed", "unfinished", "removed"):
        lines += _paths(state, files[state])
    lines += _paths("failed", [f"{path}: {problem}" for path, problem in files["failed"].items()])
    lines += _paths("renamed", [f"{old} → {new}" for old, new in files["renamed"].items()])
    if files["unchanged"]:
        lines.append(f"  unchanged: {counted(files['unchanged'], 'file')}")
    if not facts["up_to_date"]:
        lines += sentence(_work(facts))
        lines += _auto(facts["auto"])
        lines += sentence(facts["int8"]["said"].split(", ")) if facts["int8"] else []
    lines += [f"note: {note}" for note in facts["notes"]]
    return "\n".join(lines)


def _auto(known: dict[str, Any] | None) -> list[str]:
    """What was found by trial. What products say is in the JSON, and `doctor` tells it."""
    if known is None or "tokens_per_second" not in known:
        return []
    return sentence(f"auto takes {known['said']}".split(", "))


def _work(facts: dict[str, Any]) -> list[str]:
    uncut = [f"read {counted(len(facts['uncut_files']), 'file')}"] if facts["uncut_files"] else []
    computed = [f"compute {counted(facts['num_shards_computed'], 'shard')}"] if facts["num_shards_computed"] else []
    parts = [
        *uncut,
        *computed,
        f"{_about(facts['rows_estimated'])}{counted(facts['rows'], 'row')}",
        *_to_compute(facts),
        f"{_about(facts['tokens_estimated'])}{counted(facts['tokens'], 'token')}",
        *new_tokens(facts),
        f"time {_duration(facts['seconds'])}",
    ]
    if facts["cost"] is not None:
        parts.append(f"cost ~{facts['cost']:.2f} {facts['currency']}{_cost_between(facts)}")
    for count, what in (
        (facts["num_shards_copied"], "copy {}"),
        (facts["num_shards_rewritten"], "rewrite the kept columns of {}"),
    ):
        if count:
            parts.append(what.format(counted(count, "shard")))
    if facts["rows_removed"]:
        parts.append(f"remove {counted(facts['rows_removed'], 'row')}")
    return parts


def new_tokens(facts: dict[str, Any]) -> list[str]:
    """What a model that writes is expected to write."""
    low, high = facts["new_tokens_low"], facts["new_tokens_high"]
    if low is None:
        return []
    if facts["new_tokens"] is None:
        return [f"at most {counted(high, 'new token')}"]
    return [f"{low:,} to {counted(high, 'new token')}"]


def _cost_between(facts: dict[str, Any]) -> str:
    """Of a model that writes, for of those nobody knows the lengths beforehand."""
    return "" if facts["new_tokens_low"] is None else f" ({facts['cost_low']:.2f} to {facts['cost_high']:.2f})"


def _to_compute(facts: dict[str, Any]) -> list[str]:
    """Of the rows, where not all are to be computed or that is not known."""
    about = _about(facts["rows_estimated"])
    if facts["rows_to_compute_at_most"]:
        return [f"at most {about}{facts['rows_to_compute']:,} to compute"]
    return [f"{about}{facts['rows_to_compute']:,} to compute"] if facts["rows_to_compute"] < facts["rows"] else []


def result(done: RunResult, pipeline_file: str, keys: Sequence[str] = ()) -> str:
    """What a run did. `keys` are the names of the table's key columns, for the query that is suggested."""
    if done.state == "done" and not (done.num_shards or done.num_rows_removed or done.num_rewritten):
        return f"{done.pipeline} is up to date: nothing to compute ({done.seconds:.1f} s)."
    lines = [
        *sentence(
            [
                f"{done.pipeline}: {done.state}. {counted(done.num_shards, 'shard')}",
                counted(done.num_rows, "row"),
                *([f"{done.num_rows - done.num_unchanged:,} computed"] if done.num_unchanged else []),
                *([f"{done.num_quarantined:,} quarantined"] if done.num_quarantined else []),
                *([f"{done.num_rows_removed:,} removed"] if done.num_rows_removed else []),
                f"{tokens(done)} in {done.seconds:.1f} s.",
            ]
        )
    ]
    if done.num_copied:
        lines.append(f"Copied, not computed: {counted(done.num_copied, 'shard')}.")
    if done.num_rewritten:
        lines.append(f"Kept columns rewritten, nothing computed: {counted(done.num_rewritten, 'shard')}.")
    lines += [f"failed: {failure['path']}: {failure['message']}" for failure in done.failures[:MAX_PATHS]]
    lines += [f"note: {note}" for note in done.notes]
    if done.state == "stopped":
        lines.append(f"Stopped. What was committed stays; `tidemill run {pipeline_file}` goes on from there.")
    elif done.failures:
        lines.append(f"What was committed stays; `tidemill run {pipeline_file}` tries the rest again.")
    elif done.state == "done":
        lines += [
            "Query it:",
            f"  tidemill sql {shell_word(pipeline_file)} {first_query(done.pipeline, keys, done.columns)}",
        ]
    return "\n".join(lines)


def tokens(done: RunResult) -> str:
    """Those that a model was given, and those that it wrote if it writes."""
    new = "" if done.num_new_tokens is None else f" and {counted(done.num_new_tokens, 'new token')}"
    return f"{counted(done.num_tokens, 'token')}{new}"


def first_query(table: str, keys: Sequence[str], results: Sequence[str]) -> str:
    """A query that shows what the table is for, as a shell takes it; `results` are the model task's columns.

    DuckDB takes a table's name in single quotes too, which stand within a shell's double ones.
    """
    columns = ", ".join(map(_sql_name, [*(keys or ["row_number"]), *(results[:MOST_SUGGESTED] or ["*"])]))
    name = _sql_name(table)
    if '"' in columns:
        return shlex.quote(f"SELECT {columns} FROM {name} LIMIT 10")
    return f'"SELECT {columns} FROM {name if name == table else repr(table)} LIMIT 10"'


def _sql_name(name: str) -> str:
    plain = re.fullmatch(r"[a-z_][a-z0-9_]*", name, re.IGNORECASE) and name.upper() not in KEYWORDS
    return name if plain else '"' + name.replace('"', '""') + '"'


def shell_word(word: str) -> str:
    return word if re.fullmatch(r"[\w@%+=:,./~-]+", word) else shlex.quote(word)


def sentence(parts: Sequence[str]) -> list[str]:
    """Parts with commas between them, in as many lines as the terminal's width asks for."""
    lines = [""]
    for i, part in enumerate(parts):
        text = part + ("," if i < len(parts) - 1 else "")
        if lines[-1] and len(lines[-1]) + 1 + len(text) > terminal_width():
            lines.append("   ")
        lines[-1] += f" {text}" if lines[-1] else text
    return lines


def status(facts: dict[str, Any]) -> str:
    if facts["target_revision"] is None:
        return f"{facts['pipeline']}: no table yet. `tidemill run` makes it."
    shards = ", ".join(f"{count:,} {state.replace('_', ' ')}" for state, count in facts["shards"].items() if count)
    age = facts["freshness"]["age_seconds"]
    lines = [
        f"{facts['pipeline']}: version {facts['promoted_version']}, dataset revision {facts['target_revision'][:12]}",
        f"  up to date: {'never' if age is None else f'{_long(age)} ago'}",
        f"  shards: {shards or 'none'}",
        f"  rows: {facts['rows']:,}"
        + (f", {facts['rows_quarantined']:,} quarantined" if facts["rows_quarantined"] else "")
        + (f", {facts['duplicate_keys']:,} with a key that another row has" if facts["duplicate_keys"] else ""),
    ]
    lines += [
        f"  throughput: {_or_dash(t['tokens_per_second'], ',.0f')} tokens/s on {t['device']}, "
        f"{_or_dash(t['padding_waste'], '.1%')} padding{_written_and_cost(t)}"
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


def _written_and_cost(throughput: dict[str, Any]) -> str:
    written, cost = throughput["new_tokens_per_second"], throughput["cost_per_thousand_rows"]
    told = [f"{written:,.1f} new tokens/s"] if written is not None else []
    told += [f"{cost:.3g} {throughput['currency']} per 1,000 rows"] if cost is not None else []
    return "".join(f", {part}" for part in told)


def _version(version: dict[str, Any]) -> str:
    promoted = ", promoted" if version["promoted"] else ""
    return f"{version['version']}  {counted(version['rows'], 'row'):>17}  {version['lacking'] or 'complete'}{promoted}"


def _open(request: dict[str, Any]) -> str:
    backfill = f", backfill {request['backfill_id']}" if request["backfill_id"] else ""
    return f"{counted(request['shards'], 'shard')} of {request['version']}: {request['reason']}{backfill}"


def _backfill(backfill: dict[str, Any]) -> str:
    cost = f", {backfill['cost']:.2f} {backfill['currency']} so far" if backfill["cost"] else ""
    return (
        f"{backfill['backfill_id']}  {backfill['shards_done']:,}/{counted(backfill['shards'], 'shard')} of "
        f"{backfill['version']}, since {backfill['created_at']:%m-%d %H:%M} by {backfill['who']}{cost}"
    )


def _runs(runs: Sequence[dict[str, Any]]) -> list[str]:
    """In columns, of which those that say nothing go first where they do not all fit."""
    writes = any(run["num_new_tokens"] is not None for run in runs)
    names = ["started", "kind", "state", "shards", "rows", "quarantined", *(["new tokens"] if writes else [])]
    names += ["retries", "took", "estimate", "cost", "by"]
    values = [
        [
            f"{run['started_at']:%m-%d %H:%M}",
            run["kind"],
            "killed" if run["alive"] is False else run["state"],
            f"{run['num_shards'] or 0:,}",
            f"{run['num_rows'] or 0:,}",
            f"{run['num_quarantined'] or 0:,}",
            *([_or_dash(run["num_new_tokens"], ",")] if writes else []),
            f"{run['num_retries'] or 0:,}",
            _or_dash(run["seconds"], ",.1f", " s"),
            _or_dash(run["estimated_seconds"], ",.1f", " s"),
            _or_dash(run["cost"], ".2f", f" {run['currency']}"),
            f"{run['who']} on {run['worker'] or run['host']}",
        ]
        for run in runs
    ]
    empty = [name for i, name in enumerate(names) if all(row[i] in ("0", "–") for row in values)]
    unneeded = ["estimate", "retries", "cost", "quarantined", "took"]
    return rows(names, values, empty=empty, unneeded=unneeded, indent=4).splitlines() if runs else []


def _last_failure(runs: Sequence[dict[str, Any]]) -> list[str]:
    failed = next((run for run in runs if run["state"] == "failed" and run["message"]), None)
    if failed is None:
        return []
    why = failed["message"].splitlines()[0]
    return [f"  the {failed['kind']} of {failed['started_at']:%Y-%m-%d %H:%M:%S} failed: {why}"]


def verification(report: dict[str, Any], pipeline_file: str) -> str:
    checked = f"{counted(report['num_rows'], 'row')} in {counted(report['num_shards'], 'shard')} checked."
    lines = [f"{report['pipeline']}: {checked}"]
    lines += [f"wrong: {problem}" for problem in report["problems"]]
    lines += [f"note: {note}" for note in report["notes"]]
    num_problems = len(report["problems"])
    mend = f"{counted(num_problems, 'problem')}. Compute what is wrong again: tidemill repair {pipeline_file}"
    return "\n".join([*lines, mend if num_problems else "Every invariant holds."])


def sample(found: Sequence[dict[str, Any]], keys: Sequence[str] = (), kept: Sequence[str] = ()) -> str:
    """Rows with their predictions; where they do not fit, first without what is the same for most, then without
    kept columns that are no key."""
    if not found:
        return "There is no row."
    names = list(found[0])
    told = {*keys, *(["stage", "reason"] if any(row["reason"] for row in found) else [])}
    unneeded = [name for name in (*SELDOM_NEEDED, *reversed(kept)) if name in names and name not in told]
    return rows(names, [list(row.values()) for row in found], unneeded=unneeded)


def rows(
    columns: Sequence[str],
    values: Sequence[Sequence[Any]],
    *,
    empty: Sequence[str] = (),
    unneeded: Sequence[str] = (),
    indent: int = 0,
) -> str:
    """A plain table that fits the terminal: see `fitted`."""
    cells = [[cell(value) for value in row] for row in values]
    return fitted(columns, cells, width=terminal_width() - indent, empty=empty, unneeded=unneeded)


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
