"""What others may build on: the names of `tidemill`, and the tree of errors."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys

import pytest

import tidemill
from tests.pipelines import ROOT
from tidemill import errors


def loaded_by_the_public_import() -> list[str]:
    """In a process of its own, which then has loaded nothing but Python's own modules."""
    script = (
        "import sys; before = set(sys.modules); import tidemill; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_public_names_are_these_and_no_others():
    assert sorted(tidemill.__all__) == [
        "Lake",
        "Pipeline",
        "Run",
        "RunResult",
        "TidemillError",
        "__version__",
        "load_pipeline",
        "make_plan",
        "plan",
        "run",
        "sql",
        "status",
        "verify",
    ]


@pytest.mark.parametrize("name", tidemill.__all__)
def test_a_public_name_can_be_used(name):
    found = getattr(tidemill, name)
    assert isinstance(found, str) or found.__module__.startswith("tidemill.")
    assert name in dir(tidemill)


def test_type_checkers_are_told_of_the_same_names_in_the_same_places():
    stub = ast.parse((ROOT / "tidemill" / "__init__.pyi").read_text())
    told = {name.name: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert told == vars(tidemill)["_MODULES"]


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'tidemill' has no attribute 'runn'"):
        getattr(tidemill, "runn")  # noqa: B009


def test_importing_tidemill_loads_nothing_heavy():
    assert loaded_by_the_public_import() == ["tidemill"]


def drawn_tree() -> dict[str, str]:
    """error → its parent, as drawn in the docstring of `tidemill.errors`."""
    parents, path = {}, ["TidemillError"]
    for indent, name in re.findall(r"^ {4}([│ ]*)[├└]── (\w+)", errors.__doc__ or "", flags=re.MULTILINE):
        depth = len(indent) // 4 + 1
        parents[name] = path[depth - 1]
        path[depth:] = [name]
    return parents


def error_classes() -> dict[str, type[errors.TidemillError]]:
    found = inspect.getmembers(errors, inspect.isclass)
    return {name: cls for name, cls in found if issubclass(cls, errors.TidemillError)}


def test_the_tree_of_errors_in_the_docstring_is_that_of_the_classes():
    classes = {name: cls for name, cls in error_classes().items() if cls is not errors.TidemillError}

    assert drawn_tree() == {name: cls.__mro__[1].__name__ for name, cls in classes.items()}


def test_wrong_input_exits_2_and_everything_else_1():
    for name, cls in error_classes().items():
        assert cls.exit_code == (2 if issubclass(cls, errors.InputError) else 1), name


def test_only_the_branch_of_retryable_errors_is_retried():
    for name, cls in error_classes().items():
        assert cls.retryable == issubclass(cls, errors.RetryableError), name
