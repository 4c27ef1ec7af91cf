"""Conditions that a user writes: one plain expression of SQL, that can be nothing else.

DuckDB's own parser says what it is; nothing is looked for in its text.
"""

from __future__ import annotations

import json
from typing import Any

import duckdb

from tidemill.errors import ConfigError
from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.ducklake.reading import REFUSED_SCALARS

WAY_OUT = "Give one condition over the columns of the result table, such as \"id = 'a17'\"."
OTHER_CLAUSES = ("where_clause", "group_expressions", "having", "qualify", "modifiers")


def check_condition(condition: str) -> None:
    """
    Raises:
        ConfigError: it is not one expression: a statement, a subquery, several, or none.
    """
    with duckdb.connect() as parser:
        (text,) = parser.execute("SELECT json_serialize_sql(?)", [f"SELECT (\n{condition}\n)"]).fetchall()[0]
    parsed = json.loads(text)
    if parsed["error"]:
        raise ConfigError(f"--where cannot be read as SQL: {parsed['error_message']}. {WAY_OUT}")
    nodes = [statement["node"] for statement in parsed["statements"]]
    if len(nodes) != 1 or not _is_one_expression(nodes[0]):
        raise ConfigError(f"--where is more than a condition: no statement and no subquery may be in it. {WAY_OUT}")
    if refused := _all(nodes[0], "function_name") & REFUSED_SCALARS:
        raise ConfigError(f"--where calls {min(refused)}(), which prepares SQL of its own. {WAY_OUT}")


def check_is_boolean(cursor: Cursor, source: str, condition: str) -> None:
    """
    Raises:
        ConfigError: it gives something else than true or false.
        duckdb.Error: it does not fit the source's columns.
    """
    found = cursor.execute(f"SELECT (\n{condition}\n) FROM ({source}) LIMIT 0").description or []
    kinds = {str(column[1]) for column in found}
    if kinds != {"BOOLEAN"}:
        raise ConfigError(f"--where gives {', '.join(sorted(kinds))}, not true or false. {WAY_OUT}")


def _is_one_expression(node: dict[str, Any]) -> bool:
    return (
        node["type"] == "SELECT_NODE"
        and len(node["select_list"]) == 1
        and node["from_table"]["type"] == "EMPTY"
        and not any(node[clause] for clause in OTHER_CLAUSES)
        and "SUBQUERY" not in _all(node["select_list"][0], "class")
    )


def _all(node: Any, key: str) -> set[str]:
    """What a tree says at a key, anywhere in it."""
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    own = {str(node[key])} if isinstance(node, dict) and key in node else set()
    return own.union(*(_all(part, key) for part in parts))
