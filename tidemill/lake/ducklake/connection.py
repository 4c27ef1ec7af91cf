"""A DuckLake, attached; and the one lock that every write transaction holds.

Without the lock, SQLite writers fail with "database is locked" and PostgreSQL
lets two transactions that replace one shard both commit. Readers take no lock.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import _duckdb as duckdb  # The package around it opens a database of its own when it is imported: see decision 25.

from tidemill.errors import ConfigError, LakeError, PlaceUnusable
from tidemill.lake.ducklake import postgres
from tidemill.lake.ducklake.catalog import (
    BUSY_SECONDS,
    LakeSpec,
    address_and_passwords,
    catalog_exists,
    data_path,
    recorded_data_path,
    remember_data_path,
    shown,
    sqlite_file,
)
from tidemill.lake.ducklake.locks import open_lock
from tidemill.places import is_s3, make_folder

LAYOUT_VERSION = 7
NUM_COMMIT_ATTEMPTS = 10
SETTINGS = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    # A name in SQL is a table, never a variable of the Python that runs it.
    "python_enable_replacements": "false",
}
CATALOG = "__ducklake_metadata_lake"
"""Under which name DuckDB shows a lake's catalog: DuckLake's own tables."""

SYSTEM_REFUSES = (
    "no space left",
    "disk is full",
    "disk quota exceeded",
    "file too large",
    "permission denied",
    "read-only file system",
    "readonly database",
    "disk i/o error",
    "input/output error",
    "too many open files",
)
"""What is in an error of DuckDB's or SQLite's where a place is at fault, and not the statement."""

Cursor = duckdb.DuckDBPyConnection
T = TypeVar("T")


class Lake:
    """One lake, open for reading, or for reading and writing.

    Cursors may be used from several threads, one thread a cursor. `any_layout`
    is for whoever migrates it. With `one_snapshot` there is one cursor, and all
    of its statements see the lake as it was when it was opened. Whoever `scans`
    whole tables gets all threads: small statements take half as long on one.

    Raises:
        LakeError: it does not exist (read-only), cannot be reached, keeps its
            data elsewhere, or was written in another layout.
    """

    is_laid_out: bool
    """Whether all system tables were there when it was opened; False where that was not looked at."""

    def __init__(
        self,
        spec: LakeSpec,
        *,
        read_only: bool = False,
        any_layout: bool = False,
        one_snapshot: bool = False,
        scans: bool = False,
    ) -> None:
        self.spec = spec
        self.read_only, self._is_one_snapshot = read_only, one_snapshot
        self._lock = open_lock(spec)
        recorded = recorded_data_path(spec)
        if read_only and recorded is None:
            raise LakeError(f"There is no lake at {shown(spec)} yet. `tidemill run` makes it.")
        # A lake's own catalog may name data on S3 where its reader names none, and may be moved there.
        places = [place for place in (recorded, data_path(spec)) if place]
        self._data = next(filter(is_s3, places), places[0])
        self._connection = _connect(spec, self._data)
        if read_only:
            self._attach(spec, create=False)
        else:
            with self._lock.held():
                self._attach(spec, create=not catalog_exists(spec))
        if one_snapshot:
            self._connection.execute("BEGIN")
            self._connection.execute("USE lake")
        self.is_laid_out = not any_layout and self._check_layout()
        if scans:
            self._connection.execute("RESET threads")

    @property
    def data(self) -> str:
        """Where the Parquet files lie."""
        path = self._connection.execute("SELECT data_path FROM ducklake_settings('lake')").fetchall()[0][0]
        return str(path).rstrip("/")

    def cursor(self) -> Cursor:
        if self._is_one_snapshot:
            return self._connection
        cursor = self._connection.cursor()
        cursor.execute("USE lake")
        return cursor

    @contextmanager
    def snapshot(self) -> Iterator[Cursor]:
        """A cursor whose statements all see the lake as it is at the first of them.

        What DuckLake has read of its catalog it keeps until the end: a look at a
        table that was looked at before takes 1 ms, for 7 to 14 of a statement by itself.
        Nothing else is to be waited for in the block: `gc` and `forget` may wait for its end.
        """
        if self._is_one_snapshot:
            yield self._connection
            return
        cursor = self._begin()
        try:
            yield cursor
        finally:
            with suppress(duckdb.Error):  # A lost connection has nothing to end.
                cursor.execute("ROLLBACK")

    def _begin(self) -> Cursor:
        """A cursor within a transaction: to name the lake takes a look at the catalog, which is the transaction's."""
        cursor = self._connection.cursor()
        try:
            cursor.execute("BEGIN")
            cursor.execute("USE lake")
        except BaseException:
            cursor.close()
            raise
        return cursor

    def renew(self) -> None:
        """With `one_snapshot`, let the statements to come see the lake as it is now, whatever failed before."""
        with suppress(duckdb.Error):  # A lost connection has nothing to end.
            self._connection.execute("ROLLBACK")
        self._connection.execute("BEGIN")

    def seal(self, folders: Sequence[str] = (), outlet: str | None = None) -> None:
        """From now on nothing in SQL reaches files or addresses beyond the lake's data and `folders`, or undoes that.

        DuckDB takes such a place for reading and writing: whose SQL is run is for `lake.ducklake.reading` to judge.
        `outlet` is one file more, through which results leave.

        Raises:
            ConfigError: there is no such folder.
        """
        if missing := [folder for folder in folders if not Path(folder).is_dir()]:
            raise ConfigError(f"There is no folder {missing[0]}. Give --allow one that exists.")
        places = [self.data, *(str(Path(folder).resolve()) for folder in folders)]
        listed = ", ".join(f"'{_quoted(place)}/'" for place in places)
        self._connection.execute(f"SET allowed_directories = [{listed}]")
        if outlet:
            self._connection.execute(f"SET allowed_paths = ['{_quoted(outlet)}']")
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")

    def write(self, body: Callable[[Cursor], T], *, message: str, author: str = "tidemill") -> T:
        """Run `body` in one transaction, under the lake's lock; its snapshot carries `message`.

        A conflict rolls back and repeats the whole body, so `body` must only
        write through the cursor it is given.

        Raises:
            LakeLocked: another writer held the lock longer than `lake.lock_timeout_seconds`.
            LakeUnavailable: the catalog's server went away; whether the transaction was committed is not known.
        """
        for attempt in range(NUM_COMMIT_ATTEMPTS):
            with self._lock.held(), self.reached():
                cursor = self._begin()
                try:
                    result = body(cursor)
                    cursor.execute("CALL lake.set_commit_message(?, ?)", [author, message])
                    cursor.execute("COMMIT")
                    return result
                except (duckdb.TransactionException, duckdb.IOException, duckdb.SerializationException) as e:
                    _rollback(cursor)
                    if isinstance(e, duckdb.IOException) and is_s3(self._data):
                        _raise_known(e, self._data)
                    if not _is_conflict(e) or attempt == NUM_COMMIT_ATTEMPTS - 1:
                        raise
                except BaseException:
                    _rollback(cursor)
                    raise
                finally:
                    cursor.close()
        raise AssertionError("unreachable")

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Translate what DuckDB raises where the catalog's server does not answer, or the disk takes no more.

        Raises:
            LakeUnavailable: the server does not answer; a new cursor finds it when it does.
            PlaceUnusable: there is no space, or no right to write.
        """
        try:
            yield
        except duckdb.Error as e:
            if self.spec.catalog.startswith("postgres:") and postgres.is_lost(e):
                raise postgres.meaning(e, shown(self.spec)) from e
            if line := _what_the_system_refused(e):
                raise PlaceUnusable(
                    f"The lake at {shown(self.spec)}, with its data in {self._data}, cannot be used: {line}. "
                    "Free space or give this user the right to it, or set lake.catalog and lake.data to another place."
                ) from e
            raise

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lake's lock for what is no transaction of the lake's, such as a VACUUM of its catalog."""
        with self._lock.held():
            yield

    def close(self) -> None:
        self._connection.close()
        self._lock.close()

    def __enter__(self) -> Lake:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _attach(self, spec: LakeSpec, *, create: bool) -> None:
        options = ["READ_ONLY"] if self.read_only else []
        if spec.catalog.startswith("sqlite:"):
            options += [f"META_BUSY_TIMEOUT {1000 * BUSY_SECONDS}"] + (
                [] if self.read_only else ["META_JOURNAL_MODE 'WAL'"]
            )
            if create:
                make_folder(Path(sqlite_file(spec)).parent, "lake.catalog")
        if create:
            if "://" not in spec.data:
                make_folder(Path(spec.data), "lake.data")
            options += [f"DATA_PATH '{_quoted(data_path(spec))}'"]
        elif moved := self._moved_data(spec):
            options += [f"DATA_PATH '{_quoted(moved)}'", "OVERRIDE_DATA_PATH true"]
        target, given = _quoted(_absolute_catalog(spec)), f" ({', '.join(options)})" if options else ""
        try:
            with self.reached():
                self._connection.execute(f"ATTACH 'ducklake:{target}' AS lake{given}")
        except duckdb.Error as e:
            raise LakeError(f"The lake at {shown(spec)} cannot be opened: {e}. Check lake.catalog.") from e
        if create:
            remember_data_path(spec)

    def _moved_data(self, spec: LakeSpec) -> str | None:
        """Where the data lies now, if the whole lake was moved; refuses a second place for one lake's data."""
        recorded, asked = recorded_data_path(spec), data_path(spec)
        if recorded is None or recorded.rstrip("/") == asked.rstrip("/") or not spec.names_data:
            return None if recorded is None or _reachable(recorded) or not _reachable(asked) else asked
        if not _reachable(recorded) and _reachable(asked):
            return asked
        raise LakeError(
            f"The lake at {shown(spec)} keeps its data in {recorded}, but lake.data is {asked}. "
            f'Set lake.data = "{recorded.rstrip("/")}", or lake.catalog to another lake.'
        )

    def _check_layout(self) -> bool:
        """Whether the lake has all of its system tables."""
        try:
            ((found,),) = self._connection.execute("SELECT max(layout_version) FROM lake._layout").fetchall()
        except duckdb.CatalogException:  # A lake that is being made has no tables yet, or an empty one.
            return False
        if found not in (None, LAYOUT_VERSION):
            raise LakeError(layout_message(self.spec, found))
        return found is not None


