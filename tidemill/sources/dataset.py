"""What exists: a dataset at a revision, as a list of files that can be read by range.

A place is a path in the repository, or relative to the folder that was given;
a content id is the Hub's, the object store's, or a hash. A dataset on the Hub
has a commit for its revision; one given by address or path is named by the
fingerprint of its listing.
"""

from __future__ import annotations

import functools
import glob
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from tidemill import config
from tidemill.config import Pipeline
from tidemill.errors import (
    FAILS_ALONE,
    DatasetError,
    FileChanged,
    FileUnreadable,
    FormatError,
    SchemaError,
    SourceUnavailable,
)
from tidemill.formats import (
    COLUMNAR,
    KEPT_PREFIX,
    Columns,
    PartitionedReader,
    Reader,
    check_columns,
    check_type,
    format_of,
    identity_of,
    inner_name,
    open_reader,
    partitions_of,
    plain_type,
    says_nothing,
    settle_schema,
)
from tidemill.places import BEGIN, is_hub_id, missing
from tidemill.retry import logger, retrying
from tidemill.shards import Slice, SourceFile
from tidemill.sources import hub, hub_datasets, objects
from tidemill.sources.byte_files import ByteFile, open_source, unreadable
from tidemill.sources.hashes import hash_files, stamp
from tidemill.sources.listing import (
    LeftOut,
    Listing,
    alike,
    by_card,
    called_otherwise,
    named_by_listing,
    not_given_back,
    recorded_options,
    way_of_reading,
    with_options,
)
from tidemill.sources.local_files import list_folder, list_pattern, local_base
from tidemill.values.columns import HEAD_BYTES, JoinedText
from tidemill.values.text_kinds import TextKinds

MAX_OPEN_READERS = 64
MAX_OPEN_TEXTS = 256
"""As many text files as go together: their readers hold what was cut of them until it is read."""
MAX_LOOKED_AT = MAX_OPEN_READERS
"""How many files say which types the columns have, where they are not local: of those, all do."""
LOOKED_AT_BYTES = MAX_LOOKED_AT * HEAD_BYTES
"""How much of the heads of local text files is read for that, all files together, but of each some."""
LEAST_HEAD_BYTES = 1 << 14
SAMPLE_BYTES = 1 << 16


