"""The command line's contract: streams, exit codes, formats, and what a user sees."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.commands import TIDEMILL, answer, environment, heed_ctrl_c, held_after, tidemill, write_toml
from tests.pipelines import ROOT, make_pipeline, reviews, run, write_parquet
from tests.processes import PATIENCE_SECONDS
from tidemill.lake import Lake

ONE_BY_ONE = "[limits]\nshards_in_flight = 1\nshards_together = 1\n"


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, Path]:
    """A pipeline file and a home in which it has run."""
    folder = tmp_path_factory.mktemp("done")
    for i in range(2):
        write_parquet(folder / "data" / f"{i}.parquet", reviews(50 * i, 20))
    pipeline, home = write_toml(folder, f"{folder}/data/*"), folder / "home"
    ran = tidemill("run", pipeline, "--direct", home=home)
    assert ran.returncode == 0, ran.stderr
    assert "40 rows" in ran.stdout
    assert "shard 2/2" in ran.stderr
    return pipeline, home


def test_every_command_answers_in_json(done):
    pipeline, home = done
    assert answer("plan", pipeline, home=home)["up_to_date"]
    assert answer("run", pipeline, home=home)["num_shards"] == 0
    status = answer("status", pipeline, home=home)
    assert (status["shards"]["done"], status["rows"]) == (2, 40)
    assert answer("verify", pipeline, home=home)["problems"] == []
    assert answer("sql", pipeline, "SELECT count(*) AS n FROM reviews", home=home) == [{"n": 40}]


@pytest.mark.slow
def test_every_command_answers_in_words(done):
    pipeline, home = done
    for command, said in (
        (("plan",), "Up to date"),
        (("run",), "up to date"),
        (("status",), "2 done"),
        (("verify",), "Every invariant holds."),
    ):
        answered = tidemill(*command, pipeline, home=home)
        assert (answered.returncode, said in answered.stdout) == (0, True), answered


def test_sql_prints_a_table_csv_json_and_parquet(done):
    pipeline, home = done
    query = "SELECT id, label, score FROM reviews ORDER BY id"
    table = tidemill("sql", pipeline, query, home=home).stdout
    assert "label" in table
    rows = list(csv.DictReader(io.StringIO(tidemill("sql", pipeline, query, "--format", "csv", home=home).stdout)))
    found = json.loads(tidemill("sql", pipeline, query, "--format", "json", home=home).stdout)
    assert [row["id"] for row in rows] == [row["id"] for row in found]
    raw = subprocess.run(
        [*TIDEMILL, "sql", str(pipeline), query, "--format", "parquet"],
        env=environment(home),
        cwd=home.parent,
        capture_output=True,
        check=True,
    ).stdout
    assert pq.read_table(io.BytesIO(raw)).num_rows == len(rows) == 40


def test_sql_answers_alike_with_and_without_a_parser(done):
    pipeline, home = done
    words = ("sql", pipeline, "SELECT id, label FROM reviews ORDER BY id")
    plain, parsed = tidemill(*words, home=home), tidemill(*words, "--set", "lake.lock_timeout_seconds=1", home=home)
    assert (plain.returncode, plain.stdout) == (0, parsed.stdout)
    assert "review-" in plain.stdout or "40 rows" in plain.stdout


def test_sql_may_begin_with_a_comment(done):
    pipeline, home = done
    assert answer("sql", pipeline, "-- how many\nSELECT count(*) AS n FROM reviews", home=home) == [{"n": 40}]


def test_sql_needs_no_more_of_a_pipeline_file_than_its_lake(done, tmp_path):
    _, home = done
    broken, misspelt = tmp_path / "broken.toml", tmp_path / "misspelt.toml"
    broken.write_text(f'[lake]\ncatalog = "sqlite:{home}/lake.sqlite"\n[model]\nrevison = "main"\n')
    misspelt.write_text(f'[laek]\ncatalog = "sqlite:{home}/lake.sqlite"\n')
    assert answer("sql", broken, "SELECT count(*) AS n FROM reviews", home=home) == [{"n": 40}]
    refused = tidemill("sql", misspelt, "SELECT 1", home=home)
    assert refused.returncode == 2
    assert "unknown key laek. Did you mean lake" in refused.stderr


def test_sql_takes_a_lake_instead_of_a_pipeline(done):
    _, home = done
    for lake in (home / "lake.sqlite", f"sqlite:{home}/lake.sqlite"):
        assert answer("sql", lake, "SELECT count(*) AS n FROM _runs WHERE state = 'done'", home=home)[0]["n"] >= 1


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM reviews",
        "DROP VIEW reviews",
        "COPY reviews TO 'x.csv'",
        "EXPLAIN ANALYZE COPY reviews TO 'x.csv'",
        "SELECT nothing FROM reviews",
        "SELEC",
    ],
)
def test_sql_only_reads(done, query):
    pipeline, home = done
    refused = tidemill("sql", pipeline, query, home=home)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Traceback" not in refused.stderr
    assert answer("sql", pipeline, "SELECT count(*) AS n FROM reviews", home=home) == [{"n": 40}]


def test_time_travel_works_through_the_view(done):
    pipeline, home = done
    travelled = answer(
        "sql", pipeline, "SELECT count(*) AS n FROM reviews AT (TIMESTAMP => now()::TIMESTAMP)", home=home
    )
    assert travelled == [{"n": 40}]


@pytest.mark.slow
def test_verify_exits_1_and_says_what_is_wrong(tmp_path):
    pipeline = make_pipeline(tmp_path / "home", f"{tmp_path}/data/*")
    for i in range(2):
        write_parquet(tmp_path / "data" / f"{i}.parquet", reviews(50 * i, 20))
    run(pipeline)
    with Lake(pipeline.lake) as lake:
        (table,) = lake.cursor().execute("SELECT 'reviews__' || promoted_version FROM _pipelines").fetchall()[0]
        lake.write(lambda cursor: cursor.execute(f"DELETE FROM {table} WHERE row_number = 3"), message="damage")
    found = tidemill("verify", write_toml(tmp_path, f"{tmp_path}/data/*"), home=tmp_path / "home")
    assert found.returncode == 1
    assert "a shard has not the number of rows that the ledger says: 2 found" in found.stdout


def test_a_limit_tries_the_pipeline_and_leaves_the_tables_alone(tmp_path):
    write_parquet(tmp_path / "data" / "0.parquet", reviews(0, 20))
    pipeline, home = write_toml(tmp_path, f"{tmp_path}/data/*"), tmp_path / "home"
    tried = tidemill("run", pipeline, "--limit", "3", home=home)
    assert (tried.returncode, len(tried.stdout.strip().splitlines())) == (0, 5), tried.stderr
    assert not (home / "lake.sqlite").exists()
    assert len(answer("run", pipeline, "--limit", "3", home=home)) == 3


def start_run(pipeline: Path, home: Path, **extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TIDEMILL, "run", str(pipeline), "--direct"],
        env=environment(home, **extra),
        cwd=home.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )


def wait_for_line(running: subprocess.Popen[str], start: str) -> None:
    assert running.stderr is not None
    assert any(line.startswith(start) for line in running.stderr), f"the run ended without {start!r}"


@pytest.mark.slow
def test_ctrl_c_stops_a_run_and_the_next_one_goes_on(tmp_path):
    for i in range(4):
        write_parquet(tmp_path / "data" / f"{i:02}.parquet", reviews(40 * i, 20))
    pipeline, home = write_toml(tmp_path, f"{tmp_path}/data/*", extra=ONE_BY_ONE), tmp_path / "home"
    running = start_run(pipeline, home, PYTHONPATH=held_after(1, tmp_path / "held"))
    wait_for_line(running, "shard 1/")
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 1
    assert "goes on from there" in out + err
    assert "Traceback" not in err
    committed = answer("status", pipeline, home=home)
    assert 0 < committed["shards"]["done"] < 4
    assert committed["runs"][0]["state"] == "stopped"
    assert answer("run", pipeline, "--direct", home=home)["num_shards"] == 4 - committed["shards"]["done"]


def test_help_imports_nothing_heavy():
    heavy = ["torch", "transformers", "datasets", "prefect", "duckdb", "pyarrow", "pydantic"]
    script = (
        "import sys, typer.testing; from tidemill.cli.everyday import app; "
        "out = typer.testing.CliRunner().invoke(app, ['--help']); assert 'verify' in out.output; "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_engine_runs_where_prefect_is_not_installed(tmp_path):
    write_parquet(tmp_path / "data" / "0.parquet", reviews(0, 10))
    pipeline, home = write_toml(tmp_path, f"{tmp_path}/data/*"), tmp_path / "home"
    without: Any = {"home": home, "absent": ["prefect"]}
    versions = "SELECT version AS name FROM _versions"

    for command, *options in (["run", "--direct"], ["plan"], ["status"], ["verify"]):
        done = tidemill(command, pipeline, *options, **without)
        assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    asked = tidemill("sql", pipeline, versions, "--format", "json", **without)
    [version] = [row["name"] for row in json.loads(asked.stdout)]
    compared = tidemill("compare", pipeline, version, version, **without)
    assert compared.returncode == 0, compared.stderr
    write_parquet(tmp_path / "data" / "1.parquet", reviews(20, 10))
    refused = tidemill("run", pipeline, **without)
    assert (refused.returncode, "--direct" in refused.stderr) == (2, True), refused.stderr


@pytest.mark.slow
def test_a_killed_run_is_completed_by_the_command_line(tmp_path):
    for i in range(4):
        write_parquet(tmp_path / "data" / f"{i:02}.parquet", reviews(40 * i, 20))
    pipeline, home = write_toml(tmp_path, f"{tmp_path}/data/*", extra=ONE_BY_ONE), tmp_path / "home"
    running = start_run(pipeline, home, PYTHONPATH=held_after(2, tmp_path / "held"))
    wait_for_line(running, "shard 2/")
    running.kill()
    running.communicate()
    assert answer("run", pipeline, "--direct", home=home)["state"] == "done"
    assert answer("sql", pipeline, "SELECT count(*) AS n FROM reviews", home=home) == [{"n": 80}]
    assert tidemill("verify", pipeline, home=home).returncode == 0
