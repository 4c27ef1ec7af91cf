"""What is shown and recorded of text that may hold secrets: passwords, keys, tokens, and addresses that act as such.

A connection string is taken apart by PostgreSQL's own parser, so its spelling
does not matter. Of any other text, what looks like a secret is masked: that is
done where text leaves (errors, records, the terminal), and catches what comes
from elsewhere.
"""

from __future__ import annotations

import re
from typing import Any

MASK = "***"
SECRET_PARTS = ("password", "sslpassword")
"""Of a connection string."""
PATTERNS = (
    # A quoted value, or one up to the next blank; a backslash keeps a blank in.
    (
        r"(?i)\b((?:ssl)?password\s*=\s*)(?!\*\*\*)"
        r"(?:'(?:[^'\\]|\\.|'')*'|\"[^\"]*\"|(?:[^\s'\"\\]|\\.)(?:[^\s\\]|\\.)*)",
        rf"\1{MASK}",
    ),
    (r"(?i)\b(postgres(?:ql)?://[^\s/@:]*):[^\n/@]*@", rf"\1:{MASK}@"),
    (r"(?i)\b(?!postgres)([a-z][a-z0-9+.-]*://)(?:[^\s/@:]*:[^\n/@]*|[^\s/@]+)@", rf"\1{MASK}@"),
    (
        r"(?i)([?&](?:x-(?:amz|goog)-(?:signature|credential|security-token)|signature|sig|(?:access_|api_?)?token|api_?key"
        r"|awsaccesskeyid|secret|key)=)[^&\s'\"]+",
        rf"\1{MASK}",
    ),
    (r"\bhf_[A-Za-z0-9]{20,}", f"hf_{MASK}"),
    (
        r"(?i)(https://(?:hooks\.slack\.com|[\w.-]*discord(?:app)?\.com/api/webhooks|[\w.-]+\.webhook\.office\.com"
        r"|api\.telegram\.org|chat\.googleapis\.com)/)[^\s'\"]+",
        rf"\1{MASK}",
    ),
)
ROWS = re.compile(
    r"\b(INSERT INTO|DELETE FROM|UPDATE|MERGE INTO|VALUES|SELECT)\b.*|\b(?:LINE \d+|DETAIL):.*", re.DOTALL
)
"""A statement, which holds rows where they were written by value."""
QUOTED = re.compile(r"""(['"])(?:(?!\1)[^\n])*\1""")


def masked(text: str) -> str:
    """The text, and in place of what looks like a secret `***`."""
    for pattern, shown in PATTERNS:
        text = re.sub(pattern, shown, text)
    return text


def split_conninfo(conninfo: str) -> tuple[str, dict[str, str]]:
    """A PostgreSQL connection string without what is secret in it, as keywords and values; and that, by keyword.

    Raises:
        ValueError: it is not a connection string. The message holds nothing of it.
    """
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    except ProgrammingError:
        # PostgreSQL's message repeats what it stumbled over, which may be a part of a password.
        raise ValueError("it is neither name=value pairs nor a postgresql:// address") from None
    secret = {name: parts.pop(name) for name in SECRET_PARTS if name in parts}
    return make_conninfo("", **parts), secret


def shown_catalog(catalog: str) -> str:
    """A lake's address as it may be shown, which is as it was written where it holds no secret."""
    kind, sign, where = catalog.partition(":")
    if kind not in ("postgres", "postgresql"):
        return masked(catalog)
    conninfo = catalog if where.startswith("//") else where
    try:
        public, secret = split_conninfo(conninfo)
    except ValueError:
        return f"{kind}:{MASK}"
    return " ".join([f"{kind}{sign}{public}", *(f"{name}={MASK}" for name in secret)]) if secret else catalog


def shown_webhook(address: str) -> str:
    """A webhook's address as it may be shown: who knows the whole of it can post."""
    if address.startswith("$"):
        return address
    from urllib.parse import urlsplit

    split = urlsplit(address)
    return f"{split.scheme}://{split.netloc.rpartition('@')[2]}/{MASK}"


def shown_override(override: str) -> str:
    """What `--set` was given, as it may be shown."""
    key, sign, value = override.partition("=")
    if not sign:
        return override if re.fullmatch(r"[\w.]*", override) else MASK
    shown = shown_setting(key.strip(), value.strip("\"'"))
    return override if shown == value.strip("\"'") else f"{key}{sign}{shown}"


def shown_setting(key: str, value: Any) -> Any:
    """What a pipeline file says at a key, or in a whole section, as it may be shown."""
    if isinstance(value, dict):
        return {name: shown_setting(str(name), inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [shown_setting(key, inner) for inner in value]
    if not isinstance(value, str):
        return value
    return SHOWN.get(key.rpartition(".")[2], masked)(value)


def shown_key(key: str) -> str:
    """A key as it may be shown: where it comes from, and never itself."""
    return key if key.startswith("$") else MASK


SHOWN = {"catalog": shown_catalog, "webhook": shown_webhook, "api_key": shown_key}
"""How the keys are shown that hold secrets of their own."""


def message_of(error: BaseException) -> str:
    """An error's message as it may be recorded: without secrets, and without the rows that a database repeats."""
    text = str(error)
    if type(error).__module__.partition(".")[0] in ("duckdb", "_duckdb", "psycopg", "pyarrow", "sqlite3"):
        text = ROWS.sub(lambda found: f"{found[1]} …" if found[1] else "", text).strip()
        # With a blank in it, it is a cell, and no name of a column or a file.
        text = QUOTED.sub(lambda found: "'…'" if re.search(r"\s", found[0]) else found[0], text)
    return masked(text)
