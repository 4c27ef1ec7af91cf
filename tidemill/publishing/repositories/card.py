"""A repository's README.md: of what people wrote there, some keys of the metadata and one marked part change."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.errors import InputError

BEGIN = "<!-- tidemill: each publication writes anew what stands from here to the line `tidemill: end` -->"
END = "<!-- tidemill: end -->"
_FRONT = re.compile(r"\A\ufeff?---\n(.*?)^---[ \t]*(?:\n|\Z)", re.MULTILINE | re.DOTALL)
_KEY = re.compile(r"""(?:"([^"]+)"|'([^']+)'|([^\s#:'"-][^:#]*?))\s*:(?:\s|$)""")


def edited(text: str, part: str, *, keys: Mapping[str, Any], absent: Mapping[str, Any], title: str) -> str:
    """The card with `part` as its marked part, and its metadata with `keys`; a key that is None is taken out.

    What is in `absent` is set only where the card says nothing of it. Every other line stays as it is. Without a card
    one is made.

    Raises:
        InputError: its metadata is no YAML, or one of the two marks is missing.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    plain = text.replace("\r\n", "\n")
    metadata, body = _split(plain)
    known = _parsed(metadata)
    settings = {**{key: value for key, value in absent.items() if key not in known}, **keys}
    wanted = {key: value for key, value in settings.items() if known.get(key) != value}
    lines = _with_keys(metadata.splitlines(), wanted)
    front = "---\n" + "".join(f"{line}\n" for line in lines) + "---\n"
    made = front + _with_part(body if text else f"\n# {title}\n", part)
    return made.replace("\n", newline)


def metadata_of(text: str) -> dict[str, Any]:
    """What a card says of itself; nothing where it is no YAML."""
    try:
        return _parsed(_split(text.replace("\r\n", "\n"))[0])
    except InputError:
        return {}


def _split(text: str) -> tuple[str, str]:
    found = _FRONT.match(text)
    return (found[1], text[found.end() :]) if found else ("", text)


def _parsed(metadata: str) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(metadata) or {}
    except yaml.YAMLError as e:
        where = f", line {mark.line + 2}" if (mark := getattr(e, "problem_mark", None)) else ""
        raise InputError(f"The metadata of README.md is no YAML{where}. Mend it on the Hub, and publish again.") from e
    if not isinstance(found, dict):
        raise InputError("The metadata of README.md has no keys. Mend it on the Hub, and publish again.")
    return found


def _with_keys(lines: Sequence[str], keys: Mapping[str, Any]) -> list[str]:
    """The lines of the metadata, with those of some keys written anew where they stood, or at the end."""
    left = {key: _dumped(key, value) for key, value in keys.items()}
    result: list[str] = []
    for key, block in _blocks(lines):
        result += left.pop(key) + _trailing(block) if key in left else block
    return result + [line for block in left.values() for line in block]


def _blocks(lines: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each key of the metadata with its lines; what stands before the first has the key ""."""
    blocks: list[tuple[str, list[str]]] = [("", [])]
    for line in lines:
        if found := _KEY.match(line):
            blocks.append((found[1] or found[2] or found[3], [line]))
        else:
            blocks[-1][1].append(line)
    return blocks


def _trailing(block: Sequence[str]) -> list[str]:
    """Comments and blank lines at a block's end, which are of what follows."""
    start = len(block)
    while start and (not block[start - 1].strip() or block[start - 1].startswith("#")):
        start -= 1
    return list(block[start:])


def _dumped(key: str, value: Any) -> list[str]:
    import yaml

    if value is None:
        return []
    return str(yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=1000)).splitlines()


def _with_part(body: str, part: str) -> str:
    begins, ends = body.count(BEGIN), body.count(END)
    marked = f"{BEGIN}\n\n{part.strip()}\n\n{END}"
    if (begins, ends) == (0, 0):
        return f"{body.rstrip()}\n\n{marked}\n" if body.strip() else f"\n{marked}\n"
    if (begins, ends) != (1, 1) or body.index(END) < body.index(BEGIN):
        raise InputError(
            f"README.md has not each of these lines once, and in this order: `{BEGIN}` and `{END}`. Put them around "
            "the part that is to be written anew, or take both out, and publish again."
        )
    before, _, rest = body.partition(BEGIN)
    return before + marked + rest.partition(END)[2]
