"""How the engine is laid out: which files may lie in a room, and who may write SQL on system tables."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

from tests.pipelines import ROOT
from tidemill.lake.tables import SYSTEM_TABLES, SYSTEM_VIEWS

PACKAGE = ROOT / "tidemill"
LARGE = {"cli", "flows"}
MOST_FILES = 10
NAMES = "|".join({*SYSTEM_TABLES, *SYSTEM_VIEWS})
SQL = re.compile(rf"\b(FROM|JOIN|INTO|UPDATE|TABLE|DELETE FROM)\s+({NAMES})\b")
REQUESTS = re.compile(r"\b(FROM|JOIN|INTO|UPDATE)\s+_requests\b")


def modules() -> list[Path]:
    """Flows and tasks are reached through links, which `rglob` does not follow."""
    linked = [path for name in ("flows", "tasks") for path in (PACKAGE / name).glob("*.py")]
    return [*(path for path in PACKAGE.rglob("*.py") if path not in linked), *linked]


def strings(path: Path) -> str:
    """What a module's strings say, one a line, docstrings and messages to people left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join(text for text in found if not text.rstrip().endswith("."))


def with_sql(pattern: re.Pattern[str]) -> set[str]:
    return {str(path.relative_to(PACKAGE)) for path in modules() if pattern.search(strings(path))}


def test_no_room_has_more_files_than_one_can_know():
    # What `python -m` runs has one line.
    known = [path for path in modules() if path.name != "__main__.py"]
    rooms = Counter(path.parent.relative_to(PACKAGE).as_posix() for path in known)
    assert {room: count for room, count in rooms.items() if count > MOST_FILES and room not in LARGE} == {}


def test_sql_on_system_tables_is_at_home_in_lake_and_results():
    assert {path for path in with_sql(SQL) if path.partition("/")[0] not in ("lake", "results")} == set()


def test_requests_are_read_and_written_in_one_module():
    assert with_sql(REQUESTS) - {"results/migration/layouts.py"} == {"lake/requests.py"}


def test_no_room_imports_one_that_imports_it_by_whatever_way():
    """import-linter knows of the packages right in `tidemill`; this knows of those within them too."""
    graph = grimp.build_graph("tidemill")
    below: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            if room_of(module) != room_of(imported):
                below[room_of(module)].add(room_of(imported))
    assert len(below) > 15
    # Raises CycleError with the rooms of a circle.
    assert "tidemill.cli" in list(TopologicalSorter(below).static_order())
    assert set(below) - set().union(*below.values()) == {"tidemill.cli", "tidemill.api"}


def room_of(module: str) -> str:
    is_package = ROOT.joinpath(*module.split("."), "__init__.py").exists()
    return module if is_package else module.rpartition(".")[0]


@pytest.mark.parametrize("path", ["running/run.py", "flows/run.py", "tasks/infer.py", "lake/ledger.py"])
def test_the_search_sees_every_kind_of_module(path):
    assert PACKAGE / path in modules()
