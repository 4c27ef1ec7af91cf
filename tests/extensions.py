"""DuckDB's extensions, loaded without being hashed first.

DuckDB checks the signature of tens of megabytes each time a lake is opened,
which was a third of the suite's work. Commands in a new Python still do.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import duckdb

_connect = duckdb.connect


@functools.wraps(_connect)
def _trusting(*args: Any, config: Mapping[str, str] | None = None, **options: Any) -> duckdb.DuckDBPyConnection:
    return _connect(*args, config={**(config or {}), "allow_unsigned_extensions": "true"}, **options)


def trust_extensions() -> None:
    duckdb.connect = _trusting
