"""What a listing says: the files that are read, by which options, and those beside them that somebody may have meant.

An option that makes other rows of the same bytes is part of the revision and of
each file's content, and can be read back from there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from glob import has_magic
from typing import Any
from urllib.parse import parse_qsl, urlencode

from pydantic import ValidationError

from tidemill import config
from tidemill.errors import DatasetError
from tidemill.fingerprints import fingerprint
from tidemill.formats import is_tsv
from tidemill.shards import QUOTED, READ, SourceFile

MAX_NAMES = 5
_OPTIONS = ("format", "field", "encoding", "escape", "header", "names")
"""Beside `quote`, which is said in its own way; `delimiter` is part of what each slice is."""
_NEW_FORMATS = ("json",)
_ESCAPED = re.compile(r"\[([*?[])\]")
"""A character of patterns that stands for itself."""


@dataclass(frozen=True)
class LeftOut:
    """Paths that are not read. `why` is said of them in the plural; `remedy` is what would have them read."""

    paths: tuple[str, ...]
    why: str
    remedy: str = ""
    noun: str = "file"

    def __str__(self) -> str:
        names = [shown(path) for path in self.paths[:MAX_NAMES]]
        more = [f"and {len(self.paths) - MAX_NAMES:,} more"] if len(self.paths) > MAX_NAMES else []
        count = f"{len(self.paths):,} {self.noun}{'s' if len(self.paths) > 1 else ''}"
        told = f"{count} not read, {self.why}: {', '.join([*names, *more])}."
        return f"{told} {self.remedy}".rstrip()


@dataclass(frozen=True)
class Listing:
    """A dataset at a revision: a commit, or the fingerprint of the listing itself."""

    revision: str
    files: tuple[SourceFile, ...]
    left_out: tuple[LeftOut, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of [dataset], what the dataset's card says of how the files are read."""
    notes: tuple[str, ...] = ()
    """What else is to be told."""


def shown(path: str) -> str:
    """A path as it can stand in a line of text."""
    return path if path.isprintable() else repr(path)


def alike(name: str, others: Sequence[str]) -> str | None:
    """A name that differs in case and blanks alone."""
    return next((other for other in others if other.strip().lower() == name.strip().lower()), None)


def called_otherwise(name: str, other: str, paths: Sequence[str]) -> str:
    few = f"{len(paths):,} files have" if len(paths) > 1 else "1 file has"
    return (
        f"{few} no column {name!r}, but {other!r}, which is another name: {name!r} is null there ({shown(paths[0])})."
    )


def not_given_back(name: str, to: object, paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
    return (
        f"{shown(paths[0])}{more}: {name!r} has values that are not {to}, which the table has: their rows go to "
        f"quarantine. dataset.types.{name} can settle another type, to which the whole column is then rewritten."
    )


def not_entered(folders: Sequence[str], pattern: str) -> tuple[LeftOut, ...]:
    """Folders that a pattern matches as a whole, unless it reaches all below them anyway."""
    if not folders or "**" in pattern.split("/")[-2:]:
        return ()
    return (LeftOut(tuple(folders), "which match as a whole", "`**` in a pattern reaches all below.", "folder"),)


def named_by(part: str) -> str | None:
    """The one name that a part of a pattern means, of which `[*]` means a star; None if it may mean several."""
    return None if has_magic(_ESCAPED.sub("", part)) else _ESCAPED.sub(r"\1", part)


def fixed_part(pattern: str) -> str:
    """The folder before the first part of a path that holds a wildcard, or the file's folder."""
    parts = re.split(r"(?<=/)", pattern)
    fixed = ""
    for part in parts[:-1]:
        if has_magic(part):
            break
        fixed += part
    return fixed or "."


def named_by_listing(files: Sequence[SourceFile], left_out: Sequence[LeftOut]) -> Listing:
    ordered = tuple(sorted(files, key=lambda file: file.path))
    revision = fingerprint(*(part for file in ordered for part in (file.path, file.content)))
    return Listing(revision, ordered, tuple(left_out))


def way_of_reading(spec: config.Dataset, said_by_card: Mapping[str, Any]) -> str:
    """What goes behind the revision and each content; nothing where all is by default."""
    fields = config.Dataset.model_fields
    quoted = "" if spec.quote == fields["quote"].default else f"{QUOTED}{spec.quote}"
    said = {name: getattr(spec, name) for name in _OPTIONS if getattr(spec, name) != fields[name].default}
    if said.get("format") not in _NEW_FORMATS:
        said.pop("format", None)
    said |= {name: said_by_card[name] for name in ("delimiter",) if name in said_by_card}
    pairs = [(name, value) for name, values in said.items() for value in _as_texts(values)]
    return f"{quoted}{READ}{urlencode(pairs)}" if pairs else quoted


def recorded_options(spec: config.Dataset, revision: str) -> config.Dataset:
    """The options as they were when the revision was listed, also those that the dataset's card said."""
    options = said_in(revision)
    if "quote" in options and not is_left_open(spec, "quote"):
        del options["quote"]
    return with_options(spec, options)


def said_in(revision: str) -> dict[str, Any]:
    """The options that a revision says it was listed with: those that make other rows of the same bytes."""
    before, _, way = revision.partition(READ)
    values: dict[str, list[str]] = {}
    for name, value in parse_qsl(way, keep_blank_values=True):
        values.setdefault(name, []).append(value)
    options: dict[str, Any] = {name: found if name == "names" else found[0] for name, found in values.items()}
    return options | ({"quote": before.partition(QUOTED)[2]} if QUOTED in before else {})


def is_left_open(spec: config.Dataset, option: str) -> bool:
    """Whether the pipeline says nothing of an option, or its default: what is deployed has all of them."""
    default: object = config.Dataset.model_fields[option].default
    return bool(getattr(spec, option) == default)


def by_card(spec: config.Dataset, listing: Listing) -> dict[str, Any]:
    """What a dataset's card says of how its files are read, where neither the pipeline nor their names say it."""
    fields = config.Dataset.model_fields
    said = {name: value for name, value in listing.options.items() if is_left_open(spec, name)}
    said = {name: value for name, value in said.items() if value != fields[name].default}
    if said.get("delimiter") == "\t" and all(is_tsv(file.path) for file in listing.files):
        del said["delimiter"]
    return said


def with_options(spec: config.Dataset, options: Mapping[str, Any]) -> config.Dataset:
    """The pipeline's options with some changed.

    Raises:
        DatasetError: a value is not one that the option takes.
    """
    if not options:
        return spec
    try:
        return config.Dataset.model_validate({**spec.model_dump(exclude_unset=True), **options})
    except ValidationError as e:
        problem = e.errors()[0]
        option = ".".join(map(str, problem["loc"]))
        raise DatasetError(
            f"The dataset's card says {option} = {problem['input']!r}: {problem['msg']}. "
            f"Set dataset.{option} in the pipeline, which wins, or mend the card."
        ) from e


def _as_texts(value: Any) -> list[str]:
    if isinstance(value, list):
        return [str(item) for item in value]
    return [str(value).lower() if isinstance(value, bool) else str(value)]
