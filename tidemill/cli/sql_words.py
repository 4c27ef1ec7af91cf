"""What may come next in a statement that is being typed: tables, columns and keywords."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tidemill.lake import Cursor

COLUMNS = (
    "SELECT table_name, column_name, data_type FROM duckdb_columns() "
    "WHERE database_name = 'lake' ORDER BY table_name[1] = '_', contains(table_name, '__'), table_name, column_index"
)
KEYWORDS = "SELECT keyword_name, keyword_category IN ('reserved', 'type_function') FROM duckdb_keywords() ORDER BY 1"
NAME = r'(?:"[^"]*"|\w+)'
WORD = re.compile(r"\w*\Z")
QUALIFIER = re.compile(rf"({NAME})\.\Z")
BEFORE_TABLE = re.compile(r"\b(?:from|join|describe|summarize|table|into)\s+\Z", re.IGNORECASE)
STATEMENT_BEGINS = re.compile(r"(?:\A|;)\s*\Z")
TABLES_USED = re.compile(rf"\b(?:from|join)\s+({NAME})(?:\s+(?:as\s+)?({NAME}))?", re.IGNORECASE)


@dataclass(frozen=True)
class Words:
    """The lake's tables, in the order in which they are shown, with their columns and types; DuckDB's keywords."""

    tables: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    keywords: tuple[str, ...] = ()
    reserved: frozenset[str] = frozenset()

    @classmethod
    def of(cls, cursor: Cursor) -> Words:
        tables: dict[str, list[tuple[str, str]]] = {}
        for table, column, kind in cursor.execute(COLUMNS).fetchall():
            tables.setdefault(table, []).append((column, kind))
        found = cursor.execute(KEYWORDS).fetchall()
        return cls(tables, tuple(word for word, _ in found), frozenset(word for word, reserved in found if reserved))

    def quoted(self, name: str) -> str:
        """A name as SQL takes it."""
        if re.fullmatch(r"[a-z_][a-z0-9_]*", name, re.IGNORECASE) and name.lower() not in self.reserved:
            return name
        return '"' + name.replace('"', '""') + '"'


def completions(text: str, cursor: int, words: Words) -> Iterator[tuple[str, str]]:
    """What the word that ends at `cursor` may be, and what that is. Keywords are written as the word begins."""
    before = text[:cursor]
    word = WORD.search(before)
    typed = word[0] if word else ""
    rest = before[: len(before) - len(typed)]
    if qualified := QUALIFIER.search(rest):
        yield from _matching(typed, _columns_of(qualified[1], text, words), words)
        return
    if BEFORE_TABLE.search(rest):
        yield from _matching(typed, ((table, "table") for table in words.tables), words)
        return
    possible = (
        [] if STATEMENT_BEGINS.search(rest) else [*_columns(text, words), *((table, "table") for table in words.tables)]
    )
    named = dict(_matching(typed, possible, words))
    yield from named.items()
    if typed:
        for keyword in words.keywords:
            if keyword.startswith(typed.lower()) and keyword not in named:
                yield (keyword if typed.islower() else keyword.upper()), "keyword"


def _columns(text: str, words: Words) -> list[tuple[str, str]]:
    """Of the tables that the statement names, else of the pipelines'."""
    pipelines = [table for table in words.tables if not table.startswith("_") and "__" not in table]
    used = [table for table, _ in _used(text, words)] or pipelines
    return [column for table in used for column in words.tables[table]]


def _matching(typed: str, found: Iterable[tuple[str, str]], words: Words) -> Iterator[tuple[str, str]]:
    for name, kind in found:
        if name.lower().startswith(typed.lower()):
            yield words.quoted(name), kind


def _columns_of(qualifier: str, text: str, words: Words) -> list[tuple[str, str]]:
    """Of a table, or of what it is called in this statement."""
    wanted = _bare(qualifier)
    called = {alias: table for table, alias in _used(text, words)}
    return words.tables.get(called.get(wanted, wanted), [])


def _used(text: str, words: Words) -> list[tuple[str, str]]:
    """The tables that the statement names, and what it calls them."""
    named = [(_bare(table), _bare(alias or table)) for table, alias in TABLES_USED.findall(text)]
    return [(table, alias) for table, alias in named if table in words.tables]


def _bare(name: str) -> str:
    return name.strip('"')
