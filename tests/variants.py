"""Variants of a test: the suite runs some of them, `make soak` the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def variants(values: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """For `parametrize`: those that are not `quick` are soak tests."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.soak) for value in values]
