"""The documentation as a contract: what exists is described, and what is described exists."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tests import pages
from tests.pages import DOCS, PAGES, name_of
from tests.pipelines import ROOT
from tidemill.cli.everyday import app
from tidemill.config import Lake as Section
from tidemill.config import Pipeline, known_keys, load_pipeline
from tidemill.lake import Lake
from tidemill.lake.ducklake.reading import readable
from tidemill.lake.tables import ROW_COLUMNS, SYSTEM_TABLES
from tidemill.models.tasks import MODEL_TASKS

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
GLOBAL_OPTIONS = {"--help"}


def options(command: str) -> set[str]:
    return {option for param in COMMANDS[command].params for option in param.opts if option.startswith("--")}


def blocks(page: Path, language: str | None = None) -> list[str]:
    return [block.text for block in pages.blocks(page) if language in (None, block.language)]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """(file, anchor) of every link to something in the repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


def section(page: str, heading: str) -> str:
    found = re.search(rf"^### {heading}\n(.*?)(?=^##)", page, flags=re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {heading}"
    return found[1]


def typed_commands() -> Iterator[tuple[str, str]]:
    """(page, what follows `tidemill`) of every command line in the pages' blocks."""
    for page in PAGES:
        for block in blocks(page):
            joined = re.sub(r'"[^"]*"', lambda quoted: quoted[0].replace("\n", " "), block)
            for line in joined.splitlines():
                if found := re.match(r"^(?:\$ )?(?:[A-Z_]+=\S+ )?tidemill (.+)$", line):
                    yield name_of(page), found[1]


def test_every_command_has_a_page_and_every_page_a_command():
    assert {page.stem for page in (DOCS / "commands").glob("*.md")} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_page_describes_its_options_and_no_others(command):
    page = (DOCS / "commands" / f"{command}.md").read_text()

    assert set(re.findall(r"^\| `(--[a-z-]+)", page, flags=re.MULTILINE)) == options(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_page_says_how_it_ends_and_gives_examples(command):
    page = DOCS / "commands" / f"{command}.md"

    assert {"options", "exit-codes", "examples"} <= anchors(page)
    assert f"tidemill {command} " in page.read_text()


def test_the_index_leads_to_every_page():
    linked = {path for path, _ in links(DOCS / "index.md")}

    assert {page.resolve() for page in DOCS.rglob("*.md")} - linked == {DOCS / "index.md"}


def test_the_site_has_every_page():
    named = re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)

    assert sorted(named) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", ["plan", "run"])
def test_a_page_that_repeats_the_tutorials_output_says_what_it_says(page):
    tutorial = (DOCS / "tutorial.md").read_text().splitlines()
    [repeated] = [block for block in pages.blocks(DOCS / "commands" / f"{page}.md") if block.printed]

    assert repeated.printed
    assert set(repeated.printed) <= set(tutorial)


@pytest.mark.parametrize(("page", "line"), list(typed_commands()))
def test_a_command_line_in_the_docs_names_a_command_and_options_that_exist(page, line):
    command, *args = shlex.split(re.sub(r"[\[\]]|\.\.\.", " ", line))

    assert command in COMMANDS
    assert {arg for arg in args if arg.startswith("--")} <= options(command) | GLOBAL_OPTIONS


def typed_queries() -> Iterator[tuple[str, str, bool]]:
    """(page, query, whether files are allowed) of the pages' blocks of SQL and of their command lines."""
    for page in PAGES:
        # What is installed is for DuckDB by itself.
        yield from ((name_of(page), block, False) for block in blocks(page, "sql") if "INSTALL" not in block)
    for name, line in typed_commands():
        words = shlex.split(line)
        if words[0] == "sql" and "QUERY" not in line and len(words) > 2 and not words[2].startswith("--f"):
            yield name, words[2], "--allow" in line


@pytest.fixture(scope="module")
def empty_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    folder = tmp_path_factory.mktemp("empty")
    spec = Section(catalog=f"sqlite:{folder}/lake.sqlite", data=f"{folder}/lake")
    Lake(spec).close()
    with Lake(spec, read_only=True, one_snapshot=True) as lake:
        yield lake


@pytest.mark.parametrize(("page", "query", "files"), list(typed_queries()))
def test_a_query_in_the_docs_is_one_that_sql_runs(empty_lake, page, query, files):
    assert readable(empty_lake.cursor(), query, files=files)


def test_every_key_of_the_pipeline_file_is_described():
    page = (DOCS / "pipeline-file.md").read_text()
    sections = {key.partition(".")[0] for key in known_keys(Pipeline) if "." in key}

    for key in known_keys(Pipeline):
        assert (f"### [{key}]" if key in sections else f"| `{key}` |") in page, key


def test_the_tables_of_the_pipeline_files_keys_are_those_that_make_docs_writes(monkeypatch):
    monkeypatch.delenv("TIDEMILL_HOME")
    spec = importlib.util.spec_from_file_location("docs_keys", DOCS / "keys.py")
    assert spec is not None
    assert spec.loader is not None
    keys = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(keys)

    page, training = keys.PAGE.read_text(), keys.TRAINING_PAGE.read_text()

    assert keys.page_with_tables(page) == page
    assert keys.training_page_with_tables(training) == training


@pytest.mark.parametrize("table", SYSTEM_TABLES)
def test_every_column_of_a_system_table_is_described(table):
    described = section((DOCS / "lake.md").read_text() + "\n##", table)

    for column in re.findall(r"(\w+) [A-Z]+", SYSTEM_TABLES[table]):
        assert f"`{column}`" in described, column


def test_every_column_that_all_result_tables_have_is_described():
    page = (DOCS / "lake.md").read_text()

    for column in ROW_COLUMNS:
        assert f"| `{column}` |" in page, column


def test_the_readme_names_every_model_task():
    readme = (ROOT / "README.md").read_text()

    assert all(f"`{task}`" in readme for task in MODEL_TASKS)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings_that_exist(page):
    for path, anchor in links(page):
        assert path.exists(), path
        assert not anchor or anchor in anchors(path), f"{path}#{anchor}"


@pytest.mark.parametrize(
    ("page", "block"), [(name_of(page), block) for page in PAGES for block in blocks(page, "toml")]
)
def test_a_pipeline_file_in_the_docs_can_be_loaded(tmp_path, page, block):
    rest = "" if "name = " in block else blocks(ROOT / "README.md", "toml")[0]
    (tmp_path / "pipeline.toml").write_text(rest + block)

    load_pipeline(tmp_path / "pipeline.toml")


def test_a_message_that_troubleshooting_quotes_is_one_that_the_code_says():
    page = (DOCS / "troubleshooting.md").read_text()
    quoted = re.findall(r"^\| (?:`` (.+?) ``|`(.+?)`) \|", page, flags=re.MULTILINE)
    assert len(quoted) == page.count("\n| `")
    said = texts_of_the_code()

    assert [message for message in map("".join, quoted) if not any(message in text for text in said)] == []


def texts_of_the_code() -> set[str]:
    """Every text that the engine and its commands have, `…` in place of what is filled in."""
    found = set()
    for path in [path for folder in ("tidemill", "flows", "tasks") for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant):
                found.add(str(node.value))
    return found


def test_the_readmes_pipeline_is_the_bundled_one(tmp_path):
    (tmp_path / "readme.toml").write_text(blocks(ROOT / "README.md", "toml")[0])
    (tmp_path / "bundled.toml").write_text((ROOT / "data" / "pipelines" / "reviews.toml").read_text())

    assert load_pipeline(tmp_path / "readme.toml") == load_pipeline(tmp_path / "bundled.toml")


def test_the_top_of_the_changelog_is_the_packages_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    [top, *_] = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert top == version
