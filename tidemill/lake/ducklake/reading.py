"""What a user's SQL may be: a query of the lake, and of files where `--allow` names their folder; or one condition.

DuckDB's own parser says what a statement is and which functions it calls. That
is judged before anything runs, as a table function can delete files or ask
another server from within a SELECT. `Lake.seal` closes the rest of the machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import _duckdb as duckdb  # As tidemill.lake.ducklake.connection does.

from tidemill.errors import ConfigError, LakeError
from tidemill.lake.ducklake.connection import CATALOG, Cursor

GIVE_ONE = "Give one condition over the columns of the result table, such as \"id = 'a17'\"."
OTHER_CLAUSES = ("where_clause", "group_expressions", "having", "qualify", "modifiers")

LAKE_FUNCTIONS = frozenset(
    [
        *("current_snapshot", "last_committed_snapshot", "snapshots", "options", "table_info"),
        *("table_changes", "table_deletions", "table_insertions"),
        *("ducklake_current_snapshot", "ducklake_last_committed_snapshot", "ducklake_snapshots", "ducklake_options"),
        *("ducklake_table_info", "ducklake_table_changes", "ducklake_table_deletions", "ducklake_table_insertions"),
        *("ducklake_list_files", "ducklake_settings"),
        *("duckdb_columns", "duckdb_constraints", "duckdb_functions", "duckdb_keywords", "duckdb_schemas"),
        *("duckdb_tables", "duckdb_types", "duckdb_views", "pragma_collations", "pragma_platform", "pragma_show"),
        *("pragma_table_info", "pragma_version", "icu_calendar_names", "pg_timezone_names"),
        *("generate_series", "json_each", "json_tree", "range", "repeat", "repeat_row", "unnest"),
    ]
)
"""Table functions that read the lake, describe it, or make rows of what they are given. All others are refused."""
FILE_FUNCTIONS = frozenset(
    [
        *("glob", "read_blob", "read_csv", "read_csv_auto", "read_text", "sniff_csv"),
        *("read_json", "read_json_auto", "read_json_objects", "read_json_objects_auto"),
        *("read_ndjson", "read_ndjson_auto", "read_ndjson_objects"),
        *("read_parquet", "parquet_scan", "parquet_schema", "parquet_metadata", "parquet_file_metadata"),
        *("parquet_full_metadata", "parquet_kv_metadata", "parquet_bloom_probe"),
    ]
)
"""Table functions that read files."""
REFUSED_SCALARS = frozenset(["json_serialize_plan"])
"""Scalar functions that take SQL as text and prepare it."""
REFUSED_TABLES = frozenset([CATALOG, "duckdb_databases", "duckdb_logs", "pragma_database_list"])
"""The catalog that keeps the lake, which may keep other things, and views of where DuckDB's databases lie."""
FILE_NAME = re.compile(r"\.(csv|tsv|json|jsonl|ndjson|parquet|db|ddb|duckdb)\b", re.IGNORECASE)
"""What makes DuckDB read a file where it finds no table of that name."""

TREE = (
    "WITH parsed AS (SELECT json_serialize_sql({}) AS tree) SELECT tree->>'error_message', "
    "tree->>'$..function_name', tree->>'$..function.function_name', "
    "list_zip(tree->>'$..catalog_name', tree->>'$..schema_name', tree->>'$..table_name') FROM parsed"
)
VIEWS = f"SELECT view_name, sql FROM {CATALOG}.ducklake_view WHERE dialect = 'duckdb'"
ANY_MACRO = f"SELECT 1 FROM {CATALOG}.ducklake_macro LIMIT 1"
MACROS = (
    f"SELECT macro_name, if(type = 'table', sql, 'SELECT ' || sql) "
    f"FROM {CATALOG}.ducklake_macro JOIN {CATALOG}.ducklake_macro_impl USING (macro_id)"
)
TABLE_FUNCTIONS = (
    "SELECT DISTINCT lower(function_name) FROM duckdb_functions() WHERE function_type IN ('table', 'table_macro')"
)
BESIDE_PIVOT = (
    "A PIVOT whose columns come from the data can stand beside queries only, and be neither explained nor stored. "
    "Name its values: PIVOT ... ON column IN (...)."
)