class Dataset:
    """One dataset at one revision, and its open readers. Several threads may call `rows`, and one all the rest."""

    def __init__(self, spec: config.Dataset, text: JoinedText, listing: Listing, *, retries: int) -> None:
        self._spec, self._text, self.retries = spec, text, retries
        self._opening = threading.Lock()
        self._reading: set[str] = set()
        """The files, by address, whose kept readers are in use."""
        self._readers: OrderedDict[str, Reader] = OrderedDict()
        self._sources: dict[str, ByteFile] = {}
        self._formats: dict[str, str] = {}
        self.revision, self.files = listing.revision, listing.files
        self._columns = self.columns((), {})
        self._checked: set[str] = set()
        """The local files that have the text and key columns, by their address."""
        self._alike: dict[tuple[str, str], dict[str, None]] = {}
        self._misfits: dict[tuple[str, pa.DataType], dict[str, None]] = {}
        self._kinds = TextKinds()
        self._left_out, self._notes = listing.left_out, listing.notes
        self.shard_bytes = int(spec.shard_bytes)
        formats = {self._format(file): file for file in self.files}
        if len(formats) > 1:
            named = ", ".join(f"{file.path} ({name})" for name, file in sorted(formats.items()))
            raise FormatError(f"The dataset mixes formats: {named}. Narrow dataset.path to files of one format.")
        self.cut_from_footer = next(iter(formats)) in COLUMNAR

    @property
    def is_remote(self) -> bool:
        """Whether reading waits for a server."""
        return not is_local(self.files[0])

    @property
    def notes(self) -> list[str]:
        """What of the dataset is not read, though somebody may have meant it."""
        empty = tuple(file.path for file in self.files if not file.size and not self.cut_from_footer)
        without_rows = [LeftOut(empty, "empty")] if empty else []
        others = [called_otherwise(*names, list(paths)) for names, paths in self._alike.items()]
        misfits = [not_given_back(*column, list(paths)) for column, paths in self._misfits.items()]
        return list(map(str, (*self._left_out, *without_rows, *others, *misfits, *self._kinds.notes, *self._notes)))

    def columns(
        self,
        kept: Sequence[tuple[str, str]],
        types: Mapping[str, pa.DataType],
        *,
        converted: Collection[str] = (),
        num_keys: int = 0,
    ) -> Columns:
        declared = {name: arrow_type_named(name, kind) for name, kind in self._spec.types.items()}
        return Columns(
            text=self._text.columns,
            pair=self._text.pair,
            separator=self._text.separator,
            as_parts=self._text.as_parts,
            kept=tuple((source, KEPT_PREFIX + name) for source, name in kept),
            types=tuple({**types, **declared}.items()),
            converted=tuple(dict.fromkeys((*converted, *declared))),
            num_keys=num_keys,
            delimiter=self._spec.delimiter,
            quote=self._spec.quote,
            escape=self._spec.escape,
            header=self._spec.header,
            names=tuple(self._spec.names),
            encoding=self._spec.encoding,
            field=self._spec.field,
            head_bytes=self._head_bytes,
        )

    @property
    def _head_bytes(self) -> int:
        """How much of each file's front is looked at: of many local ones less."""
        number = len(self.files) if is_local(self.files[0]) else MAX_LOOKED_AT
        return min(HEAD_BYTES, max(LOOKED_AT_BYTES // number, LEAST_HEAD_BYTES))

    def use(self, columns: Columns) -> None:
        """Read these columns from now on."""
        if columns != self._columns:
            self._columns = columns
            self._readers.clear()

    def reader(self, file: SourceFile) -> Reader:
        with self._opening:
            return self._kept_reader(file)

    def _kept_reader(self, file: SourceFile) -> Reader:
        if file.url not in self._readers:
            self._readers[file.url] = self._open(file)
            if len(self._readers) > (MAX_OPEN_READERS if self.cut_from_footer else MAX_OPEN_TEXTS):
                url, _ = self._readers.popitem(last=False)
                del self._sources[url]
        self._readers.move_to_end(file.url)
        return self._readers[file.url]

    def rows(self, file: SourceFile, cut: Slice) -> pa.Table:
        """The rows of a slice. While one thread reads a file, another that reads it too has a reader of its own."""
        with self._opening:
            reader = self._kept_reader(file)
            if is_first := file.url not in self._reading:
                self._reading.add(file.url)
            else:
                reader = self._open(file)
        try:
            return reader.rows(cut)
        except BaseException:
            self.forget(file)
            raise
        finally:
            if is_first:
                self._reading.discard(file.url)

    def reads_apart(self, file: SourceFile, cut: Slice) -> bool:
        """Whether a slice is read without what lies before it, so that the slice before may be read meanwhile."""
        try:
            return self.reader(file).reads_apart(cut)
        except (*FAILS_ALONE, SourceUnavailable):  # Whoever reads the rows is told, and asks again.
            self.forget(file)
            return False

    def _open(self, file: SourceFile) -> Reader:
        if file.url not in self._sources:
            self._sources[file.url] = open_source(file)
        open_file = functools.partial(open_reader, self._format(file), self._sources[file.url])
        if partitions := _asked_partitions(self._spec, file.url):
            return PartitionedReader(open_file, self._columns, partitions)
        return open_file(self._columns)

    def forget(self, file: SourceFile) -> None:
        """Open the file anew next time: after an error its reader may be anywhere."""
        with self._opening:
            self._readers.pop(file.url, None)
            self._sources.pop(file.url, None)

    def schema(self) -> pa.Schema:
        """The files' columns, those in use of the type that holds what every file shows: see `settle_schema`.

        All local files are looked at; of others some, the first and the last among
        them, or one if nothing is kept.

        Raises:
            DatasetError: there are no rows.
            SchemaError: a file lacks a text or key column, or two have a column of types that no type holds.
            InputError: what is wrong with the first file, if none can be read.
        """
        shown: dict[pa.Schema, list[SourceFile]] = {}
        failures: list[Exception] = []
        for file in self.files if is_local(self.files[0]) else spread(self.files):
            try:
                schema = self._checked_schema(file, self._columns.needed)
            except FAILS_ALONE as e:
                self.forget(file)
                failures.append(e)
                continue
            if len(schema):
                shown.setdefault(schema, []).append(file)
                if not (self._columns.kept or is_local(file)):
                    break
        if shown:
            return self._settled(shown)
        if failures:
            raise failures[0]
        raise DatasetError(f"The dataset {self._spec.path} has no rows. Check dataset.path, config and split.")

    def _checked_schema(self, file: SourceFile, columns: Columns) -> pa.Schema:
        schema = self.reader(file).schema()
        if len(schema):
            check_columns(schema, columns, file.path)
        for name in self._columns.sources:
            if name not in schema.names and (other := alike(name, schema.names)) is not None:
                self._alike.setdefault((name, other), {})[file.path] = None
        self._checked.add(file.url)
        self._look_at_texts(file, schema)
        return schema

    def _look_at_texts(self, file: SourceFile, schema: pa.Schema) -> None:
        """What the file's columns of texts hold; beside a file that has come, the first one's are looked at too."""
        if not self._columns.as_parts:
            return
        first = self.files[0]
        if first.path not in self._kinds and file != first and is_local(first):
            with suppress(*FAILS_ALONE):  # Whoever reads its rows is told.
                self._kinds.look(first.path, self.reader(first).schema(), self._columns.texts)
        self._kinds.look(file.path, schema, self._columns.texts)

    def _settled(self, shown: Mapping[pa.Schema, Sequence[SourceFile]]) -> pa.Schema:
        """The schema of all files; a column is text where its type does not give back what a file's head shows."""
        one_of_each = {files[0].path: schema for schema, files in shown.items()}
        last = list(shown.values())[-1][-1]
        settled = settle_schema(one_of_each, self._columns, self.reader(last).common_type)
        for name in {source for source, _ in self._columns.kept} - dict(self._columns.types).keys():
            at = settled.get_field_index(name)
            if at >= 0 and not self._is_given_back(name, settled.field(at).type, shown):
                settled = settled.set(at, pa.field(name, pa.string()))
        return settled

    def _is_given_back(self, name: str, to: pa.DataType, shown: Mapping[pa.Schema, Sequence[SourceFile]]) -> bool:
        if self.cut_from_footer or pa.types.is_string(to):
            return True
        others = [
            files
            for schema, files in shown.items()
            if name in schema.names and not schema.field(name).type.equals(to)
            if not pa.types.is_null(schema.field(name).type)
        ]
        return all(self._gives_back(file, name, to) for files in others for file in files)

    def _gives_back(self, file: SourceFile, name: str, to: pa.DataType) -> bool:
        try:
            return self.reader(file).gives_back(name, to)
        except FAILS_ALONE:  # since it was looked at
            self.forget(file)
            return True

    def check(self, schema: pa.Schema, columns: Columns) -> None:
        """Check that the columns are there in some file at least."""
        check_columns(schema, replace(columns, types=()), self.files[0].path)

    def check_file(self, file: SourceFile, kept: Sequence[tuple[str, pa.DataType]]) -> None:
        """Refuse a file that lacks columns, or whose kept columns do not become the table's types.

        Of a text file, what does not fit is refused row by row, and noted where
        the first rows show it. One that is not local is not opened.

        Raises:
            SchemaError: what it lacks, or that it has another type, and how to make them agree.
        """
        if not self.cut_from_footer:
            if is_local(file) and file.url not in self._checked:
                self._checked_schema(file, self._columns)
                self._note_misfits(file)
            return
        schema = self.reader(file).schema()
        self._look_at_texts(file, schema)
        for source, expected in kept:
            if schema.names.count(source) == 1:
                check_type(source, schema.field(source).type, expected, file.path, declared=source in self._spec.types)

    def _note_misfits(self, file: SourceFile) -> None:
        for name, to in self._columns.types:
            is_exact = name not in self._columns.converted and not pa.types.is_string(to)
            if is_exact and not self.reader(file).gives_back(name, to):
                self._misfits.setdefault((name, to), {})[file.path] = None

    def bytes_per_row(self, file: SourceFile) -> float | None:
        """Of a text file's first rows; None if it has none."""
        cut = next(self.reader(file).slices(shard_bytes=SAMPLE_BYTES), None)
        return cut.text_bytes / cut.num_rows if cut and cut.num_rows else None

    def _format(self, file: SourceFile) -> str:
        if self._spec.field is not None:
            return "json"
        if self._spec.format != "auto":
            return self._spec.format
        if file.path not in self._formats:
            self._formats[file.path] = self._format_within(file) if says_nothing(file.path) else format_of(file.path)
        return self._formats[file.path]

    def _format_within(self, file: SourceFile) -> str:
        """Of a ZIP archive whose own name says no format, that of the file within."""
        name = retrying(lambda: inner_name(open_source(file)), retries=self.retries)
        format_name = format_of(name)
        if format_name in COLUMNAR:
            raise FormatError(
                f"{file.path} holds {name}, which is read by ranges and not through compression. Unpack it, or set "
                f'dataset.path = "zip://{name}::{file.url}".'
            )
        return format_name


def named(spec: config.Dataset) -> dict[str, str | None]:
    """What says which dataset is meant."""
    return {"path": spec.path, "config": spec.config, "split": spec.split, "revision": spec.revision}


def is_on_hub(spec: config.Dataset) -> bool:
    return spec.path.startswith("hf://") or is_hub_id(spec.path, of="dataset")


def open_dataset(
    pipeline: Pipeline, text: JoinedText, known: Listing | None = None, tell: Callable[[str], object] = logger.warning
) -> Dataset:
    """Resolve the pipeline's dataset to a revision and list its files, once.

    Where the Hub does not answer, or is not to be asked, the dataset stays as it
    is `known` from before; `tell` is told.

    Raises:
        DatasetError: nothing is there, or it may not be read.
        FormatError: files of several formats, or of one that is not supported.
        SourceUnavailable: the source did not answer well for long, and nothing is known.
    """
    listing = _list(pipeline.dataset) if known is None else _list_or_stay(pipeline.dataset, known, tell)
    said_by_card = by_card(pipeline.dataset, listing)
    spec = with_options(pipeline.dataset, said_by_card)
    if not listing.files:
        raise DatasetError(
            " ".join(
                [
                    f"dataset.path = {spec.path!r} matches no files. Check the path. {BEGIN}",
                    *map(str, listing.left_out),
                ]
            )
        )
    way = way_of_reading(spec, said_by_card)
    partitions = [_asked_partitions(spec, file.url) for file in listing.files]
    files = tuple(
        replace(file, content=file.content + identity_of(asked) + way)
        for file, asked in zip(listing.files, partitions, strict=True)
    )
    # A revision lists one content of each file: with other columns of folders, it is another revision.
    placed = identity_of(dict.fromkeys(name for asked in partitions for name in asked))
    listing = replace(listing, revision=listing.revision + placed + way, files=files)
    return Dataset(spec, text, listing, retries=pipeline.limits.retries)


def _asked_partitions(spec: config.Dataset, url: str) -> dict[str, str | None]:
    """The columns of a file's folders that are kept; nothing else makes another content of the same bytes."""
    asked = {source for source, _ in spec.kept}
    return {name: value for name, value in partitions_of(url).items() if name in asked}


def spread(files: Sequence[SourceFile], most: int = MAX_LOOKED_AT) -> Sequence[SourceFile]:
    """At most so many of the files, evenly spread, the first and the last among them."""
    if len(files) <= most:
        return files
    return [files[index * (len(files) - 1) // (most - 1)] for index in range(most)]


def is_local(file: SourceFile) -> bool:
    return "://" not in file.url


def settle(spec: config.Dataset, file: SourceFile) -> SourceFile:
    """A file that was listed before, as it lies there now; a dataset's folder may have moved as a whole.

    Raises:
        FileChanged: a local file is not the one that was recorded.
        FileUnreadable: it may not be read.
    """
    if "://" in file.url:
        return file
    moved = Path(local_base(spec.path)) / file.path
    url = str(moved if moved.exists() else file.url)
    try:
        before, sha256 = stamp(url), hash_files([url])[url]
    except FileNotFoundError as e:
        raise FileChanged(f"{file.path} is gone. `tidemill run` takes up the dataset as it is now.") from e
    except PermissionError as e:
        raise unreadable(file.path) from e
    if file.stored != f"sha256:{sha256}":
        raise FileChanged(
            f"{file.path} was changed after it was listed. `tidemill run` takes up the dataset as it is now."
        )
    return replace(file, url=url, stamp=before)


def settle_first(spec: config.Dataset, files: Sequence[SourceFile]) -> SourceFile:
    """The first of some files that still lies there as it was listed.

    Raises:
        TidemillError: what is wrong with the first, if none does.
    """
    failures: list[FileChanged | FileUnreadable] = []
    for file in files:
        try:
            return settle(spec, file)
        except (FileChanged, FileUnreadable) as e:
            failures.append(e)
    raise failures[0]


def reopen_dataset(pipeline: Pipeline, text: JoinedText, revision: str, files: Sequence[SourceFile]) -> Dataset:
    """A dataset at a revision that was listed before, of settled files: nothing is listed again."""
    spec = recorded_options(pipeline.dataset, revision)
    return Dataset(spec, text, Listing(revision, tuple(files)), retries=pipeline.limits.retries)


def arrow_type_named(column: str, name: str) -> pa.DataType:
    """A type by Arrow's name, or by the lake's SQL, which has names for nested ones: `STRUCT(price DOUBLE)[]`.

    Raises:
        SchemaError: neither knows it.
    """
    try:
        return pa.type_for_alias(name)
    except ValueError:
        pass
    import duckdb

    try:
        known = duckdb.type(name)
        return plain_type(duckdb.sql(f"SELECT NULL::{known} AS v").to_arrow_table().schema.field("v").type)
    except duckdb.Error as e:
        raise SchemaError(
            f"dataset.types.{column} = {name!r} is neither an Arrow type nor a type of SQL. "
            "Give one such as int64, double, string, bool, DECIMAL(10, 2) or STRUCT(price DOUBLE)[]."
        ) from e


def _list(spec: config.Dataset) -> Listing:
    try:
        return _list_remote(spec) if "://" in spec.path else _list_local(spec)
    except OSError as e:
        raise DatasetError(f"dataset.path = {spec.path!r} cannot be listed: {e}.") from e


def _list_or_stay(spec: config.Dataset, known: Listing, tell: Callable[[str], object]) -> Listing:
    if hub.is_offline():
        return known
    try:
        with hub.impatient():
            return _list(spec)
    except SourceUnavailable as e:
        tell(f"The Hub does not answer, so the dataset stays at commit {known.revision[:12]}. {e}")
        return known


def _list_remote(spec: config.Dataset) -> Listing:
    match = hub.ADDRESS.fullmatch(spec.path)
    if match and match["path"] is None:
        return _list_repository(match["repo"], spec, match["revision"] or spec.revision)
    _refuse_split(spec)
    if spec.path.startswith("hf://"):
        return hub_datasets.list_address(spec.path)
    return named_by_listing(*objects.list_files(spec.path))


def _list_local(spec: config.Dataset) -> Listing:
    if is_hub_id(spec.path, of="dataset"):
        return _list_repository(spec.path, spec, spec.revision)
    path = Path(spec.path)
    if path.is_dir():
        return list_folder(spec)
    if path.is_file() or glob.has_magic(spec.path):
        _refuse_split(spec)
        return list_pattern(spec.path)
    raise DatasetError(missing(spec.path, of="dataset"))


def _list_repository(repo: str, spec: config.Dataset, revision: str) -> Listing:
    return hub_datasets.list_split(repo, config=spec.config, revision=revision, split=spec.split)


def _refuse_split(spec: config.Dataset) -> None:
    for option, value, only in (("split", spec.split, "train"), ("config", spec.config, None)):
        if value != only:
            raise DatasetError(
                f"dataset.{option} = {value!r} does not apply to files given by path or address: they form one "
                f"split, train. Remove dataset.{option}, or name the files that you mean."
            )
    if spec.revision != "main":
        raise DatasetError("dataset.revision does not apply to files given by path or address. Remove it.")
