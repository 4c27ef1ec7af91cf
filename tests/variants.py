"""Variants of a test: the suite runs some of them, `make slow` the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def variants(values: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """For `parametrize`: those that are not `quick` are slow tests."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]
