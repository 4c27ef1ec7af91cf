"""A shard's predictions as they lie in the store: every row, and why it has none."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.encoding import windowing as windows
from tidemill.planning.versions import NUM_WINDOWS
from tidemill.values.rows import one_array


def with_texts(prepared: pa.Table, rows: pa.Table, reads: Sequence[str]) -> pa.Table:
    """What a preparer made of rows, beside what it made it of."""
    for name in reads:
        prepared = prepared.append_column(name, rows[name])
    return prepared


def with_reasons(rows: pa.Table, tokens: pa.Table, results: pa.Table, failures: pa.Array) -> pa.Table:
    """A shard's predictions: every row, with the first stage that could not process it and why."""
    reasons = (
        ("ingest", one_array(rows["reason"])),
        ("tokenize", one_array(tokens["reason"])),
        ("infer", failures),
        ("tokenize", _missing(tokens["token_ids"])),
    )
    stage = pa.nulls(rows.num_rows, pa.string())
    for name, reason in reversed(reasons):
        stage = pc.if_else(pc.is_valid(reason), name, stage)
    columns = {name: results[name] for name in results.column_names}
    return pa.table(
        {
            "row_number": rows["row_number"],
            **columns,
            **_lengths(tokens),
            "stage": stage,
            "reason": pc.coalesce(*(reason.cast(pa.string()) for _, reason in reasons)),
        }
    )


def _lengths(tokens: pa.Table) -> dict[str, pa.ChunkedArray]:
    """How long a text is, and whether it is read to its end, as it is in windows."""
    if "truncated" in tokens.column_names:
        return {"num_tokens": tokens["num_tokens"], "truncated": tokens["truncated"]}
    found = pc.list_value_length(tokens["token_ids"])
    if windows.are_windows(tokens["token_ids"]):
        whole = pc.if_else(pc.is_valid(found), pa.scalar(False), pa.scalar(None, pa.bool_()))
        return {NUM_WINDOWS: found, "num_tokens": tokens["num_tokens"], "truncated": whole}
    return {"num_tokens": tokens["num_tokens"], "truncated": pc.greater(tokens["num_tokens"], found)}


def _missing(token_ids: pa.ChunkedArray) -> pa.Array:
    """A reason for every row without tokens, for those to which nobody gave one."""
    return pc.if_else(
        one_array(pc.is_null(token_ids)), "there are no tokens for this row", pa.scalar(None, pa.string())
    )