def layout_message(spec: LakeSpec, layout: int) -> str:
    """What to do about a lake of another layout than this Tidemill's."""
    way_out = (
        f"Back it up, then run `tidemill migrate '{shown(spec)}'`."
        if layout < LAYOUT_VERSION
        else "Use a Tidemill as new as the one that wrote it, or another lake.catalog."
    )
    return f"The lake at {shown(spec)} has layout {layout}; this Tidemill uses layout {LAYOUT_VERSION}. {way_out}"


def _connect(spec: LakeSpec, data: str) -> Cursor:
    """DuckDB with the extensions that the lake needs, and with no others.

    Their files lie beside DuckDB itself, installed by the same means, so they
    are as good as it: to hash their tens of megabytes for their signature
    would take a fifth of a second of every command. Whatever a user's SQL
    loads later must be signed again, and nothing can undo that.

    It has one thread: what DuckLake asks its catalog is so small that to share
    it among threads takes longer, the more so beside a model that keeps all cores busy.
    """
    secret = {} if spec.catalog.startswith("sqlite:") else address_and_passwords(spec)[1]
    kind = "sqlite_scanner" if spec.catalog.startswith("sqlite:") else "postgres_scanner"
    files = [extension_file(name) for name in ("ducklake", kind, *(["httpfs"] if is_s3(data) else []))]
    connection = duckdb.connect(config={**SETTINGS, "allow_unsigned_extensions": "true", "threads": "1"})
    for file in files:
        connection.execute(f"LOAD '{_quoted(file)}'")
    connection.execute("SET allow_unsigned_extensions = false")
    if secret:
        # Whatever DuckDB attaches by, it shows in its messages and in its list of databases.
        given = "".join(f", {name.upper()} '{_quoted(value)}'" for name, value in secret.items())
        connection.execute(f"CREATE SECRET (TYPE postgres{given})")
    # A commit that another one came before fails, and is made anew on what that one left. DuckLake by itself would
    # commit two transactions that replace one shard, and the lock that keeps them apart can be lost with its session.
    connection.execute("SET ducklake_max_retry_count = 0")
    if is_s3(data):
        from tidemill.lake.ducklake import s3

        s3.create_secret(connection)
        s3.check_data(connection, data)
    return connection