def readable(cursor: Cursor, query: str, *, files: bool = False) -> list[Any]:
    """What to execute, in order, for `query`, which does nothing but read; with `files`, files as well.

    Raises:
        ConfigError: there is no statement, or one of them does more.
        duckdb.Error: it is not SQL.
    """
    statements = cursor.extract_statements(query)
    if not statements:
        raise ConfigError("There is no statement in the query.")
    if made := {statement.type.name for statement in statements if _is_made_by_parser(statement)}:
        written = {statement.type.name for statement in statements if not _is_made_by_parser(statement)}
        if made != {"CREATE"} or written != {"SELECT"}:
            raise ConfigError(BESIDE_PIVOT)
        _check_words(cursor, query, files=files)
        return list(statements)
    for statement in statements:
        _check_statement(cursor, statement, files=files)
    # Their texts, which are what was judged.
    return [statement.query for statement in statements]


def check_definitions(cursor: Cursor, query: str) -> None:
    """Refuse a query that names a view or a macro of the lake's which does more than read: a lake may be a stranger's.

    Raises:
        LakeError: it does.
    """
    left = _definitions(cursor)
    texts = [query]
    for text in texts:
        for name, definition in [one for one in left if _is_named(one[0], text)]:
            left.remove((name, definition))
            texts.append(definition)
            if refused := _names(cursor, f"FROM ({definition})").table_functions - LAKE_FUNCTIONS - FILE_FUNCTIONS:
                raise LakeError(f"{name} of this lake calls {min(refused)}(), which may do more than read.")


def _definitions(cursor: Cursor) -> list[tuple[str, str]]:
    """Name and SQL of the lake's views and macros, now and before."""
    views: list[tuple[str, str]] = cursor.execute(VIEWS).fetchall()
    # Few lakes have any, and a join takes longer than all that is judged.
    return views + cursor.execute(MACROS).fetchall() if cursor.execute(ANY_MACRO).fetchall() else views


def _is_named(name: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) is not None


def _is_made_by_parser(statement: Any) -> bool:
    """Whether it stands for a part of what the user wrote; its text is no use then."""
    return statement.type.name in ("CREATE", "SET") and not statement.query


def _check_statement(cursor: Cursor, statement: Any, *, files: bool) -> None:
    kind, text = statement.type.name, statement.query
    if kind == "EXPLAIN":
        for explained in _explained(cursor, text):
            _check_statement(cursor, explained, files=files)
        return
    if kind != "SELECT":
        raise ConfigError(f"`tidemill sql` only reads; this is {kind}: {text.strip()}")
    names = _names(cursor, text)
    _refuse_functions(names.table_functions - LAKE_FUNCTIONS | names.functions & REFUSED_SCALARS, files=files)
    for parts in names.tables:
        shown = ".".join(filter(None, parts))
        _refuse_tables({part.lower() for part in parts})
        if not files and FILE_NAME.search(shown):
            raise ConfigError(_beside_the_lake(shown))


def _explained(cursor: Cursor, text: str) -> Sequence[Any]:
    """What an EXPLAIN is of: the first of its words from which on the parser finds statements."""
    encoded = text.encode()
    for offset, _ in duckdb.tokenize(text)[1:]:
        try:
            return cursor.extract_statements(encoded[offset:].decode())
        except duckdb.ParserException:
            continue
    raise ConfigError(f"`tidemill sql` cannot tell what is explained: {text.strip()}")


def _check_words(cursor: Cursor, query: str, *, files: bool) -> None:
    """Judge a PIVOT whose columns come from the data by its words, wherever in it they stand.

    DuckDB makes a type and a query of it, and shows a tree of neither.
    """
    words = set(re.findall(r"\w+", query.lower(), re.ASCII))
    table_functions = {name for (name,) in cursor.execute(TABLE_FUNCTIONS).fetchall()}
    _refuse_functions(words & table_functions - LAKE_FUNCTIONS | words & REFUSED_SCALARS, files=files)
    _refuse_tables(words)
    if not files and (found := FILE_NAME.search(query)):
        raise ConfigError(_beside_the_lake(found[0]))


class _Names(NamedTuple):
    """What a statement names, in small letters but for tables."""

    functions: set[str]
    table_functions: set[str]
    tables: list[tuple[str, str, str]]
    """Catalog, schema and name, as far as they are given."""


