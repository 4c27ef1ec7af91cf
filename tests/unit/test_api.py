"""Tidemill from Python: the functions of `tidemill`, what they give, and where they may be called."""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

import tidemill
from tests.pipelines import MODEL, ROOT, make_pipeline, reviews, write_parquet
from tidemill.api.facts import Facts
from tidemill.api.progress import Line, in_notebook, shown_progress
from tidemill.api.result import Result
from tidemill.errors import ConfigError, LakeError, PlaceUnusable, TidemillError
from tidemill.pipeline_file import Overrides
from tidemill.progress import Expected, Quiet

FUNCTIONS = ("plan", "run", "sql", "status", "verify")
NUM_ROWS = 12


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with the pipeline file that the README speaks of."""
    monkeypatch.chdir(tmp_path)
    write_parquet(tmp_path / "data" / "a.parquet", reviews(0, NUM_ROWS))
    (tmp_path / "reviews.toml").write_text(
        f'name = "reviews"\n[dataset]\npath = "data/*.parquet"\ntext = "text"\nkey = ["id"]\n[model]\n'
        f'path = "{MODEL}"\n[inference]\nengine = "torch"\ndtype = "float32"\n'
    )
    return tmp_path


def test_the_readmes_five_lines_do_what_they_say(folder):
    page = (ROOT / "README.md").read_text()
    [block] = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    for line in [line for line in block.splitlines() if line]:
        expression, _, said = line.partition("#")
        if said.strip() and not expression.strip().startswith(("import", "result =")):
            assert repr(eval(expression, names)) == said.strip() or said.strip().startswith("or")
        else:
            exec(expression, names)
    assert isinstance(names["result"], tidemill.RunResult)
    assert (names["result"].state, names["result"].num_rows) == ("done", NUM_ROWS)


@pytest.mark.slow
def test_each_function_can_be_called_again_and_in_a_thread_and_within_an_event_loop(folder):
    pipeline = tidemill.load_pipeline("reviews.toml")

    def twice() -> tuple[object, ...]:
        return tuple(
            (
                tidemill.run(source).state,
                tidemill.plan(source).up_to_date,
                tidemill.status(source).rows,
                tidemill.verify(source).problems,
                tidemill.sql(source, "SELECT count(*) FROM reviews").fetchall(),
            )
            for source in (folder / "reviews.toml", pipeline)
        )

    async def within() -> tuple[object, ...]:
        return twice()

    answer: tuple[object, ...] = ("done", True, NUM_ROWS, [], [(NUM_ROWS,)])
    expected = (answer,) * 2
    assert asyncio.run(within()) == expected
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(twice).result() == expected


def test_no_module_takes_the_place_of_a_public_name_whatever_is_imported_before():
    for found in pkgutil.iter_modules(tidemill.__path__, "tidemill."):
        importlib.import_module(found.name)
        assert found.name.removeprefix("tidemill.") not in tidemill.__all__
    for order in permutations(FUNCTIONS):
        for name in order * 2:
            assert callable(getattr(tidemill, name))


@pytest.mark.slow
def test_a_function_stays_one_after_it_was_called_in_a_fresh_interpreter(folder):
    script = (
        "import itertools, tidemill\n"
        f"for order in itertools.permutations({FUNCTIONS}):\n"
        "    for name in order * 2:\n"
        "        try:\n"
        "            getattr(tidemill, name)('absent.toml', *(['SELECT 1'] if name == 'sql' else []))\n"
        "        except tidemill.TidemillError as e:\n"
        "            assert 'absent.toml' in str(e)\n"
        "        else:\n"
        "            raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_values_are_overridden_by_key_or_as_on_the_command_line(folder):
    by_key = {"limits.retries": 1, "dataset.path": folder / "other"}
    given: tuple[Overrides, ...] = (by_key, ["limits.retries=1", "dataset.path=./other"])
    for overrides in given:
        with pytest.raises(TidemillError, match=f"There is no file or folder {folder}/other"):
            tidemill.plan("reviews.toml", overrides=overrides)
        with pytest.raises(TidemillError, match=f"There is no file or folder {folder}/other"):
            tidemill.plan(tidemill.load_pipeline("reviews.toml"), overrides=overrides)
    with pytest.raises(ConfigError, match=r"unknown key limits.retry. Did you mean limits.retries"):
        tidemill.status(tidemill.load_pipeline("reviews.toml"), overrides={"limits.retry": 1})
    with pytest.raises(ConfigError, match="has more than 64 bits"):
        tidemill.status("reviews.toml", overrides={"limits.retries": 2**70})


def test_what_is_wrong_is_an_error_of_tidemills_with_its_exit_code(folder, monkeypatch):
    for call in (tidemill.plan, tidemill.run, tidemill.status, tidemill.verify):
        with pytest.raises(ConfigError, match=r"There is no pipeline file absent.toml") as refused:
            call("absent.toml")
        assert (refused.value.exit_code, refused.value.retryable) == (2, False)
    with pytest.raises(LakeError, match="There is no lake"):
        tidemill.sql("reviews.toml", "SELECT 1")
    (folder / "blocked").touch()
    with pytest.raises(TidemillError, match="blocked"):
        tidemill.run("reviews.toml", overrides={"lake.catalog": "sqlite:blocked/lake.sqlite"})
    monkeypatch.setattr("tidemill.reports.status.pipeline_status", lambda _: Path("absent").read_text())
    with pytest.raises(PlaceUnusable, match="absent cannot be used: No such file"):
        tidemill.status("reviews.toml")


def test_a_lake_without_a_table_has_no_rows(folder):
    assert (tidemill.status("reviews.toml").rows, tidemill.plan("reviews.toml").up_to_date) == (0, False)
    assert not (folder / "home" / "lake.sqlite").exists()


def test_sql_refuses_what_would_write_and_what_is_no_sql(folder):
    tidemill.run("reviews.toml")
    for query, said in (
        ("DROP TABLE reviews", "read"),
        ("SELEC 1", "syntax error"),
        ("SELECT nope FROM reviews", "nope"),
    ):
        with pytest.raises(TidemillError, match=said) as refused:
            tidemill.sql("reviews.toml", query)
        assert refused.value.exit_code == 2


@pytest.mark.slow
def test_a_result_stays_when_the_lake_is_gone_and_has_each_form(folder):
    tidemill.run("reviews.toml")
    source = f"sqlite:{folder}/home/lake.sqlite"
    result = tidemill.sql(source, "SELECT row_number, label, score FROM reviews ORDER BY row_number")
    (folder / "home" / "lake.sqlite").unlink()
    assert (len(result), result.columns) == (NUM_ROWS, ["row_number", "label", "score"])
    assert [row[0] for row in result] == [row[0] for row in result.fetchall()] == list(range(NUM_ROWS))
    assert result.df()["row_number"].tolist() == result.arrow()["row_number"].to_pylist() == list(range(NUM_ROWS))
    assert "row_number" in repr(result)


def test_a_result_of_names_that_occur_twice_has_each_column():
    table = pa.table([[1], [2], [3]], names=["n", "n", "N"])
    result = Result(table)
    assert (result.columns, result.fetchall()) == (["n", "n_1", "N_2"], [(1, 2, 3)])
    assert list(result.df()) == ["n", "n_1", "N_2"]


def test_a_form_whose_package_is_missing_names_it(monkeypatch):
    for name in ("polars", "pandas"):
        monkeypatch.setitem(sys.modules, name, None)
    result = Result(pa.table({"n": [1]}))
    with pytest.raises(TidemillError, match="pip install polars"):
        result.pl()
    with pytest.raises(TidemillError, match="pip install pandas"):
        result.df()


def test_rows_become_a_polars_frame():
    pytest.importorskip("polars")
    assert Result(pa.table({"n": [1, 2]})).pl()["n"].to_list() == [1, 2]


def test_facts_have_their_keys_as_attributes_and_are_json():
    facts = Facts({"files": {"new": ["a"]}, "rows": 3})
    assert (facts.files.new, facts.rows, json.loads(json.dumps(facts))) == (["a"], 3, dict(facts))
    assert {"files", "rows"} <= set(dir(facts))
    with pytest.raises(AttributeError, match="There is no 'row' among files, rows"):
        facts.row  # noqa: B018


def tell(line: Line) -> None:
    line.planned(Expected("reviews", "v", "r", num_shards=2, num_rows=1000))
    line.committed("a", shards=1, rows=500, tokens=1, quarantined=0)
    line.note("a\nnote")
    line.committed("b", shards=1, rows=499, tokens=1, quarantined=1)
    line.end()


def test_progress_is_one_line_that_is_written_over_and_lines_where_it_cannot_be():
    over, piped = io.StringIO(), io.StringIO()
    tell(Line(over, over=True))
    tell(Line(piped, over=False))
    lines = [re.sub(r", [\d,]+ rows/s", "", line) for line in piped.getvalue().splitlines()]
    assert lines == [
        "reviews: 0/2 shards, 0/1,000 rows",
        "reviews: 1/2 shards, 500/1,000 rows",
        "a note",
        "reviews: 2/2 shards, 1,000/1,000 rows",
    ]
    assert over.getvalue().count("\n") == 2
    assert over.getvalue().splitlines()[-1].split("\r")[-1].startswith("reviews: 2/2 shards, 1,000/1,000 rows")


def test_progress_is_shown_in_a_notebook_or_where_it_is_asked_for(monkeypatch):
    assert not in_notebook()
    mine = Quiet()
    for asked, shown in ((None, Quiet), (False, Quiet), (True, Line)):
        with shown_progress(asked) as progress:
            assert type(progress) is shown
    with shown_progress(mine) as progress:
        assert progress is mine
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    with shown_progress(None) as progress:
        assert type(progress) is Line


def test_the_version_is_the_packages():
    assert tidemill.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.slow
def test_a_pipeline_of_pythons_own_making_runs(tmp_path):
    write_parquet(tmp_path / "data" / "a.parquet", reviews(0, 3))
    assert tidemill.run(make_pipeline(tmp_path / "lake", f"{tmp_path}/data/*.parquet")).num_rows == 3
