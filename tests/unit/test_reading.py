"""SQL that reads the lake is run, and nothing that does more or reads anything else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import _duckdb
import pytest

from tests.s3 import Bucket
from tests.variants import variants
from tidemill.cli.query import run_query
from tidemill.config import Lake as Section
from tidemill.errors import InputError
from tidemill.lake import Cursor, Lake
from tidemill.lake.ducklake.reading import FILE_FUNCTIONS, LAKE_FUNCTIONS, readable

TREASURE = "what lies beside the lake"


@dataclass(frozen=True)
class Filled:
    """A lake, and beside it what its queries must not reach."""

    spec: Section
    folder: Path

    @property
    def data(self) -> str:
        return self.spec.data

    def run(self, query: str, *folders: Path, output: str = "csv") -> None:
        run_query(
            self.spec, query.format(data=self.data, beside=self.folder / "beside"), output, list(map(str, folders))
        )

    def files(self) -> dict[Path, bytes]:
        """Everything there, but for what SQLite keeps while a catalog is open."""
        found = [path for path in self.folder.rglob("*") if path.is_file() and path.suffix[-4:] not in ("-wal", "-shm")]
        return {path: path.read_bytes() for path in found}


def fill(spec: Section) -> None:
    """Rows in a file and rows in the catalog, a view, three snapshots, and a data file that is to be deleted."""

    def tables(cursor: Cursor) -> None:
        cursor.execute(
            "CREATE TABLE reviews__v AS "
            "SELECT i AS id, if(i % 2 = 0, 'POSITIVE', 'NEGATIVE') AS label, i / 10 AS score FROM range(200) t(i)"
        )
        cursor.execute("CREATE VIEW reviews AS FROM reviews__v")
        cursor.execute("CREATE TABLE small AS SELECT 1 AS n, 'a' AS label")

    with Lake(spec) as lake:
        lake.write(tables, message="make")
        lake.write(lambda cursor: cursor.execute("INSERT INTO small VALUES (2, 'b')"), message="add")
        lake.write(lambda cursor: cursor.execute("CREATE TABLE gone AS FROM reviews__v"), message="add")
        lake.write(lambda cursor: cursor.execute("DROP TABLE gone"), message="drop")
        lake.cursor().execute("CALL ducklake_expire_snapshots('lake', versions => [3])")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    folder = tmp_path_factory.mktemp("filled")
    beside = folder / "beside"
    beside.mkdir()
    for name in ("treasure.csv", "treasure.txt"):
        (beside / name).write_text(f"a\n{TREASURE}\n")
    (beside / "schema.sql").write_text(f"SELECT '{TREASURE}';")
    (beside / "load.sql").write_text("")
    filled = Filled(Section(catalog=f"sqlite:{folder}/lake.sqlite", data=f"{folder}/lake"), folder)
    fill(filled.spec)
    Path(filled.data, "link.csv").symlink_to(beside / "treasure.csv")
    os.environ["TREASURE"] = TREASURE
    yield filled
    del os.environ["TREASURE"]


WRITES = {
    "copy": "COPY (SELECT 1) TO '{beside}/out.csv'",
    "copy_into_data": "COPY (SELECT 1) TO '{data}/out.csv'",
    "copy_over_the_catalog": "COPY (SELECT 1) TO '{data}.sqlite'",
    "copy_pivot": "COPY (PIVOT reviews ON label) TO '{data}/out.csv'",
    "explain_word_in_a_comment": "/*EXPLAIN*/ explain analyze copy (select 1) to '{data}/out.csv'",
    "explain_analyze_copy": "EXPLAIN ANALYZE COPY (SELECT 1) TO '{data}/out.csv'",
    "explain_option_copy": "EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{data}/out.csv'",
    "explain_options_copy": "explain (analyze, format 'json') copy (select 1) to '{data}/out.csv'",
    "explain_comments_copy": "-- SELECT 1\nEXPLAIN/*'*/ANALYZE -- '\nCOPY (SELECT 1) TO '{data}/out.csv'",
    "explain_hard_space_copy": "EXPLAIN\u00a0ANALYZE\u00a0COPY (SELECT 1) TO '{data}/out.csv'",
    "explain_after_letters_beyond_ascii": "/* é漢 */ EXPLAIN ANALYZE COPY (SELECT 'é') TO '{data}/out.csv'",
    "explain_copy_pivot": "EXPLAIN ANALYZE COPY (PIVOT reviews ON label) TO '{data}/out.csv'",
    "explain_delete": "EXPLAIN ANALYZE DELETE FROM small",
    "second_statement": "SELECT 1; COPY (SELECT 1) TO '{data}/out.csv'",
    "after_a_pivot": "PIVOT reviews ON label; COPY (SELECT 1) TO '{data}/out.csv'",
    "create_after_a_pivot": "PIVOT small ON label; CREATE TABLE memory.t AS SELECT 1; SELECT 1",
    "secret_after_a_pivot": "PIVOT small ON label; CREATE SECRET (TYPE s3, KEY_ID 'x'); FROM small",
    "type_before_a_pivot": "CREATE TYPE t AS ENUM ('a'); PIVOT small ON label",
    "drop_after_a_pivot": "PIVOT small ON label; DROP TABLE small",
    "set_after_a_pivot": "PIVOT small ON label; SET VARIABLE x = 1",
    "prepare_copy": "PREPARE p AS COPY (SELECT 1) TO '{data}/out.csv'",
    "prepare_and_execute": "PREPARE p AS COPY (SELECT 1) TO '{data}/out.csv'; EXECUTE p",
    "export": "EXPORT DATABASE '{data}/out'",
    "import": "IMPORT DATABASE '{beside}'",
    "pragma_import": "PRAGMA import_database('{beside}')",
    "copy_database": "COPY FROM DATABASE lake TO memory",
    "insert": "INSERT INTO small VALUES (3, 'c')",
    "update": "UPDATE small SET n = 0",
    "delete": "DELETE FROM small",
    "delete_returning_in_cte": "WITH d AS (DELETE FROM small RETURNING n) FROM d",
    "merge": "MERGE INTO small USING small s ON small.n = s.n WHEN MATCHED THEN DELETE",
    "truncate": "TRUNCATE small",
    "drop": "DROP TABLE small",
    "alter": "ALTER TABLE small ADD COLUMN x INTEGER",
    "comment_on": "COMMENT ON TABLE small IS 'x'",
    "create_table": "CREATE TABLE t AS SELECT 1",
    "create_table_of_a_pivot": "CREATE TABLE memory.t AS PIVOT reviews ON label",
    "create_temp_table": "CREATE TEMP TABLE t AS SELECT 1",
    "create_type_and_select": "CREATE TYPE t AS ENUM ('a'); SELECT 1",
    "create_view": "CREATE TEMP VIEW v AS FROM read_text('{beside}/treasure.txt')",
    "create_macro": "CREATE TEMP MACRO m() AS TABLE FROM glob('*'); FROM m()",
    "create_secret": "CREATE SECRET (TYPE s3, KEY_ID 'x')",
    "into_the_catalog": "DELETE FROM __ducklake_metadata_lake.ducklake_snapshot",
    "attach_file": "ATTACH '{data}/other.db' AS other",
    "attach_memory": "ATTACH ':memory:' AS other",
    "attach_the_catalog": "ATTACH '{data}.sqlite' AS other (TYPE sqlite)",
    "detach": "DETACH lake",
    "use": "USE memory",
    "install": "INSTALL httpfs",
    "load": "LOAD '{beside}/x.duckdb_extension'",
    "set": "SET enable_external_access = true",
    "set_directories": "SET allowed_directories = ['/']",
    "set_profiling_output": "SET profiling_output = '{data}/out.json'",
    "set_temp_directory": "SET temp_directory = '{data}/out'",
    "set_variable": "SET VARIABLE x = 1",
    "reset": "RESET lock_configuration",
    "pragma_profiling": "PRAGMA enable_profiling = 'json'",
    "call_option": "CALL lake.set_option('data_inlining_row_limit', 0)",
    "call_cleanup": "CALL ducklake_cleanup_old_files('lake', cleanup_all => true)",
    "call_logging": "CALL enable_logging(storage => 'file', storage_path => '{data}/logs')",
    "call_force_checkpoint": "CALL force_checkpoint('lake')",
    "checkpoint": "CHECKPOINT lake",
    "force_checkpoint": "FORCE CHECKPOINT",
    "vacuum": "VACUUM",
    "rollback": "ROLLBACK",
}
FUNCTIONS = {
    "cleanup": "FROM ducklake_cleanup_old_files('lake', cleanup_all => true)",
    "cleanup_in_an_expression": "SELECT (SELECT count(*) FROM ducklake_cleanup_old_files('lake', cleanup_all => true))",
    "cleanup_in_a_cte": "WITH c AS (FROM ducklake_cleanup_old_files('lake', cleanup_all => true)) SELECT 1 FROM c",
    "cleanup_in_capitals": "FROM system.main.\"DUCKLAKE_CLEANUP_old_files\"('lake', cleanup_all => true)",
    "cleanup_after_a_hard_space": "FROM ducklake_cleanup_old_files\u00a0('lake', cleanup_all => true)",
    "cleanup_explained": "EXPLAIN ANALYZE FROM ducklake_cleanup_old_files('lake', cleanup_all => true)",
    "cleanup_summarized": "SUMMARIZE FROM ducklake_cleanup_old_files('lake', cleanup_all => true)",
    "cleanup_pivoted": "PIVOT (FROM ducklake_cleanup_old_files('lake', cleanup_all => true)) ON path",
    "cleanup_of_the_lake": "FROM lake.cleanup_old_files(cleanup_all => true)",
    "orphans": "FROM ducklake_delete_orphaned_files('lake', cleanup_all => true)",
    "expire": "FROM ducklake_expire_snapshots('lake', older_than => now())",
    "merge_files": "FROM ducklake_merge_adjacent_files('lake')",
    "rewrite_files": "FROM ducklake_rewrite_data_files('lake')",
    "flush": "FROM ducklake_flush_inlined_data('lake')",
    "add_files": "FROM ducklake_add_data_files('lake', 'small', '{beside}/x.parquet')",
    "option": "FROM ducklake_set_option('lake', 'data_inlining_row_limit', 0)",
    "option_of_the_lake": "FROM lake.set_option('data_inlining_row_limit', 0)",
    "commit_message": "FROM ducklake_set_commit_message('lake', 'me', 'x')",
    "checkpoint_function": "FROM checkpoint('lake')",
    "logging": "FROM enable_logging(storage => 'file', storage_path => '{data}/logs')",
    "profiling": "FROM enable_profiling(save_location => '{data}/out.json')",
    "sqlite_scan": "FROM sqlite_scan('{data}.sqlite', 'ducklake_metadata')",
    "sqlite_query": "FROM sqlite_query('__ducklake_metadata_lake', 'SELECT 1')",
    "sqlite_attach": "FROM sqlite_attach('{data}.sqlite')",
    "postgres_query": "FROM postgres_query('__ducklake_metadata_lake', 'SELECT 1')",
    "postgres_execute": "FROM postgres_execute('__ducklake_metadata_lake', 'DROP TABLE x')",
    "postgres_scan": "FROM postgres_scan('host=127.0.0.1', 'public', 'x')",
    "postgres_attach": "FROM postgres_attach('host=127.0.0.1')",
    "query": "FROM query('FROM sqlite_attach(''{data}.sqlite'')')",
    "query_table": "FROM query_table('__ducklake_metadata_lake.ducklake_metadata')",
    "serialized": "FROM json_execute_serialized_sql(json_serialize_sql('FROM checkpoint(''lake'')'))",
    "pragma_serialized": "PRAGMA json_execute_serialized_sql('{{}}')",
    "planned": "SELECT json_serialize_plan('FROM sqlite_attach(''{data}.sqlite'')')",
    "memory": "FROM arrow_scan(1::UBIGINT, 2::UBIGINT, 3::UBIGINT)",
    "environment": "SELECT getenv('TREASURE')",
    "secrets": "FROM duckdb_secrets(redact => false)",
    "settings": "FROM duckdb_settings()",
    "databases": "FROM duckdb_databases()",
    "databases_view": "FROM duckdb_databases",
    "databases_pragma": "PRAGMA database_list",
    "logs": "FROM duckdb_logs",
    "the_catalogs_tables": "FROM __ducklake_metadata_lake.ducklake_data_file",
    "the_catalogs_tables_in_capitals": 'FROM "__DUCKLAKE_metadata_lake".main.ducklake_data_file',
    "the_catalogs_tables_described": "DESCRIBE __ducklake_metadata_lake.ducklake_data_file",
    "the_catalogs_tables_listed": "SHOW TABLES FROM __ducklake_metadata_lake",
    "the_catalogs_tables_pivoted": "PIVOT __ducklake_metadata_lake.ducklake_metadata ON key",
    "the_catalogs_histogram": "FROM histogram('__ducklake_metadata_lake.ducklake_data_file', path)",
}
FILES = {
    **{name: f"FROM {name}('{{beside}}/treasure.txt')" for name in sorted(FILE_FUNCTIONS)},
    "passwd": "FROM read_text('/etc/passwd')",
    "environ": "FROM read_text('/proc/self/environ')",
    "glob_environ": "FROM read_text('/proc/self/env*')",
    "file_address": "FROM read_text('file://{beside}/treasure.txt')",
    "upwards": "FROM read_text('{data}/../beside/treasure.txt')",
    "list_of_files": "FROM read_csv(['{data}/x.csv', '{beside}/treasure.csv'])",
    "duckdb_file": "FROM read_duckdb('{beside}/x.db')",
    "http": "FROM read_csv('http://127.0.0.1:9/x.csv')",
    "http_as_a_table": "FROM 'http://127.0.0.1:9/x.csv'",
    "s3": "FROM read_parquet('s3://bucket/x.parquet')",
    "huggingface": "FROM 'hf://datasets/a/b/x.parquet'",
    "table": "FROM '{beside}/treasure.csv'",
    "table_in_quotes": 'FROM "{beside}/treasure.csv"',
    "table_of_files": "FROM '{beside}/*.csv'",
    "table_upwards": "FROM '{data}/../beside/treasure.csv'",
    "table_by_a_link": "FROM '{data}/link.csv'",
    "text_by_a_link": "FROM read_text('{data}/link.csv')",
    "table_described": "DESCRIBE '{beside}/treasure.csv'",
    "table_summarized": "SUMMARIZE '{beside}/treasure.csv'",
    "table_pivoted": "PIVOT '{beside}/treasure.csv' ON a",
    "link_pivoted": "PIVOT '{data}/link.csv' ON a",
    "link_pivoted_in_other_letters": r"PIVOT E'{data}/link.c\x73v' ON a",
}
ESCAPES = WRITES | FUNCTIONS | FILES


@pytest.mark.parametrize("name", variants(ESCAPES, [*ESCAPES][::2]))
def test_no_escape_gets_through(lake, name, capfd):
    before = lake.files()

    with pytest.raises(InputError):
        lake.run(ESCAPES[name])

    printed = capfd.readouterr()
    assert lake.files() == before
    assert TREASURE not in printed.out
    assert "daemon" not in printed.out


def test_there_are_many_escapes():
    assert len(ESCAPES) >= 60


BESIDE_THE_FOLDER = {
    "file": "FROM read_text('{beside}/treasure.txt')",
    "table": "FROM '{beside}/treasure.csv'",
    "upwards": "FROM read_text('{data}/../allowed/../beside/treasure.txt')",
    "a_folder_that_is_named_alike": "FROM read_text('{data}/../allowed-not/treasure.txt')",
    "link": "FROM '{data}/../allowed/link.csv'",
    "link_found_by_a_pattern": "FROM read_text('{data}/../allowed/*.csv')",
    "writing": "COPY (SELECT 1) TO '{data}/../allowed/out.csv'",
    "deleting": "FROM ducklake_cleanup_old_files('lake', cleanup_all => true)",
    "catalog": "FROM sqlite_scan('{data}.sqlite', 'ducklake_metadata')",
    "pivot": "PIVOT '{beside}/treasure.csv' ON a",
}


@pytest.fixture
def allowed(lake: Filled) -> Path:
    folder = lake.folder / "allowed"
    folder.mkdir(exist_ok=True)
    (folder / "names.csv").write_text("label,name\nPOSITIVE,good\n")
    (folder / "link.csv").unlink(missing_ok=True)
    (folder / "link.csv").symlink_to(lake.folder / "beside" / "treasure.csv")
    alike = lake.folder / "allowed-not"
    alike.mkdir(exist_ok=True)
    (alike / "treasure.txt").write_text(TREASURE)
    return folder


@pytest.mark.parametrize("name", BESIDE_THE_FOLDER)
def test_a_folder_that_is_allowed_opens_nothing_else(lake, allowed, name, capfd):
    before = lake.files()

    with pytest.raises(InputError):
        lake.run(BESIDE_THE_FOLDER[name], allowed)

    assert lake.files() == before
    assert TREASURE not in capfd.readouterr().out


@pytest.mark.parametrize(
    "query",
    [
        "SELECT name, count(*) FROM reviews JOIN '{beside}/../allowed/names.csv' USING (label) GROUP BY ALL",
        "SELECT name, 100 FROM read_csv('{beside}/../allowed/n*.csv')",
    ],
)
def test_files_in_a_folder_that_is_allowed_can_be_read(lake, allowed, query, capfd):
    lake.run(query.replace("{beside}/..", str(lake.folder)), allowed)

    assert "good,100" in capfd.readouterr().out


def test_a_folder_that_is_not_there_is_told(lake):
    with pytest.raises(InputError, match=r"There is no folder nowhere.*--allow"):
        lake.run("SELECT 1", Path("nowhere"))


READS = {
    "select": ("SELECT count(*) FROM reviews", "200"),
    "comment_first": ("-- how many\n/* rows */ SELECT count(*) FROM reviews;", "200"),
    "several": ("SELECT 1; ; SELECT count(*) FROM reviews ;", "200"),
    "from_first": ("FROM small", "1,a"),
    "values": ("VALUES (41 + 1)", "42"),
    "table": ("TABLE small", "1,a"),
    "in_parentheses": ("(SELECT 42)", "42"),
    "cte": ("WITH r AS (FROM reviews WHERE id < 3) SELECT count(*) FROM r", "3"),
    "recursive": (
        "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 9) SELECT max(i) FROM r",
        "9",
    ),
    "pivot": (
        "PIVOT (SELECT id % 2 = 0 AS even, label FROM reviews) ON label USING count(*) GROUP BY even",
        "true,0,100",
    ),
    "pivot_in_a_cte": ("WITH p AS (PIVOT small ON label USING count(*) GROUP BY n) FROM p ORDER BY n", "1,1,0"),
    "pivot_of_named_values": ("PIVOT small ON label IN ('a', 'b') USING sum(n)", "1,2"),
    "pivot_between_others": ("SELECT 1; PIVOT small ON label; SELECT count(*) FROM reviews", "200"),
    "unpivot": ("UNPIVOT small ON n INTO NAME what VALUE number", "a,n,1"),
    "summarize": ("SUMMARIZE reviews", "NEGATIVE"),
    "describe": ("DESCRIBE reviews", "label,VARCHAR"),
    "describe_query": ("DESCRIBE SELECT 1 AS one", "one,INTEGER"),
    "show_tables": ("SHOW TABLES", "reviews"),
    "show_databases": ("SHOW DATABASES", "lake"),
    "pragma_table_info": ("PRAGMA table_info('small')", "label"),
    "explain": ("EXPLAIN SELECT label FROM reviews", "reviews__v"),
    "explain_analyze": ("EXPLAIN ANALYZE SELECT count(*) FROM reviews", "Total Time"),
    "explain_options": ("EXPLAIN (FORMAT json) FROM (SELECT 1)", "physical_plan"),
    "version": ("SELECT count(*) FROM small AT (VERSION => 1)", "1"),
    "time": ("SELECT count(*) FROM reviews AT (TIMESTAMP => now())", "200"),
    "snapshots": ("SELECT commit_message FROM ducklake_snapshots('lake')", "make"),
    "snapshots_of_the_lake": ("SELECT commit_message FROM lake.snapshots()", "make"),
    "changes": ("SELECT change_type, n FROM ducklake_table_changes('lake', 'main', 'small', 2, 2)", "insert,2"),
    "insertions": ("SELECT n FROM ducklake_table_insertions('lake', 'main', 'small', 2, 2)", "2"),
    "files": ("SELECT count(*) FROM ducklake_list_files('lake', 'reviews__v')", "1"),
    "columns": ("SELECT column_name FROM information_schema.columns WHERE table_name = 'reviews'", "score"),
    "unnest": ("SELECT sum(x) FROM (SELECT unnest([20, 22]) AS x)", "42"),
    "a_column_called_as_a_function": ("SELECT query.glob FROM (SELECT 42 AS glob) AS query", "42"),
    "a_file_name_as_text": ("SELECT replace('x.csv', 'x.csv', '42')", "42"),
}


@pytest.mark.parametrize("name", READS)
def test_what_reads_is_run(lake, name, capfd):
    query, expected = READS[name]

    lake.run(query)

    assert expected in capfd.readouterr().out


@pytest.mark.parametrize("output", ["table", "csv", "json"])
def test_a_pivot_is_printed_in_every_format(lake, output, capfd):
    lake.run("PIVOT (SELECT label FROM reviews) ON label USING count(*)", output=output)

    printed = capfd.readouterr().out
    assert "POSITIVE" in printed
    assert "100" in printed


def test_a_pivot_that_is_explained_says_how_to_name_its_values(lake):
    with pytest.raises(InputError, match=r"neither explained nor stored.*IN \(\.\.\.\)"):
        lake.run("EXPLAIN PIVOT reviews ON label")


def test_every_table_function_that_is_let_through_exists(lake):
    """And takes no SQL, no address and no path, but where that is what its list is for."""
    with Lake(lake.spec, read_only=True, one_snapshot=True) as opened:
        known = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type IN ('table', 'table_macro')"
        functions = {name for (name,) in opened.cursor().execute(known).fetchall()}

    of_the_lake = {name for name in LAKE_FUNCTIONS if f"ducklake_{name}" in LAKE_FUNCTIONS}
    assert LAKE_FUNCTIONS - functions - of_the_lake == set()
    assert FILE_FUNCTIONS - functions == set()


@pytest.mark.parametrize(
    "statement",
    [
        "FROM read_text('/etc/passwd')",
        "FROM '{beside}/treasure.csv'",
        "COPY (SELECT 1) TO '{beside}/out.csv'",
        "ATTACH '{beside}/other.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "CREATE TABLE t AS SELECT 1",
        "INSERT INTO __ducklake_metadata_lake.ducklake_metadata VALUES ('a', 'b', NULL, NULL)",
    ],
)
def test_a_sealed_lake_refuses_by_itself_what_was_not_judged(lake, statement):
    before = lake.files()
    with Lake(lake.spec, read_only=True, one_snapshot=True) as sealed:
        sealed.seal()

        with pytest.raises(_duckdb.Error, match=r"disabled|locked|read-only"):
            sealed.cursor().execute(statement.format(beside=lake.folder / "beside"))

    assert lake.files() == before


SOME_READS = ["select", "pivot", "version", "time", "changes", "from_first", "summarize"]


def test_a_lake_in_postgresql_is_read_when_it_is_sealed(tmp_path, postgres_catalog, capfd):
    spec = Section(catalog=postgres_catalog, data=f"{tmp_path}/lake")
    fill(spec)

    for query, expected in (READS[name] for name in SOME_READS):
        run_query(spec, query, "csv")
        assert expected in capfd.readouterr().out
    for name in ("postgres_query", "postgres_execute", "postgres_scan", "the_catalogs_tables", "databases", "cleanup"):
        with pytest.raises(InputError):
            run_query(spec, ESCAPES[name], "csv")


@pytest.mark.slow
def test_a_lake_with_data_on_s3_is_read_when_it_is_sealed(tmp_path, bucket: Bucket, capfd):
    spec = Section(catalog=f"sqlite:{tmp_path}/lake.sqlite", data=bucket.address("lake"))
    fill(spec)
    bucket.put("lake-beside/treasure.csv", TREASURE.encode())

    for query, expected in (READS[name] for name in SOME_READS):
        run_query(spec, query, "csv")
        assert expected in capfd.readouterr().out
    for address in (bucket.address("lake-beside/treasure.csv"), bucket.address("lake/../lake-beside/treasure.csv")):
        with pytest.raises(InputError):
            run_query(spec, f"FROM read_text('{address}')", "csv", [str(tmp_path)])
    with pytest.raises(InputError):
        run_query(spec, f"COPY (SELECT 1) TO '{bucket.address('lake/out.csv')}'", "csv")
    assert bucket.keys("lake/out") == []


STRANGERS = {
    "a view": "CREATE VIEW trap AS FROM ducklake_cleanup_old_files('lake', cleanup_all => true)",
    "a macro of a table": "CREATE MACRO trap() AS TABLE FROM ducklake_cleanup_old_files('lake', cleanup_all => true)",
    "a macro": "CREATE MACRO trap() AS (SELECT count(*) FROM ducklake_cleanup_old_files('lake', cleanup_all => true))",
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_lakes_own_view_or_macro_that_does_more_than_read_is_not_run(tmp_path, kind, capfd):
    spec = Section(catalog=f"sqlite:{tmp_path}/lake.sqlite", data=f"{tmp_path}/lake")
    fill(spec)
    call = "SELECT trap()" if kind == "a macro" else "FROM trap()" if "macro" in kind else "FROM trap"
    with Lake(spec) as opened:
        opened.write(lambda cursor: cursor.execute(STRANGERS[kind]), message="trap")
        opened.write(lambda cursor: cursor.execute(f"CREATE VIEW wrapped AS {call}"), message="wrap")
    files = sorted(Path(spec.data).rglob("*"))

    for query in (call, "FROM wrapped", call.replace("trap", "TRAP")):
        with pytest.raises(InputError, match=r"of this lake calls (trap|ducklake_cleanup_old_files)\(\)"):
            run_query(spec, query, "csv")
    run_query(spec, "SELECT count(*) FROM reviews", "csv")

    assert "200" in capfd.readouterr().out
    assert sorted(Path(spec.data).rglob("*")) == files


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "There is no statement"),
        (";", "There is no statement"),
        ("DROP TABLE small", r"only reads; this is DROP: DROP TABLE small"),
        ("FROM read_csv('x.csv')", r"read_csv\(\) reads files.*--allow FOLDER"),
        ("FROM 'x.csv'", r"x\.csv reads files.*--allow FOLDER"),
        ("FROM checkpoint('lake')", r"checkpoint\(\) may do more"),
    ],
)
def test_a_refusal_says_what_is_refused(lake, query, says):
    with Lake(lake.spec, read_only=True, one_snapshot=True) as opened, pytest.raises(InputError, match=says):
        readable(opened.cursor(), query)
