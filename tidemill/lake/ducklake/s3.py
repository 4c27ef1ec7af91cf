"""A lake's data on S3, as DuckDB reaches it: credentials from the environment, and what its errors mean."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import duckdb

from tidemill.errors import LakeError, SourceUnavailable, TidemillError
from tidemill.storage.addresses import CREDENTIALS

_REFUSED = {301, 400, 401, 403, 404}


def create_secret(connection: duckdb.DuckDBPyConnection) -> None:
    """Tell DuckDB the endpoint and the credentials, which it does not look up in the environment by itself."""
    facts = {
        "KEY_ID": os.environ.get("AWS_ACCESS_KEY_ID"),
        "SECRET": os.environ.get("AWS_SECRET_ACCESS_KEY"),
        "SESSION_TOKEN": os.environ.get("AWS_SESSION_TOKEN"),
        "REGION": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
    }
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        split = urlsplit(endpoint)
        facts |= {"ENDPOINT": split.netloc, "URL_STYLE": "path"}
        facts["USE_SSL"] = "true" if split.scheme == "https" else "false"
    given = [f"{name} {_literal(value)}" for name, value in facts.items() if value]
    connection.execute(f"CREATE SECRET ({', '.join(['TYPE s3', *given])})")


def check_data(connection: duckdb.DuckDBPyConnection, data: str) -> None:
    """Find out by one small listing whether DuckDB can use the place.

    Raises:
        LakeError: there is no such bucket, or it may not be used.
        SourceUnavailable: there was no answer, or not a good one.
    """
    try:
        connection.execute(f"SELECT count(*) FROM glob({_literal(data.rstrip('/') + '/_none_*')})")
    except duckdb.IOException as e:
        raise meaning(e, data) or e from e


def meaning(error: duckdb.IOException, data: str) -> TidemillError | None:
    """What an error says about data on S3; None if it is about something else."""
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
    status = getattr(error, "status_code", 0)
    if status in _REFUSED:
        said = next((line for line in lines[1:] if ": " in line and not line.startswith("LINE")), lines[0])
        return LakeError(f"lake.data = {data} cannot be used: {said}. Check lake.data, its bucket, {CREDENTIALS}.")
    if isinstance(error, duckdb.HTTPException) or "error for HTTP" in lines[0]:
        return SourceUnavailable(f"{data} does not answer well: {lines[0]}. Check AWS_ENDPOINT_URL, or run again.")
    return None


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