def extension_file(name: str) -> str:
    """Extensions come as wheels, of the very version of DuckDB, so nothing is downloaded at run time."""
    package = importlib.util.find_spec(f"duckdb_extension_{name}")
    if package is None or package.origin is None:
        raise LakeError(
            f"The DuckDB extension {name} is missing. pip install duckdb-extension-{name.replace('_', '-')}."
        )
    return str(Path(package.origin).parent / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension")


def is_interrupt(error: BaseException) -> bool:
    """Whether DuckDB took the user's Ctrl-C for itself: it raises one of these in its place."""
    return isinstance(error, duckdb.InterruptException) or str(error) == "Query interrupted"


def _raise_known(error: duckdb.IOException, data: str) -> None:
    from tidemill.lake.ducklake import s3

    if known := s3.meaning(error, data):
        raise known from error


def _rollback(cursor: Cursor) -> None:
    try:
        cursor.execute("ROLLBACK")
    except duckdb.Error:  # The failed statement may have ended the transaction by itself.
        return


def _what_the_system_refused(error: duckdb.Error) -> str | None:
    """The line of an error that says so; None of other errors."""
    lines = [line.strip().rstrip(".") for line in str(error).splitlines()]
    return next((line for line in lines if any(sign in line.lower() for sign in SYSTEM_REFUSES)), None)


def _is_conflict(error: duckdb.Error) -> bool:
    text = str(error).lower()
    signs = ("conflict", "database is locked", "could not serialize", "deadlock", "duplicate key", "unique constraint")
    return any(sign in text for sign in signs)


def _reachable(path: str) -> bool:
    return "://" in path or Path(path).exists()


def _absolute_catalog(spec: LakeSpec) -> str:
    return (
        f"sqlite:{sqlite_file(spec)}"
        if spec.catalog.startswith("sqlite:")
        else f"postgres:{address_and_passwords(spec)[0]}"
    )


def _quoted(text: str) -> str:
    return text.replace("'", "''")