def _names(cursor: Cursor, text: str) -> _Names:
    # As a literal: to bind a parameter, DuckDB imports numpy and pandas.
    literal = "'" + text.replace("'", "''") + "'"
    ((error, functions, table_functions, tables),) = cursor.execute(TREE.format(literal)).fetchall()
    if error:
        raise ConfigError(f"`tidemill sql` cannot tell what this reads: {error}: {text.strip()}")
    return _Names(_lowered(functions), _lowered(table_functions), tables)


def _lowered(names: Sequence[str]) -> set[str]:
    return {name.lower() for name in names}


def _refuse_functions(names: set[str], *, files: bool) -> None:
    if refused := names - FILE_FUNCTIONS:
        raise ConfigError(f"`tidemill sql` only reads the lake; {min(refused)}() may do more.")
    if names and not files:
        raise ConfigError(_beside_the_lake(f"{min(names)}()"))


def _refuse_tables(names: set[str]) -> None:
    if refused := names & REFUSED_TABLES:
        raise ConfigError(f"`tidemill sql` reads the tables of the lake; {min(refused)} is none of them.")


def _beside_the_lake(what: str) -> str:
    return f"`tidemill sql` reads the lake, and {what} reads files. Name their folder: --allow FOLDER."


def check_condition(condition: str, option: str = "--where") -> None:
    """
    Raises:
        ConfigError: it is not one expression: a statement, a subquery, several, or none.
    """
    nodes, error = _selected(condition)
    if error:
        raise ConfigError(f"{option} cannot be read as SQL: {error}. {GIVE_ONE}")
    if len(nodes) != 1 or not _is_one_expression(nodes[0]):
        raise ConfigError(f"{option} is more than a condition: no statement and no subquery may be in it. {GIVE_ONE}")
    if refused := _all(nodes[0], "function_name") & REFUSED_SCALARS:
        raise ConfigError(f"{option} calls {min(refused)}(), which prepares SQL of its own. {GIVE_ONE}")


def check_expression(expression: str, option: str) -> None:
    """
    Raises:
        ConfigError: it is not one expression, which may hold a subquery: a statement, several, or none.
    """
    nodes, error = _selected(expression)
    if error:
        raise ConfigError(f"{option} = {expression!r} cannot be read as SQL: {error}.")
    if len(nodes) != 1 or not _is_one_item(nodes[0]):
        raise ConfigError(f'{option} = {expression!r} is more than one expression. Give one, such as "rating > 0".')


def _selected(expression: str) -> tuple[list[Any], str | None]:
    """What DuckDB's parser makes of `SELECT (expression)`, a node a statement; or why it makes nothing of it."""
    with duckdb.connect() as parser:
        (text,) = parser.execute("SELECT json_serialize_sql(?)", [f"SELECT (\n{expression}\n)"]).fetchall()[0]
    parsed = json.loads(text)
    if parsed["error"]:
        return [], parsed["error_message"]
    return [statement["node"] for statement in parsed["statements"]], None


def check_is_boolean(cursor: Cursor, source: str, condition: str) -> None:
    """
    Raises:
        ConfigError: it gives something else than true or false.
        duckdb.Error: it does not fit the source's columns.
    """
    found = cursor.execute(f"SELECT (\n{condition}\n) FROM ({source}) LIMIT 0").description or []
    kinds = {str(column[1]) for column in found}
    if kinds != {"BOOLEAN"}:
        raise ConfigError(f"--where gives {', '.join(sorted(kinds))}, not true or false. {GIVE_ONE}")


def _is_one_expression(node: dict[str, Any]) -> bool:
    return _is_one_item(node) and "SUBQUERY" not in _all(node["select_list"][0], "class")


def _is_one_item(node: dict[str, Any]) -> bool:
    return (
        node["type"] == "SELECT_NODE"
        and len(node["select_list"]) == 1
        and node["from_table"]["type"] == "EMPTY"
        and not any(node[clause] for clause in OTHER_CLAUSES)
    )


def _all(node: Any, key: str) -> set[str]:
    """What a tree says at a key, anywhere in it."""
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    own = {str(node[key])} if isinstance(node, dict) and key in node else set()
    return own.union(*(_all(part, key) for part in parts))
