"""Rows that could not be processed, by stage and reason."""

from __future__ import annotations

MOST_REASONS = 20
MOST_EXAMPLES = 20


def quarantine_reasons(pipeline: str, version: str) -> str:
    return (
        "SELECT stage, reason, count(*) AS num_rows\n"
        f"FROM _quarantine WHERE (pipeline, version) = ('{pipeline}', '{version}')\n"
        f"GROUP BY ALL ORDER BY num_rows DESC, stage, reason LIMIT {MOST_REASONS}"
    )


def quarantine_examples(pipeline: str, version: str) -> str:
    """The first row of each stage and reason, by its place in its file."""
    return (
        "SELECT stage, reason, path, row_number, key\n"
        f"FROM _quarantine WHERE (pipeline, version) = ('{pipeline}', '{version}')\n"
        "QUALIFY row_number() OVER (PARTITION BY stage, reason ORDER BY path, _quarantine.row_number) = 1\n"
        f"ORDER BY stage, reason LIMIT {MOST_EXAMPLES}"
    )
