"""The source that a user names, found and opened: which options read it, and why these.

A local path or glob, an address, or a Hub id, as `dataset.path` takes them.
"""

from __future__ import annotations

import codecs
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import has_magic
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tidemill.config import Pipeline
from tidemill.errors import ChoiceMissing, ConfigError, DatasetError, FormatError
from tidemill.formats import partitions_of
from tidemill.formats.detect import detect, detect_file
from tidemill.formats.streams.encodings import UTF8
from tidemill.shards import SourceFile
from tidemill.sources.byte_files import open_source
from tidemill.sources.dataset import Dataset, open_dataset, reopen_dataset, spread
from tidemill.values.columns import HEAD_BYTES, JoinedText

FILES_LOOKED_AT = 8
FIRST_CHOICES = {"config": ("default", "en", "all"), "split": ("train", "all")}
"""Which config and split are taken of several; else the first."""
TEXT_FORMATS = ("csv", "jsonl", "json", "text")
"""Those that have an encoding."""
MOST_BYTES_DECODED = 256 << 20
"""Of all files, to see whether they are UTF-8 to their ends."""
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5", b"BZ", b"\xfd7", b"PK")
_AS = re.compile(r"\sas\s|^as\s|\sas$", re.IGNORECASE)
_SUFFIXES = (
    *(".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".txt", ".text", ".arrow"),
    *(".gz", ".zst", ".bz2", ".xz", ".zip"),
)
_UNKNOWN = "?"


@dataclass(frozen=True)
class Source:
    """`options` are keys of the section `dataset`, `path` first; `why` says of some what led to them."""

    name: str
    options: Mapping[str, Any]
    dataset: Dataset
    why: Mapping[str, str] = field(default_factory=dict)

    @property
    def partitions(self) -> list[str]:
        """The columns that the dataset's folders give."""
        return list(dict.fromkeys(name for file in self.dataset.files for name in partitions_of(file.path)))

    @property
    def is_local(self) -> bool:
        return all("://" not in file.url for file in self.dataset.files)

    def reopened(self, text: str, kept: list[str]) -> Dataset:
        """The same files, with columns to read; those of folders must be named to be there."""
        pipeline = pipeline_of({**self.options, "text": [text], "keep": [declaration(name) for name in kept]})
        return reopen_dataset(pipeline, JoinedText((text,), "\n"), self.dataset.revision, self.dataset.files)


def find_source(name: str) -> Source:
    """Open a source; of several configs and splits one is chosen, and how files are read is told by their first bytes.

    Raises:
        DatasetError: nothing is there, or it may not be read.
        FormatError: its files are of several formats, or of none that can be read.
        SourceUnavailable: the Hub or another server does not answer.
    """
    _refuse_missing(name)
    options: dict[str, Any] = {"path": name}
    why: dict[str, str] = {}
    dataset = _opened(options, why)
    found = _told_by_bytes(dataset)
    if found or "format" in options:
        options = {option: value for option, value in options.items() if option != "format"} | found
        why[next(iter(found), "")] = "As the bytes of its files show."
        dataset = open_dataset(pipeline_of({**options, "text": _UNKNOWN}), JoinedText((_UNKNOWN,), "\n"))
    return Source(name, options, dataset, why)


def _opened(options: dict[str, Any], why: dict[str, str]) -> Dataset:
    """The dataset, with the options that it took to open it."""
    while True:
        try:
            return open_dataset(pipeline_of({**options, "text": _UNKNOWN}), JoinedText((_UNKNOWN,), "\n"))
        except ChoiceMissing as e:
            if e.noun in options or not e.existing:
                raise
            options[e.noun] = _first_choice(e)
            others = [other for other in e.existing if other != options[e.noun]]
            if others:
                why[e.noun] = f"There are also: {', '.join(others)}."
        except FormatError:
            # A single file whose name says no format may be of one all the same.
            if "format" in options or not Path(options["path"]).is_file():
                raise
            options["format"] = "text"


def _told_by_bytes(dataset: Dataset) -> dict[str, Any]:
    """The options by which the dataset's files are read, where these are not the default ones."""
    files = [file for file in looked_at(dataset) if file.size]
    if not files:
        return {}
    sources = [open_source(file) for file in files]
    first, *others = [detect_file(source) for source in (sources if "://" not in files[0].url else sources[:1])]
    # Files without any letter beyond ASCII are in each of the encodings.
    encodings = [found.encoding for found in (first, *others) if found.encoding != UTF8]
    if not encodings and first.format in TEXT_FORMATS:
        encodings = _encodings_behind_heads(dataset.files)
    return replace(first, encoding=encodings[0] if encodings else first.encoding).options(files[0].path)


def _encodings_behind_heads(files: Sequence[SourceFile]) -> list[str]:
    """What local files are in that are UTF-8 only where they begin; of many bytes, the first ones are looked at."""
    longer = [file for file in files if "://" not in file.url and file.size > HEAD_BYTES]
    totals = itertools.accumulate(file.size for file in longer)
    read = [file for file, total in zip(longer, totals, strict=True) if total <= MOST_BYTES_DECODED]
    return list(filter(None, map(_encoding_behind_head, read)))


def _encoding_behind_head(file: SourceFile) -> str | None:
    decoder = codecs.getincrementaldecoder(UTF8)()
    with Path(file.url).open("rb") as opened:
        for block in iter(lambda: opened.read(HEAD_BYTES), b""):
            if block.startswith(_COMPRESSED):
                return None
            try:
                decoder.decode(block)
            except UnicodeDecodeError:
                return detect("table.csv", block).encoding
    return None


def declaration(name: str) -> str:
    """A column as `dataset.keep` names it: in quotes where it would mean something else."""
    if name and name == name.strip() and '"' not in name and not _AS.search(name):
        return name
    return '"{}"'.format(name.replace('"', '""'))


def pipeline_of(dataset: Mapping[str, Any]) -> Pipeline:
    """A pipeline that reads a dataset and is not run: the least that its readers ask for.

    Raises:
        ConfigError: an option has no such value.
    """
    try:
        return Pipeline.model_validate({"name": "proposed", "dataset": dict(dataset), "model": {"path": "."}})
    except ValidationError as e:
        problem = e.errors()[0]
        option, said = problem["loc"][-1], problem["msg"].removeprefix("Value error, ")
        raise ConfigError(f"dataset.{option} {said}.") from e


def looked_at(dataset: Dataset) -> list[Any]:
    """A few of the dataset's files, the first and the last among them."""
    return list(spread(dataset.files, FILES_LOOKED_AT))


def _refuse_missing(name: str) -> None:
    is_hub_id = name.count("/") <= 1 and not name.startswith((".", "/", "~"))
    looks_local = is_data_file(name) or not is_hub_id
    if not name:
        raise DatasetError("SOURCE is empty. Give a file, a folder, a glob, an address or a Hub id.")
    if "://" not in name and looks_local and not has_magic(name) and not os.path.lexists(name):
        raise DatasetError(
            f"There is no file or folder {name} here. Give a file, a folder, a glob, an address or a Hub id."
        )


def is_data_file(path: str) -> bool:
    """Whether a name is one of a file with rows, and so none of a repository's on the Hub."""
    return Path(path).suffix.lower() in _SUFFIXES


def _first_choice(missing: ChoiceMissing) -> str:
    wanted = [name for name in FIRST_CHOICES[missing.noun] if name in missing.existing]
    return (wanted or list(missing.existing))[0]
